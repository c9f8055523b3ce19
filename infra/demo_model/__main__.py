"""`python -m infra.demo_model train` makes the demo model and its LoRAs anew, `measure` says how well it fills.

`regions` says what becomes of that where only crops around the mask are generated, `profiles` under FILL_PROFILE=fast.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

# As in worker/cli.py, before any command imports torch: its threads must not spin against what else runs here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@click.group()
def main() -> None:
    """Train and measure the demo model."""


@main.command()
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/demo-model"),
    show_default=True,
    help="Folder for checkpoints and logs; a run that was killed goes on from there.",
)
def train(work: Path) -> None:
    """Train VAE, transformer, decoder and LoRAs, one after the other, and put them in place. Takes hours on a CPU."""
    from infra.demo_model.training import train_all

    train_all(work)
    click.echo("the demo model and its LoRAs are in place; `python -m infra.demo_model measure` says how good they are")


@main.command()
@click.option("--scenes", type=click.IntRange(1), default=100, show_default=True, help="How many held-out scenes.")
@click.option("--steps", type=click.IntRange(1, 50), default=28, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def measure(scenes: int, steps: int, as_json: bool) -> None:
    """Fill held-out scenes as a worker does, with and without a prompt, and print how well."""
    from infra.demo_model.measuring import by_worker
    from infra.demo_model.quality import measure as measure_quality
    from infra.demo_model.quality_table import as_data, as_lines

    quality = measure_quality(by_worker(steps), range(scenes))
    if as_json:
        click.echo(json.dumps(as_data(quality), indent=2))
    else:
        for line in as_lines(quality):
            click.echo(line)


@main.command()
@click.option("--scenes", type=click.IntRange(1), default=40, show_default=True, help="How many held-out scenes.")
@click.option("--side", "sides", type=click.IntRange(256, 1536), multiple=True, default=(512, 1024), show_default=True)
@click.option("--steps", type=click.IntRange(1, 50), default=28, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def regions(scenes: int, sides: tuple[int, ...], steps: int, as_json: bool) -> None:
    """Fill scenes with small masks under region full and auto, and print how well each does."""
    from infra.demo_model.region_comparison import as_data, as_lines, compare

    comparisons = [compare(side, range(scenes), steps) for side in sides]
    if as_json:
        click.echo(json.dumps(as_data(comparisons), indent=2))
    else:
        for line in as_lines(comparisons):
            click.echo(line)


@main.command()
@click.option("--scenes", type=click.IntRange(1), default=40, show_default=True, help="How many held-out scenes.")
@click.option("--steps", type=click.IntRange(1, 50), multiple=True, default=(28, 20), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def profiles(scenes: int, steps: tuple[int, ...], as_json: bool) -> None:
    """Fill held-out scenes under profile exact and several ways of fast, and print how far apart they are."""
    from infra.demo_model.profile_comparison import as_data, as_lines, compare

    for count in steps:
        ways = compare(count, range(scenes))
        if as_json:
            click.echo(json.dumps(as_data(ways)))
        else:
            for line in (*as_lines(ways), ""):
                click.echo(line)


if __name__ == "__main__":
    main()
