"""The results table as CSV: UTF-8, RFC 4180 quoting, a header line, lists as JSON text.

No value is altered. A cell that begins with = + - or @ is what the manifest said; a spreadsheet may take it for a
formula, so open tables with prompts of strangers as text there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from producer.results.cells import extra_cell
from producer.results.columns import MODEL_VERSION, Column, Kind, Row, columns_of, extra_names
from producer.results.ndjson import CHUNK_BYTES, time_text, to_json

MEDIA_TYPE: Final = "text/csv; charset=utf-8"


def write_csv(rows: Iterable[Row], extra_columns: Sequence[str] = (), *, saved: bool = False) -> Iterator[bytes]:
    """Yield the table in pieces of some 64 KiB, the header first. Null is an empty cell, as an empty text is."""
    columns, extras = columns_of(saved=saved), extra_names(extra_columns)
    names = [column.name for column in columns]
    special = [(place, write) for place, column in enumerate(columns) if (write := _writer(column)) is not None]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([*names, *extras.values()])
    for row in rows:
        cells = [row.get(name) for name in names]
        for place, write in special:
            if cells[place] is not None:
                cells[place] = write(cells[place])
        writer.writerow(cells + [extra_cell(row, name) for name in extras])
        if text.tell() >= CHUNK_BYTES:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    if text.tell():
        yield text.getvalue().encode()


def _writer(column: Column) -> Callable[[Any], str] | None:
    """Return what makes a cell of a value; None where the csv module does."""
    return to_json if column.name == MODEL_VERSION else _WRITERS.get(column.kind)


def _word(value: bool) -> str:
    return "true" if value else "false"


_WRITERS: Final[Mapping[Kind, Callable[[Any], str]]] = {
    Kind.FLAG: _word,
    Kind.TIME: time_text,
    Kind.TEXTS: to_json,
    Kind.INTEGERS: to_json,
    Kind.FLAGS: to_json,
    Kind.LORAS: to_json,
    Kind.BOXES: to_json,
}
