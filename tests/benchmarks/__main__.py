"""`python -m tests.benchmarks`: runs the rows, prints a table, and writes build/bench.json with the raw figures."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from infra.embedded.servers import EmbeddedServers
from tests.benchmarks import control, encoders, fairness, seam, submit

ROWS = {
    "encoders": encoders.measure,
    "control": control.measure,
    "submit": submit.measure,
    "fair": fairness.measure,
    "seam": seam.measure,
}
REPORT = Path("build/bench.json")


@click.command()
@click.argument("rows", nargs=-1, type=click.Choice(list(ROWS)))
def main(rows: tuple[str, ...]) -> None:
    """Measure ROWS (default: all of them)."""
    results = {}
    with EmbeddedServers() as servers:
        for name in rows or ROWS:
            results[name] = ROWS[name](servers)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(results, indent=2) + "\n")
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
    Console().print(table)
    Console().print(f"raw figures: {REPORT}")


main()
