"""`fillfleet submit`: brings a manifest into a batch, or with --check only judges it.

It may be stopped or killed at any line: the same command goes on, and makes no row twice.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from common.contract import BatchState
from common.errors import Rejected, Transient, Unavailable
from common.lifecycle import NewBatch
from producer.batch_wire import BatchWire
from producer.batches import Batch
from producer.cli.command import BAD_ROWS, GO_ON, BatchCommand
from producer.cli.connection import LONG_PATIENCE_SECONDS, PATIENCE_SECONDS, Access, Fleet, connected
from producer.cli.figures import count, rate_text, size_text
from producer.cli.progress import shown
from producer.cli.reading import CountedStore, Reading
from producer.cli.rejects import rejects_path, write_rejects
from producer.cli.submit_options import Wish, submit_options, wish_of
from producer.input_files import MAX_BYTES, InputFiles
from producer.input_journal import InputJournal
from producer.manifest.open import open_manifest
from producer.manifest.options import options_to_json
from producer.submission import Progress
from producer.submission import submit as send_all

if TYPE_CHECKING:
    from collections.abc import Callable

_PAUSES_SECONDS: Final = (1.0, 3.0, 10.0, 30.0)
"""Before a submission that an outage has broken off goes on by itself; then it is the user's turn."""


@dataclass(frozen=True)
class Sent:
    """What has become of a submission."""

    batch: Batch
    rows: int
    """Rows that were read."""
    new: int
    rejects: Path | None = None
    """Where the bad rows are listed, if there are any."""

    @property
    def same(self) -> int:
        """Rows that the batch had already."""
        return 0 if self.refused else max(0, self.rows - self.new - self.batch.rejected)

    @property
    def refused(self) -> bool:
        """Whether bad rows have kept a strict batch from being started."""
        return self.batch.state is BatchState.CANCELLED and self.batch.strict and self.batch.rejected > 0


@click.command(cls=BatchCommand)
@submit_options
@click.pass_context
def submit(ctx: click.Context, /, access: Access, **given: Any) -> None:
    """Bring a manifest into a batch, and start it.

    MANIFEST is a JSONL, CSV, TSV or Parquet file, a folder of images and masks, WebDataset tars, an image folder with
    metadata, the s3:// prefix of any of these, or - for stdin. Local images and masks are uploaded, each once.

    \b
    fillfleet submit photos/ --prompt "an empty room" --watch
    fillfleet submit products.csv --image-col url --size 1024*1024

    Killed or broken off, the same command goes on where it was. Exit codes: 0 fine, 1 error, 2 wrong usage, 3 rows
    failed (--watch), 4 bad rows (--check, --strict).
    """
    wish = wish_of(given)
    ctx.meta[GO_ON] = "The same command goes on where it was; nothing is made twice."
    patience = LONG_PATIENCE_SECONDS if wish.from_stdin else PATIENCE_SECONDS
    with connected(access, patience_seconds=patience) as fleet:
        if wish.check:
            from producer.cli.check import check  # Pillow takes a while to import

            ctx.meta[GO_ON] = "Nothing was written or uploaded."
            sys.exit(check(wish, fleet, quiet=access.quiet))
        sent = _hand_over(wish, fleet) if _read_by_fleet(wish, fleet) else _send(wish, fleet, quiet=access.quiet)
        _tell(sent, wish, access)
        if sent.refused:
            where = f"; they are in {sent.rejects}" if sent.rejects else ""
            click.echo(f"fillfleet: {sent.batch.error}{where}", err=True)
            sys.exit(BAD_ROWS)
        if wish.watch:
            from producer.cli.watch import follow

            ctx.meta[GO_ON] = f"The batch goes on; `fillfleet watch {_named(sent.batch)}{access.again}` looks again."
            sys.exit(follow(fleet.door, sent.batch, quiet=access.quiet, as_json=wish.as_json))


def open_wished(wish: Wish, fleet: Fleet) -> Reading:
    """Return the manifest, open. Raises ManifestError, and Rejected where only the fleet could read it."""
    if _read_by_fleet(wish, fleet):
        raise Rejected("manifest_remote", f"{wish.source} can only be read by the fleet itself; download it first")
    return Reading(open_manifest(wish.source, wish.options, objects=fleet.objects), wish.limit)


def max_file_bytes(fleet: Fleet) -> int:
    """Return the largest file that the fleet takes, as far as that is known here."""
    if fleet.settings is not None:
        return fleet.settings.upload_max_bytes
    said: int = getattr(fleet.door.inputs, "max_bytes", MAX_BYTES)
    return said


def _read_by_fleet(wish: Wish, fleet: Fleet) -> bool:
    return wish.is_remote and (fleet.objects is None or not wish.source.lower().startswith("s3://"))


def _hand_over(wish: Wish, fleet: Fleet) -> Sent:
    """Have the fleet read a manifest that lies where it can read it."""
    if wish.limit is not None:
        raise click.UsageError("--limit needs a manifest that is read here; download it first")
    local = [name for name in ("masks", "root") if getattr(wish.options, name) is not None]
    if wish.options.mask is not None and "://" not in wish.options.mask:
        local.append("mask")
    if local:
        raise click.UsageError(
            f"--{local[0]} is on this machine, and {wish.source} is read by the fleet: name a URL, or download it first"
        )
    name = wish.name or wish.source.partition("?")[0].rstrip("/").rpartition("/")[2]
    manifest = {"source": wish.source, "options": options_to_json(wish.options)}
    return Sent(fleet.door.start(_new_batch(wish, name, manifest)), rows=0, new=0)


