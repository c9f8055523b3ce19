"""The table's columns as Parquet has them. Here and not with the columns, since pyarrow takes a while to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

from producer.results.columns import Kind, columns_of, extra_names

_TYPES: Final[Mapping[Kind, pa.DataType]] = {
    Kind.TEXT: pa.string(),
    Kind.TEXTS: pa.list_(pa.string()),
    Kind.INTEGER: pa.int64(),
    Kind.INTEGERS: pa.list_(pa.int64()),
    Kind.NUMBER: pa.float64(),
    Kind.FLAG: pa.bool_(),
    Kind.FLAGS: pa.list_(pa.bool_()),
    Kind.TIME: pa.timestamp("us", tz="UTC"),
    Kind.BOXES: pa.list_(pa.list_(pa.int64())),
    Kind.LORAS: pa.list_(
        pa.struct([("path", pa.string()), ("scale", pa.float64()), ("sha256", pa.string()), ("revision", pa.string())])
    ),
}


def table_schema(extra_columns: Sequence[str] = (), *, saved: bool = False) -> pa.Schema:
    """Return the schema of a table: the columns of all, then the passthrough columns, which are always text."""
    fields = [
        pa.field(column.name, _TYPES[column.kind], metadata={"meaning": column.meaning})
        for column in columns_of(saved=saved)
    ]
    fields += [
        pa.field(column, pa.string(), metadata={"meaning": "passed through from the manifest"})
        for column in extra_names(extra_columns).values()
    ]
    return pa.schema(fields)
