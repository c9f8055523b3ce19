"""Manifests as Parquet: read a batch of rows at a time, turned into Python's values a column at a time.

The columns' types are judged once, from the schema; bytes of images come along, all else is a JSON value afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from common.contract import shorten
from producer.manifest.arrow_values import FieldKind, field_kind, field_values, json_values, passes_through
from producer.manifest.columns import CUSTOM_ID, BadCell, Columns, map_columns
from producer.manifest.options import Form, ManifestOptions
from producer.manifest.row import BadRow, Content, ManifestError, ManifestRow, NoRows
from producer.manifest.row_builder import RowBuilder

_BATCH_BYTES: Final = 16 * 2**20
_BATCH_ROWS: Final = 1024  # larger ones are no faster
_BUFFER_BYTES: Final = 2**20
# What pyarrow says of damaged files: its own errors, and Python's where a broken name, text or date becomes a value.
_TROUBLE: Final = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


class ParquetManifest:
    """One Parquet file. Raises ManifestError where it is none, or its columns have the wrong types."""

    form = Form.PARQUET

    def __init__(self, path: Path, name: str, options: ManifestOptions, builder: RowBuilder) -> None:
        self.name = name
        self._path = path
        self._builder = builder
        with self._open() as file:
            try:
                schema = file.schema_arrow
                schema.names  # noqa: B018 - they are decoded here
            except _TROUBLE as error:
                raise self._no_parquet(error) from None
            self._columns: Columns = map_columns(schema.names, options, name)
            self._fields = tuple(
                (field, schema.names[place], field_kind(field, schema.field(place), name))
                for field, place in self._columns.fields
            )
            self._extra = tuple(
                column for column, place in self._columns.extra if passes_through(schema.field(place).type)
            )
            place = self._columns.custom_id
            self._id = None if place is None else schema.names[place]
            if place is not None:
                field_kind(CUSTOM_ID, schema.field(place), name)

    def rows(self, after: int = 0) -> Iterator[ManifestRow | BadRow]:
        """Yield the rows; the first is number `after` + 1. Raises ManifestError where it cannot go on, NoRows."""
        read = 0
        with self._open() as file:
            names = [column for _, column, _ in self._fields] + list(self._extra) + ([self._id] if self._id else [])
            batches = file.iter_batches(batch_size=_batch_rows(file.metadata), columns=list(dict.fromkeys(names)))
            while True:
                try:
                    batch = next(batches, None)
                    if batch is None:
                        break
                    rows = self._rows_of(batch, read, after)
                except _TROUBLE as error:
                    raise _damaged(self.name, read, error) from None
                yield from rows
                read += batch.num_rows
        if read == 0:
            raise NoRows(f"{self.name} holds no rows")

    def _rows_of(self, batch: pa.RecordBatch, read: int, after: int) -> Iterator[ManifestRow | BadRow]:
        """Convert the batch, at once, and return an iterator over its rows. Raises what pyarrow raises."""
        bad: dict[int, BadCell] = {}
        values = [field_values(batch.column(column), field, kind, bad) for field, column, kind in self._fields]
        extra = [json_values(batch.column(column), column, bad) for column in self._extra]
        none = [None] * batch.num_rows
        ids = field_values(batch.column(self._id), CUSTOM_ID, FieldKind.ID, bad) if self._id else none
        fields = tuple(field for field, _, _ in self._fields)
        cells = zip(*values, strict=True) if values else iter([()] * batch.num_rows)
        passed = zip(*extra, strict=True) if extra else iter([()] * batch.num_rows)
        return self._build(read, after, fields, zip(cells, passed, ids, strict=True), bad)

    def _build(
        self, read: int, after: int, fields: tuple[str, ...], cells: Iterator[Any], bad: dict[int, BadCell]
    ) -> Iterator[ManifestRow | BadRow]:
        build, extra_names, name = self._builder.build, self._extra, self.name
        brings_bytes = any(kind is FieldKind.CONTENT for _, _, kind in self._fields)
        for row, (values, passed, custom_id) in enumerate(cells, start=read + 1):
            number, where = after + row, f"{name}, row {row}"
            flaw = bad.get(row - read - 1) if bad else None
            if flaw is not None:
                yield BadRow(number, where, flaw.field, flaw.value, flaw.reason)
                continue
            body = {field: value for field, value in zip(fields, values, strict=True) if value is not None}
            files: dict[str, Content] | None = None
            if brings_bytes:
                files = {field: value for field, value in body.items() if not isinstance(value, _JSON)}
            yield build(number, where, body, custom_id, dict(zip(extra_names, passed, strict=True)), files)

    def _open(self) -> pq.ParquetFile:
        try:
            # Without pre_buffer a row group is read in pieces, so that one of a million rows stays small in memory.
            return pq.ParquetFile(self._path, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        except PermissionError:
            raise ManifestError(f"{self.name} may not be read; give yourself the right to read it") from None
        except _TROUBLE as error:
            raise self._no_parquet(error) from None

    def _no_parquet(self, error: Exception) -> ManifestError:
        try:
            with self._path.open("rb") as file:
                start = file.read(4)
        except OSError as failure:
            return ManifestError(f"{self.name} cannot be read: {failure.strerror}")
        if not start:
            return NoRows(f"{self.name} holds no rows: it is empty")
        if start == b"PARE" or "encrypt" in str(error).lower():
            return ManifestError(f"{self.name} is encrypted; write it without encryption")
        if start == b"PAR1":
            return ManifestError(f"{self.name} ends too early, or is damaged: no row of it can be read; copy it again")
        return ManifestError(f"{self.name} is no Parquet file; say what it is, such as --form csv")


_JSON: Final = (str, int, float, bool, list, dict)


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """Return how many rows to read at once: few where each brings an image along."""
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return int(max(1, min(_BATCH_ROWS, _BATCH_BYTES * metadata.num_rows // max(1, size))))


def _damaged(name: str, row: int, error: Exception) -> ManifestError:
    last = f"row {row} is the last good one" if row else "no row of it can be read"
    if isinstance(error, pa.ArrowNotImplementedError):
        return ManifestError(f"{name}: {last}; what follows is packed in a way that cannot be read here: write it anew")
    if isinstance(error, MemoryError):
        return ManifestError(f"{name}: {last}; what follows takes more memory than there is: write smaller row groups")
    return ManifestError(
        f"{name} ends too early, or is damaged: {last}; copy it again ({shorten(type(error).__name__)})"
    )