def _new_batch(wish: Wish, name: str, manifest: dict[str, Any] | None = None) -> NewBatch:
    return NewBatch(name, wish.defaults, wish.strict, wish.priority, wish.webhook, manifest)


def _send(wish: Wish, fleet: Fleet, *, quiet: bool) -> Sent:
    manifest = open_wished(wish, fleet)
    if not wish.from_stdin:
        with closing(manifest.rows()) as rows:
            next(rows, None)  # what cannot be read at all becomes no batch
    batch = fleet.door.start(_new_batch(wish, wish.name or manifest.name))
    journal = InputJournal()
    store = CountedStore(fleet.door.inputs)
    line = _Line(manifest, store)

    def attempt(batch: Batch) -> Batch:
        return send_all(manifest, fleet.door, batch, files, line.sent, rewinds=not wish.from_stdin)[0]

    with (
        closing(journal),
        InputFiles(journal, store, max_bytes=max_file_bytes(fleet)) as files,
        shown(line.text, quiet=quiet) as note,
    ):
        batch = attempt(batch) if wish.from_stdin else _steadily(attempt, fleet, batch, line, note)
    path = rejects_path(wish.rejects, batch.name)
    written = batch.rejected > 0 and write_rejects(path, fleet.door.rejects(batch))
    if not written and wish.rejects is None:
        path.unlink(missing_ok=True)  # of an earlier time, when rows were bad that have been mended since
    return Sent(batch, manifest.read, line.new, path if written else None)


def _steadily(
    attempt: Callable[[Batch], Batch], fleet: Fleet, batch: Batch, line: _Line, note: Callable[[str], None]
) -> Batch:
    """Submit a manifest that can be read again, and after an outage go on by itself."""
    tries, rows = 0, 0
    while True:
        try:
            return attempt(batch)
        except (Transient, Unavailable) as error:
            if line.progress.rows > rows:
                tries, rows = 0, line.progress.rows
            if tries >= len(_PAUSES_SECONDS):
                raise
            note(f"{error.message.partition(';')[0]}; trying again in {_PAUSES_SECONDS[tries]:.0f} s")
            time.sleep(_PAUSES_SECONDS[tries])
            tries += 1
            line.again()
            batch = _found_again(fleet, batch)


def _found_again(fleet: Fleet, batch: Batch) -> Batch:
    try:
        return fleet.door.find(batch.id.hex)
    except (Transient, Unavailable):
        return batch  # older than it could be, which only makes more to compare


class _Line:
    """How far it is, in one line."""

    def __init__(self, manifest: Reading, store: CountedStore) -> None:
        self.progress = Progress()
        self._manifest = manifest
        self._store = store
        self._before = Progress()
        self._began = time.monotonic()

    @property
    def new(self) -> int:
        """Rows that this command has made, in all tries."""
        return self._before.new + self.progress.new

    def sent(self, progress: Progress) -> None:
        """Take note of a further chunk."""
        self.progress = progress

    def again(self) -> None:
        """Begin another try."""
        self._before = replace(self._before, new=self.new)
        self.progress = Progress()

    def text(self) -> str:
        """Return the line."""
        progress, read = self.progress, self._manifest.read
        parts = [f"{count(read, 'row')} read"]
        if self._store.files:
            parts.append(f"{count(self._store.files, 'file')} uploaded ({size_text(self._store.bytes)})")
        parts.append(f"{count(self.new)} new")
        if progress.same:
            parts.append(f"{count(progress.same)} already there")
        if progress.rejected:
            parts.append(f"{count(progress.rejected)} bad")
        parts.append(rate_text(read / max(0.1, time.monotonic() - self._began)))
        return " · ".join(parts)


def _tell(sent: Sent, wish: Wish, access: Access) -> None:
    batch = sent.batch
    if wish.as_json:
        counts = {"rows": sent.rows, "new": sent.new, "same": sent.same}
        rejects = None if sent.rejects is None else str(sent.rejects)
        click.echo(
            json.dumps({"batch": BatchWire.of(batch).model_dump(mode="json"), **counts, "rejects_file": rejects})
        )
        return
    if access.quiet:
        click.echo(batch.id.hex)
        return
    click.echo(f"Batch {batch.name} ({batch.id.hex})")
    if batch.read_by_server and batch.state is BatchState.RECEIVING:
        click.echo("  the fleet reads its manifest now, and starts it then")
    elif batch.read_by_server:
        click.echo(f"  the fleet has read its manifest already: {count(batch.counts.total, 'row')}")
    else:
        click.echo(f"  new rows       {count(sent.new):>12}")
        click.echo(f"  already there  {count(sent.same):>12}")
        where = f"  see {sent.rejects}" if sent.rejects else ""
        click.echo(f"  bad rows       {count(batch.rejected):>12}{where}")
    if batch.state is BatchState.CANCELLED:
        if not sent.refused:
            click.echo(f"It is cancelled: `fillfleet retry {_named(batch)}{access.again}` lets it go on.")
        return
    if batch.state is BatchState.PAUSED:
        click.echo(f"It is paused: `fillfleet resume {_named(batch)}{access.again}` lets it go on.")
    if not wish.watch:
        click.echo("Next:")
        click.echo(f"  fillfleet watch {_named(batch)}{access.again}")
        click.echo(f"  fillfleet results {_named(batch)}{access.again} -o results.parquet")


def _named(batch: Batch) -> str:
    return shlex.quote(batch.name)
