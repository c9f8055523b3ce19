"""Brings a manifest into a batch: reads it, puts its files into the bucket, sends its rows in chunks, opens the batch.

It may be killed at any line and run again: what the fleet has is neither uploaded nor made a second time. While one
chunk is sent the next one is read and judged.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from common.contract import BatchState
from producer.batches import Batch
from producer.doors.door import Door
from producer.input_files import InputFiles
from producer.intake import CHUNK_ROWS, Taken
from producer.manifest import BadRow, InlineContent, ManifestRow
from producer.manifest.open import Manifest

_CHUNK_BYTES: Final = 64 * 1024 * 1024
"""What the rows of a chunk may hold: bytes of files, as those of a tar do, and long texts; it lies in memory."""
_ITEM_BYTES: Final = 64
"""Of one item of a list or an object that a row passes through: about what Python takes for it."""
_ALLOCATIONS: Final = 10_000
"""By default it is 700. With far more, what the database's driver leaves behind would pile up over a million rows."""

Rows = Sequence[ManifestRow | BadRow]


@dataclass(frozen=True)
class Progress:
    """How far a submission is."""

    rows: int = 0
    """Rows of the manifest that were read."""
    new: int = 0
    same: int = 0
    """Rows that the batch had already."""
    rejected: int = 0

    def plus(self, taken: Taken, rows: int) -> Progress:
        """Return this and what became of a further chunk."""
        return Progress(rows, self.new + taken.new, self.same + taken.same, self.rejected + taken.rejected)


def submit(
    manifest: Manifest,
    door: Door,
    batch: Batch,
    files: InputFiles,
    on_progress: Callable[[Progress], None] = lambda _: None,
    *,
    rewinds: bool = True,
    chunk_rows: int = CHUNK_ROWS,
) -> tuple[Batch, Progress]:
    """Send all rows of `manifest` to `batch` and open it; returns the batch as it is then, and what was sent.

    Where the batch is still being received, and what it has so far is the beginning of this very manifest, it goes on
    behind that, unless it cannot be read twice (`rewinds`). Raises ManifestError, and whatever the door raises.
    """
    progress = Progress()
    with _collecting_rarely(), ThreadPoolExecutor(1, thread_name_prefix="send") as sender:
        sending: Future[Taken] | None = None
        sent = 0
        for chunk, digest in _unsent(partial(_digested, manifest, files, chunk_rows), batch, rewinds=rewinds):
            upto = chunk[-1].number
            send = door.prepare(batch, chunk, upto=upto, digest=digest)
            if sending is not None:
                progress = progress.plus(sending.result(), sent)
                on_progress(progress)
            sent = upto
            sending = sender.submit(send)
            del chunk, send  # while the next one is read, this one lives only as long as it is sent
        if sending is not None:
            progress = progress.plus(sending.result(), sent)
            on_progress(progress)
    return door.open(batch), progress


def chunks(manifest: Manifest, max_rows: int = CHUNK_ROWS) -> Iterator[Rows]:
    """Cut the rows into chunks: the same ones at every reading of the same manifest."""
    chunk: list[ManifestRow | BadRow] = []
    size = 0
    for row in manifest.rows():
        chunk.append(row)
        if isinstance(row, ManifestRow):
            size += _size(row)
        if len(chunk) >= max_rows or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _size(row: ManifestRow) -> int:
    """Return about how many bytes a row holds."""
    size = sum(len(content.data) for content in row.files.values() if isinstance(content, InlineContent))
    for values in (row.body, row.extra):
        for value in values.values():
            if isinstance(value, str):
                size += len(value)
            elif isinstance(value, list | dict):
                size += _nested_size(value)
    return size


def _nested_size(value: Any) -> int:
    size = 0
    stack = [value]
    while stack:
        inner = stack.pop()
        size += _ITEM_BYTES
        if isinstance(inner, str):
            size += len(inner)
        elif isinstance(inner, list):
            stack.extend(inner)
        elif isinstance(inner, dict):
            stack.extend(inner)
            stack.extend(inner.values())
    return size


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Look for cyclic garbage less often: rows are many and make none, and the search took a fifth of the time."""
    usual = gc.get_threshold()
    gc.set_threshold(_ALLOCATIONS, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _unsent(
    read: Callable[[], Iterator[tuple[Rows, str]]], batch: Batch, *, rewinds: bool
) -> Iterator[tuple[Rows, str]]:
    """Yield what the batch does not have yet, with the digest of all rows up to there."""
    if batch.state is BatchState.RECEIVING and batch.cursor > 0 and rewinds:
        reading = read()
        for chunk, digest in reading:
            if chunk[-1].number < batch.cursor:
                continue
            if chunk[-1].number == batch.cursor and digest == batch.digest:
                yield from reading
                return
            break  # another manifest, or another one by now: the fleet compares every row
    yield from read()


def _digested(manifest: Manifest, files: InputFiles, chunk_rows: int) -> Iterator[tuple[Rows, str]]:
    digest = hashlib.blake2b(digest_size=16)
    for chunk in chunks(manifest, chunk_rows):
        resolved = files.resolve(chunk)
        digest.update(repr([_said(row) for row in resolved]).encode("utf-8", "surrogatepass"))
        yield resolved, digest.hexdigest()
        del chunk, resolved


def _said(row: ManifestRow | BadRow) -> object:
    if isinstance(row, BadRow):
        return (row.number, row.custom_id, row.field, row.reason)
    return (row.number, row.custom_id, row.body, row.extra)
