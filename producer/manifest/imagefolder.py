"""Image folders as the datasets library has them: metadata.jsonl, .csv or .parquet with a column file_name.

Each metadata file counts for the folder that it lies in, and its paths begin there. Beside the names of the files its
columns mean what they mean in any table.
"""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.contract import shorten
from common.errors import Rejected
from producer.manifest.open import open_manifest
from producer.manifest.options import Form, ManifestOptions
from producer.manifest.owner_objects import OwnerObjects
from producer.manifest.parts import PartsManifest
from producer.manifest.row import BadRow, LocalFile, ManifestError, ManifestRow
from producer.manifest.s3_location import is_s3, prefix_of
from producer.manifest.strict_json import BadJson, parse_line
from producer.manifest.trees import is_hidden

if TYPE_CHECKING:
    from producer.manifest.open import Table

METADATA: Final = {
    "metadata.jsonl": Form.JSONL,
    "metadata.csv": Form.CSV,
    "metadata.parquet": Form.PARQUET,
}
FILE_NAME: Final = "file_name"
_IMAGES: Final = (FILE_NAME, "image_file_name")
_MASKS: Final = ("mask_file_name", "mask_image_file_name", "mask_image", "mask")
_START_BYTES: Final = 256 * 1024
_MAX_PARQUET_BYTES: Final = 64 * 2**30


@dataclass(frozen=True)
class _Metadata:
    """One metadata file, and what its rows are named by beyond its own name."""

    source: str
    folder: str
    """Relative to the whole, with / at its end; "" is the whole."""
    form: Form
    options: ManifestOptions
    objects: OwnerObjects | None

    def open(self) -> _Part:
        """Return its rows. Raises ManifestError, Unavailable, Transient."""
        names = self._columns()
        columns = dict(self.options.columns)
        for field, candidates in (("image", _IMAGES), ("mask_image", _MASKS)):
            column = next((name for name in candidates if name in names), None)
            if column is not None and column not in columns.values():
                columns.setdefault(field, column)
        if "image" not in columns and not {"image", FILE_NAME} & set(names):
            raise ManifestError(f"{self.source} has no column {FILE_NAME}; it has to name each row's image")
        options = replace(self.options, form=self.form, columns=columns)
        return _Part(open_manifest(self.source, options, objects=self.objects), self.folder)  # type: ignore[arg-type]

    def _columns(self) -> Sequence[str]:
        """Return the names of the columns; of JSONL those of its first line. Where it is broken, its reader says so."""
        if self.form is Form.PARQUET:
            return self._parquet_columns()
        line = next(iter(self._start().decode("utf-8-sig", errors="replace").strip().splitlines()), "")
        if self.form is Form.CSV:
            return next(csv.reader([line]), [])
        try:
            return list(parse_line(line))
        except BadJson:
            return [FILE_NAME, *_MASKS[:1]]

    def _start(self) -> bytes:
        if self.objects is None:
            with open(self.source, "rb") as file:
                return file.read(_START_BYTES)
        with self.objects.stream(self.objects.parse(self.source)) as read:
            return read(_START_BYTES)

    def _parquet_columns(self) -> Sequence[str]:
        import pyarrow as pa  # takes a while, and few need it
        import pyarrow.parquet as pq

        with tempfile.TemporaryDirectory(prefix="fillfleet-manifest-") as folder:
            path = Path(self.source)
            if self.objects is not None:
                path = Path(folder) / "table"
                self.objects.download(self.objects.parse(self.source), path, max_bytes=_MAX_PARQUET_BYTES)
            try:
                return list(pq.read_schema(path).names)
            except pa.ArrowException:
                return [FILE_NAME]


class _Part:
    """The rows of one metadata file, named within the whole."""

    def __init__(self, table: Table, folder: str) -> None:
        self._table = table
        self._folder = folder

    def rows(self, after: int = 0) -> Iterator[ManifestRow | BadRow]:
        """Yield the rows; the first is number `after` + 1. Raises ManifestError, NoRows."""
        for row in self._table.rows(after):
            where = f"{self._folder}{row.where}"
            if isinstance(row, ManifestRow) and FILE_NAME not in row.extra and (name := self._file_name(row)):
                # The bucket knows the file by its content alone; the results shall still say which one it was.
                yield replace(row, where=where, extra={FILE_NAME: name, **row.extra})
            else:
                yield replace(row, where=where)

    def _file_name(self, row: ManifestRow) -> str | None:
        image = row.files.get("image")
        return f"{self._folder}{image.name}" if isinstance(image, LocalFile) else None


def open_imagefolder(source: str, options: ManifestOptions, objects: OwnerObjects | None) -> PartsManifest:
    """Return the manifest that a folder or s3:// prefix with metadata files is.

    Raises ManifestError; of the store's trouble Unavailable and Transient.
    """
    found: Iterator[str]
    if is_s3(source):
        objects, prefix = prefix_of(source, objects)
        source = prefix.uri.rstrip("/")
        keys = (key[len(prefix.key) :] for key, _ in objects.list_keys(prefix))
        found = (key for key in keys if key.rpartition("/")[2] in METADATA)
    else:
        if not options.local_files:
            raise ManifestError(f"{shorten(source)} is a path, and the server cannot read your files")
        objects = None
        path = Path(source).expanduser()
        if path.name in METADATA:
            path = path.parent
        source = str(path)
        found = _metadata_below(source)
    parts = [
        _Metadata(f"{source}/{name}", name[: name.rfind("/") + 1], METADATA[name.rpartition("/")[2]], options, objects)
        for name in sorted(found)
    ]
    if not parts:
        raise ManifestError(f"{shorten(source)} holds no {', '.join(METADATA)}; say --form folder if it needs none")
    folders = [part.folder for part in parts]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ManifestError(f"{shorten(source)}/{folder} holds several metadata files; keep one of them")
    try:
        parts[0].open()  # its columns are judged now
    except (OSError, Rejected):
        raise ManifestError(f"{shorten(parts[0].source)} cannot be read; check the file") from None
    return PartsManifest(source.rpartition("/")[2] or source, Form.IMAGEFOLDER, [partial(part.open) for part in parts])


def _metadata_below(folder: str) -> Iterator[str]:
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in METADATA:
            if name in files:
                yield Path(path, name).relative_to(folder).as_posix()
