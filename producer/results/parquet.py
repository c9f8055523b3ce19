"""The results table as Parquet, handed out while it is made: zstd, groups of up to 10,000 rows, one set of types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from producer.results.cells import extra_cell
from producer.results.columns import EXTRA, MODEL_VERSION, Row, column_names, extra_names
from producer.results.ndjson import to_json
from producer.results.schema import table_schema

MEDIA_TYPE: Final = "application/vnd.apache.parquet"
GROUP_ROWS: Final = 10_000
"""Some 50 MB of Python values at a time; a reader skips and decodes by these groups, so much smaller ones cost it."""
GROUP_CHARS: Final = 32 * 2**20
"""Of what rows pass through: long texts make smaller groups, which lie in memory while they are made."""


class _Outbox:
    """A file to write only, whose bytes are taken out as they come."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._place = 0

    def write(self, data: Any) -> int:
        """Keep the bytes until they are taken."""
        piece = bytes(data)
        self._pieces.append(piece)
        self._place += len(piece)
        return len(piece)

    def tell(self) -> int:
        """Return the place in the file as a whole: Parquet's footer names such places."""
        return self._place

    def flush(self) -> None:
        """Do nothing: what is written can be taken."""

    def close(self) -> None:
        """Take no more."""
        self.closed = True

    def take(self) -> bytes:
        """Return what came since the last time."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def write_parquet(
    rows: Iterable[Row], extra_columns: Sequence[str] = (), *, saved: bool = False, group_rows: int = GROUP_ROWS
) -> Iterator[bytes]:
    """Yield the file in pieces, about one for each row group."""
    schema = table_schema(extra_columns, saved=saved)
    names, extras = column_names(saved=saved), extra_names(extra_columns)
    outbox = _Outbox()
    source = iter(rows)
    with pq.ParquetWriter(pa.PythonFile(outbox, mode="w"), schema, compression="zstd") as writer:
        while group := _group(source, group_rows):
            columns = [_column(group, name) for name in names]
            columns += [[extra_cell(row, name) for row in group] for name in extras]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=group_rows)
            yield outbox.take()
    yield outbox.take()


def _group(rows: Iterator[Row], group_rows: int) -> list[Row]:
    """Return the next rows: fewer where they pass long texts through, since a group lies in memory."""
    group: list[Row] = []
    size = 0
    for row in islice(rows, group_rows):
        group.append(row)
        extra = row.get(EXTRA)
        size += len(str(extra)) if extra else 0
        if size >= GROUP_CHARS:
            break
    return group


def _column(group: Sequence[Row], name: str) -> list[Any]:
    values = [row.get(name) for row in group]
    if name == MODEL_VERSION:
        return [None if value is None else to_json(value) for value in values]
    return values
