"""`fillfleet results`: a batch's table as Parquet, CSV or JSONL, its outputs in a folder or a tar, its failed rows as a
manifest. A table appears under its name only when it is whole; a folder goes on where an earlier run stopped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import click

from common.contract import Status
from common.errors import Transient, Unavailable
from producer.batches import Batch
from producer.cli.command import GO_ON, BatchCommand, Option, json_option
from producer.cli.connection import Access, connected
from producer.cli.figures import count, rate_text
from producer.cli.progress import shown
from producer.cli.results_target import FOLDER, TAR, Target, claim, partial_file, target_of
from producer.doors.door import Door
from producer.results.ndjson import write_ndjson
from producer.results.read import Position, RowFilter
from producer.results.resubmit import write_resubmit

STDOUT: Final = "-"
_ROWS: Final = "Which rows"
_PAUSES_SECONDS: Final = (1.0, 3.0, 10.0, 30.0)
Row = dict[str, Any]


@click.command(cls=BatchCommand)
@click.argument("batch")
@click.option(
    "-o",
    "--output",
    metavar="TARGET",
    help="x.parquet, x.csv or x.jsonl: the table. FOLDER/ or x.tar: the outputs, too. -: the table as JSONL to stdout.",
)
@click.option("--uris", is_flag=True, help="With FOLDER/: only the tables, in which outputs are s3:// URIs.")
@click.option(
    "--resubmit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the failed rows as a manifest (JSONL) that can be submitted as it is.",
)
@click.option("--failed", cls=Option, section=_ROWS, is_flag=True, help="Only failed rows: --status failed.")
@click.option(
    "--status",
    "statuses",
    cls=Option,
    section=_ROWS,
    multiple=True,
    type=click.Choice([status.value for status in Status]),
    help="Only rows in this state; may be repeated.",
)
@click.option(
    "--error",
    "errors",
    cls=Option,
    section=_ROWS,
    multiple=True,
    metavar="CODE",
    help="Only rows that failed so; may be repeated. `fillfleet status BATCH` lists the codes.",
)
@json_option
@click.pass_context
def results(ctx: click.Context, /, access: Access, **given: Any) -> None:
    """Save the results of a batch, by name or id: its table, or its outputs with the table beside them.

    \b
    fillfleet results photos -o photos.parquet
    fillfleet results photos -o filled/
    fillfleet results photos --resubmit again.jsonl

    One row for each row of the manifest, also while the batch runs. A folder is completed by the same command.
    """
    ctx.meta[GO_ON] = "The same command goes on; what is saved stays."
    output: str | None = given["output"]
    if output is None and given["resubmit"] is None:
        raise click.UsageError("say where to: -o x.parquet, x.csv, x.jsonl, x.tar, FOLDER/ or -; or --resubmit FILE")
    target = None if output is None or output == STDOUT else target_of(output, uris=given["uris"])
    if output == STDOUT and given["as_json"]:
        raise click.UsageError("-o - prints the table to stdout, where --json would print, too; leave one of them out")
    wanted = _filter(given)
    with connected(access) as fleet:
        batch = fleet.door.find(given["batch"])
        saver = _Saver(fleet.door, batch, wanted, quiet=access.quiet)
        if given["resubmit"] is not None:
            saver.resubmit(given["resubmit"])
        if output == STDOUT:
            saver.print()
        elif target is not None:
            saver.save(target, uris=given["uris"])
        saver.tell(as_json=given["as_json"], printed=output == STDOUT)
    if saver.outputs.get("failed"):
        sys.exit(1)


class _Saver:
    """Saves rows of one batch, and counts what was saved."""

    def __init__(self, door: Door, batch: Batch, wanted: RowFilter, *, quiet: bool) -> None:
        self.outputs: dict[str, int] = {}
        self._door = door
        self._batch = batch
        self._wanted = wanted
        self._quiet = quiet
        self._rows = 0
        self._began = time.monotonic()
        self._written: dict[str, int] = {}
        self._resubmit: str | None = None
        self._note: Callable[[str], None] = lambda _: None

    def print(self) -> None:
        """Write the table as JSONL to stdout."""
        with self._shown():
            for piece in write_ndjson(self._all(self._wanted)):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()

    def resubmit(self, target: Path) -> None:
        """Write the failed rows as a manifest."""
        failed = RowFilter(frozenset({Status.FAILED}), self._wanted.error_codes)
        with self._shown():
            self._write(target, write_resubmit(self._all(failed)))
        self._resubmit = str(target)

    def save(self, target: Target, *, uris: bool) -> None:
        """Write the table, or the outputs with it."""
        with self._shown():
            rows, extra = self._all(self._wanted), self._batch.extra_columns
            if target.kind == FOLDER:
                claim(target.path, self._batch)
            if target.kind in {FOLDER, TAR} and not uris:
                self._with_outputs(target, rows)
            elif target.kind == FOLDER:
                from producer.results.parquet import write_parquet

                self._write(target.path / "results.jsonl", write_ndjson(rows))
                self._rows = 0
                self._write(target.path / "results.parquet", write_parquet(self._all(self._wanted), extra))
            elif target.kind == "parquet":
                from producer.results.parquet import write_parquet

                self._write(target.path, write_parquet(rows, extra))
            elif target.kind == "csv":
                from producer.results.csv import write_csv

                self._write(target.path, write_csv(rows, extra))
            else:
                self._write(target.path, write_ndjson(rows))

    def tell(self, *, as_json: bool, printed: bool) -> None:
        """Say what was saved, and what is not there yet."""
        left, name = self._batch.counts.left, self._batch.name
        if as_json:
            said = {"batch": self._batch.id.hex, "files": self._written, "outputs": self.outputs, "rows_left": left}
            click.echo(json.dumps(said))
            return
        if self._quiet:
            return
        for path, rows in self._written.items():
            none = " (nothing to submit again)" if rows == 0 and path == self._resubmit else ""
            click.echo(f"{path}: {count(rows, 'row')}{none}", err=printed)
        if self.outputs:
            had = f"{count(self.outputs['fetched'])} fetched, {count(self.outputs['kept'])} there already"
            lost = f", {count(self.outputs['missing'])} gone for good" if self.outputs["missing"] else ""
            none = f", {count(self.outputs['dropped'])} flagged and not stored" if self.outputs["dropped"] else ""
            click.echo(f"outputs: {had}{lost}{none}", err=printed)
        if self.outputs.get("failed"):
            click.echo(
                f"fillfleet: {count(self.outputs['failed'], 'output')} did not arrive; the same command tries again",
                err=True,
            )
        if left:
            click.echo(f"{name} is not over: {count(left, 'row')} left. The same command later has them all.", err=True)

    def _with_outputs(self, target: Target, rows: Iterator[Row]) -> None:
        from producer.results.save import Saved, save_folder, save_tar

        def progress(saved: Saved) -> None:
            self.outputs = {name: value for name, value in asdict(saved).items() if name != "rows"}

        save = save_folder if target.kind == FOLDER else save_tar
        saved = save(rows, self._door.outputs, target.path, extra_columns=self._batch.extra_columns, progress=progress)
        progress(saved)
        self._written[str(target.path)] = saved.rows

    def _write(self, target: Path, pieces: Iterable[bytes]) -> None:
        with partial_file(target) as file:
            file.writelines(pieces)
        self._written[str(target)] = self._rows

    def _all(self, wanted: RowFilter) -> Iterator[Row]:
        """Yield the rows, through outages that end in time. Raises as the door does."""
        self._rows = tries = 0
        place: Position | None = None
        while True:
            try:
                for row in self._door.rows(self._batch, wanted, after=place):
                    yield row
                    self._rows += 1
                    tries, place = 0, Position(row["row"], UUID(row["job_id"]))
                return
            except (Transient, Unavailable) as error:
                if tries >= len(_PAUSES_SECONDS):
                    raise
                self._note(f"{error.message.partition(';')[0]}; trying again in {_PAUSES_SECONDS[tries]:.0f} s")
                time.sleep(_PAUSES_SECONDS[tries])
                tries += 1

    @contextmanager
    def _shown(self) -> Iterator[None]:
        with shown(self._line, quiet=self._quiet) as note:
            self._note = note
            yield

    def _line(self) -> str:
        parts = [f"{count(self._rows, 'row')} of {count(self._batch.counts.total)}"]
        if self.outputs:
            parts.append(f"{count(self.outputs['fetched'] + self.outputs['kept'])} outputs")
        return " · ".join([*parts, rate_text(self._rows / max(0.1, time.monotonic() - self._began))])


def _filter(given: dict[str, Any]) -> RowFilter:
    statuses = {Status(text) for text in given["statuses"]} | ({Status.FAILED} if given["failed"] else set())
    if given["errors"]:
        if statuses - {Status.FAILED}:
            raise click.UsageError("--error is about failed rows; leave --status out")
        statuses = {Status.FAILED}
    return RowFilter(frozenset(statuses) or None, frozenset(given["errors"]) or None)
