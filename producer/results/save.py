"""Saves a batch's outputs with its table beside them: into a folder that a later run completes, or as one tar.

Each file is wholly there or not at all. An output that is gone is noted in its row, and the rest goes on; a store that
does not answer ends the run. Rows come and go one by one, so memory stays flat.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from common.atomic_file import atomic_file
from common.errors import FillfleetError, Rejected, Transient
from producer.results.columns import Row
from producer.results.file_names import FileNames
from producer.results.ndjson import read_ndjson, to_json, write_ndjson
from producer.results.outputs import DROPPED, Output, OutputStore, fetch_output, outputs_of, reason
from producer.results.parquet import write_parquet

T = TypeVar("T")

THREADS: Final = 8
"""Enough to hide the store's latency; each holds one output (a few MB) at a time."""


@dataclass(frozen=True)
class Saved:
    """What was saved so far."""

    rows: int = 0
    fetched: int = 0
    """Outputs that were downloaded."""
    kept: int = 0
    """Outputs that an earlier run had downloaded."""
    missing: int = 0
    """Outputs that are gone for good, such as by retention."""
    failed: int = 0
    """Outputs that did not arrive; running again tries them again."""
    dropped: int = 0
    """Outputs that the safety checker flagged, and of which nothing was ever stored."""

    @property
    def complete(self) -> bool:
        """Whether every output is there that was stored."""
        return not self.missing and not self.failed


@dataclass(frozen=True)
class _Had:
    """One output, or why there is none. `data` is not kept where it has been written already."""

    error: FillfleetError | None = None
    kept: bool = False
    data: bytes = b""


Progress = Callable[[Saved], object]


def save_folder(
    rows: Iterable[Row],
    store: OutputStore,
    folder: Path,
    *,
    extra_columns: Sequence[str] = (),
    threads: int = THREADS,
    progress: Progress | None = None,
) -> Saved:
    """Write each output to FOLDER/{custom_id or row}[-n].ext, then results.jsonl and results.parquet.

    Outputs that are there with the right sha256 stay. `files` and `file_errors` of each row tell where they lie.
    Raises Unavailable, and FillfleetError where the folder cannot be written to; a later run goes on from there.
    """
    counter = _Counter(progress)

    def work(item: tuple[Row, list[str]]) -> list[_Had]:
        row, files = item
        return [_to_file(output, store, folder / name) for output, name in zip(outputs_of(row), files, strict=True)]

    def finished() -> Generator[Row, None, None]:
        with FileNames() as names:
            named = ((row, names.outputs(row, _extension(row))) for row in rows)
            with closing(_in_order(named, work, threads=threads, ahead=4 * threads)) as done:
                for (row, files), had in done:
                    counter.add(had)
                    yield _noted(row, files, had)

    _write_tables(finished(), folder / "results", extra_columns)
    return counter.saved


