"""`python -m tests.benchmarks`: runs the rows, prints a table, and writes build/bench.json with the raw figures."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import diffusers
import structlog
from rich.console import Console
from rich.table import Table

from infra.embedded.servers import EmbeddedServers
from tests.benchmarks import cache, control, encoders, fairness, headline, lora, mask, occupancy, seam, submit
from tests.benchmarks.picture import draw_rows

ROWS: dict[str, Callable[[EmbeddedServers], dict[str, Any]]] = {
    "headline": headline.measure,
    "occupancy": occupancy.measure,
    "mask": mask.measure,
    "encoders": encoders.measure,
    "cache": cache.measure,
    "lora": lora.measure,
    "control": control.measure,
    "submit": submit.measure,
    "fair": fairness.measure,
    "seam": seam.measure,
}
REPORT = Path("build/bench.json")
PICTURE = Path("build/bench.png")


@click.command()
@click.argument("rows", nargs=-1, type=click.Choice(list(ROWS)))
def main(rows: tuple[str, ...]) -> None:
    """Measure ROWS (default: all of them). Exits with 1 where a target does not hold."""
    diffusers.utils.logging.set_verbosity_error()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    console = Console()
    results = {}
    with EmbeddedServers() as servers:
        for name in rows or ROWS:
            began = time.monotonic()
            with console.status(f"{name} …"):
                results[name] = ROWS[name](servers)
            seconds = results[name]["raw"]["measured_in_seconds"] = round(time.monotonic() - began)
            console.print(f"{name}: {seconds} s")
            _write(results)
    console.print(_table(results))
    console.print(f"raw figures: {REPORT}, and as a picture: {PICTURE}")
    if not all(row["holds"] for row in results.values()):
        raise SystemExit(1)


def _write(results: dict[str, dict[str, Any]]) -> None:
    # After each row: what was measured is there even if a later one is interrupted.
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(results, indent=2) + "\n")
    draw_rows(results, PICTURE)


def _table(results: dict[str, dict[str, Any]]) -> Table:
    table = Table("row", "ours", "peer", "ratio", "target", "holds", title="Benchmarks (medians of the rounds)")
    for name, row in results.items():
        table.add_row(
            name,
            f"{row['ours']:.2f} {row['unit']}",
            f"{row['peer']:.2f} {row['unit']}",
            f"{row['ratio']:.2f}",
            str(row["target"]),
            "yes" if row["holds"] else "NO",
        )
    return table


main()
