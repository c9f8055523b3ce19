"""`fillfleet report`: writes an HTML page about a batch, which opens without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import click

from producer.cli.command import GO_ON, BatchCommand, json_option
from producer.cli.connection import Access, connected
from producer.cli.figures import count
from producer.cli.progress import shown

SAMPLE: Final = 200


@click.command(cls=BatchCommand)
@click.argument("batch")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default="report.html",
    show_default=True,
    metavar="FILE",
    help="The page to write.",
)
@click.option(
    "--sample", type=click.IntRange(1), default=SAMPLE, show_default=True, metavar="N", help="Rows with pictures."
)
@json_option
@click.pass_context
def report(ctx: click.Context, access: Access, batch: str, output: Path, sample: int, as_json: bool) -> None:
    """Write an HTML page about a batch: before, mask and after, errors by cause, rates and times."""
    from producer.report.write import Progress, write_report  # it brings along what draws

    ctx.meta[GO_ON] = "No page was written; the same command begins anew."
    line = "reading"

    def on_progress(progress: Progress) -> None:
        nonlocal line
        line = f"{count(progress.rows, 'row')} of {count(progress.total)}"
        if progress.wanted:
            line = f"{count(progress.pictures, 'picture')} of {count(progress.wanted)}"

    with connected(access) as fleet:
        found = fleet.door.find(batch)
        with shown(lambda: line, quiet=access.quiet):
            write_report(fleet.door, found, output, sample=sample, on_progress=on_progress)
    if as_json:
        click.echo(json.dumps({"batch": found.id.hex, "file": str(output)}))
    elif not access.quiet:
        click.echo(f"{output} is written.")
