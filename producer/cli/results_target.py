"""Where results are saved: which form a target's name says, and that nothing there is replaced that is not ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import click

from common.errors import FillfleetError
from producer.batches import Batch

FOLDER: Final = "folder"
TAR: Final = "tar"
_SUFFIXES: Final = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".tar": TAR,
}
_MARK: Final = ".fillfleet-batch"
"""In a folder of results: whose they are. Without it a folder may be the one that the images came from."""


@dataclass(frozen=True)
class Target:
    """Where results go, and in what form: a table's, FOLDER or TAR."""

    path: Path
    kind: str


def target_of(text: str, *, uris: bool) -> Target:
    """Return what the user means by `text`. Raises click.UsageError."""
    path = Path(text).expanduser()
    suffix = path.suffix.lower()
    if text.endswith(("/", os.sep)) or path.is_dir() or not suffix:
        return Target(path, FOLDER)
    if suffix not in _SUFFIXES:
        raise click.UsageError(f"-o {text}: {suffix} is no form of a table: .parquet, .csv, .jsonl, .tar or FOLDER/")
    if uris and _SUFFIXES[suffix] == TAR:
        raise click.UsageError("a tar holds the outputs themselves; for a table of URIs use -o x.parquet")
    return Target(path, _SUFFIXES[suffix])


def claim(folder: Path, batch: Batch) -> None:
    """Make the folder, or see that it holds results of this batch. Raises FillfleetError, OSError.

    Outputs have the names of the images: in the folder of those they would replace them.
    """
    mark = folder / _MARK
    if mark.is_file():
        if mark.read_text().strip() != batch.id.hex:
            raise FillfleetError("folder_taken", f"{folder} holds the results of another batch; name another folder")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise FillfleetError("folder_taken", f"{folder} is not empty; name a new folder, so that no file is replaced")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(f"{batch.id.hex}\n")


@contextmanager
def partial_file(target: Path) -> Iterator[IO[bytes]]:
    """Yield TARGET.partial to write; it becomes the target when it is whole. Raises FillfleetError."""
    partial = target.with_name(target.name + ".partial")
    try:
        if not target.parent.exists():
            target.parent.mkdir(parents=True)
        with partial.open("wb") as file:
            yield file
        os.replace(partial, target)
    except OSError as error:
        raise FillfleetError(
            "file_unwritable", f"{target}: {error.strerror or error}; mend that and try again"
        ) from error