def save_tar(
    rows: Iterable[Row],
    store: OutputStore,
    target: Path,
    *,
    extra_columns: Sequence[str] = (),
    threads: int = THREADS,
    progress: Progress | None = None,
) -> Saved:
    """Write a WebDataset: KEY.image.png (of several: KEY.image-0.png …) and KEY.json for each row with an output.

    Beside x.tar lie x.results.jsonl and x.results.parquet with all rows. The tar is x.tar.partial until it is whole;
    a later run begins it anew. Raises as `save_folder` does.
    """
    counter = _Counter(progress)

    def work(row: Row) -> list[_Had]:
        return [_to_memory(output, store) for output in outputs_of(row)]

    def finished(tar: tarfile.TarFile) -> Generator[Row, None, None]:
        with FileNames() as names, closing(_in_order(rows, work, threads=threads, ahead=threads)) as done:
            for row, had in done:
                counter.add(had)
                yield _to_tar(tar, row, names, had)

    partial_file = target.with_name(target.name + ".partial")
    with _disk_errors_in_words(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(partial_file, "w") as tar:
            _write_tables(finished(tar), target.parent / f"{target.stem}.results", extra_columns)
        os.replace(partial_file, target)
    return counter.saved


class _Counter:
    def __init__(self, progress: Progress | None) -> None:
        self.saved = Saved()
        self._progress = progress

    def add(self, had: Sequence[_Had]) -> None:
        """Count one more row."""
        dropped = sum(one.error is not None and one.error.code == DROPPED for one in had)
        missing = sum(isinstance(one.error, Rejected) for one in had) - dropped
        failed = sum(one.error is not None for one in had) - missing - dropped
        kept = sum(one.kept for one in had)
        so_far = self.saved
        self.saved = Saved(
            rows=so_far.rows + 1,
            fetched=so_far.fetched + len(had) - missing - failed - dropped - kept,
            kept=so_far.kept + kept,
            missing=so_far.missing + missing,
            failed=so_far.failed + failed,
            dropped=so_far.dropped + dropped,
        )
        if self._progress is not None:
            self._progress(self.saved)


def _to_memory(output: Output, store: OutputStore) -> _Had:
    try:
        return _Had(data=fetch_output(output, store))
    except (Rejected, Transient) as error:
        return _Had(error=error)


def _to_file(output: Output, store: OutputStore, target: Path) -> _Had:
    with _disk_errors_in_words(target.parent):
        if _is_there(output, target):
            return _Had(kept=True)
        had = _to_memory(output, store)
        if had.error is None:
            with atomic_file(target) as file:
                file.write(had.data)
        return _Had(error=had.error)


def _is_there(output: Output, target: Path) -> bool:
    if output.sha256 is None or not target.is_file() or output.bytes not in {None, target.stat().st_size}:
        return False
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == output.sha256


def _to_tar(tar: tarfile.TarFile, row: Row, names: FileNames, had: Sequence[_Had]) -> Row:
    if all(one.error is not None for one in had):
        return _noted(row, [""] * len(had), had)
    key, extension = names.key(row), _extension(row)
    images = ["image" if len(had) == 1 else f"image-{number}" for number in range(len(had))]
    files = [f"{key}.{image}.{extension}" for image in images]
    noted = _noted(row, files, had)
    add = partial(_add, tar, ended_at=row.get("ended_at"))
    for name, one in zip(files, had, strict=True):
        if one.error is None:
            add(name, one.data)
    add(f"{key}.json", to_json(noted).encode())
    return noted


def _add(tar: tarfile.TarFile, name: str, data: bytes, *, ended_at: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mtime = int(ended_at.timestamp()) if isinstance(ended_at, datetime) else 0
    tar.addfile(member, io.BytesIO(data))


def _noted(row: Row, files: Sequence[str], had: Sequence[_Had]) -> Row:
    if row.get("outputs") is None:
        return {**row, "files": None, "file_errors": None}
    return {
        **row,
        "files": [name if one.error is None else None for name, one in zip(files, had, strict=True)],
        "file_errors": [None if one.error is None else reason(one.error) for one in had],
    }


def _write_tables(rows: Generator[Row, None, None], stem: Path, extra_columns: Sequence[str]) -> None:
    """Write STEM.jsonl as the rows come, then STEM.parquet from it."""
    lines = stem.with_name(f"{stem.name}.jsonl")
    with _disk_errors_in_words(stem.parent):
        with closing(rows), atomic_file(lines) as file:
            file.writelines(write_ndjson(rows))
        with lines.open("rb") as source, atomic_file(stem.with_name(f"{stem.name}.parquet")) as file:
            file.writelines(write_parquet(read_ndjson(source), extra_columns, saved=True))


def _in_order(
    items: Iterable[T], work: Callable[[T], list[_Had]], *, threads: int, ahead: int
) -> Generator[tuple[T, list[_Had]], None, None]:
    """Yield (item, its outcome) in the order of `items`, of which at most `ahead` are under way at a time."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="save")
    under_way: deque[tuple[T, Future[list[_Had]]]] = deque()
    try:
        for item in items:
            under_way.append((item, pool.submit(work, item)))
            if len(under_way) >= ahead:
                first, future = under_way.popleft()
                yield first, future.result()
        while under_way:
            first, future = under_way.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _disk_errors_in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError):
            raise  # not the disk's: HTTP libraries, which rows may come from, have theirs of this type
        raise FillfleetError(
            "folder_unwritable",
            f"{folder}: {error.strerror or error}; mend that and run again: what is there already is kept",
        ) from error


def _extension(row: Row) -> str:
    form = row.get("output_format")
    return form if isinstance(form, str) and form.isalnum() else "bin"
