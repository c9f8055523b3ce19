"""The results table as CSV: UTF-8, RFC 4180 quoting, a header line, lists as JSON text.

No value is altered. A cell that begins with = + - or @ is what the manifest said; a spreadsheet may take it for a
formula, so open tables with prompts of strangers as text there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from producer.results.cells import extra_cell, own_cell
from producer.results.columns import Row, column_names, extra_names
from producer.results.ndjson import CHUNK_BYTES, time_text, to_json

MEDIA_TYPE: Final = "text/csv; charset=utf-8"


def write_csv(rows: Iterable[Row], extra_columns: Sequence[str] = (), *, saved: bool = False) -> Iterator[bytes]:
    """Yield the table in pieces of some 64 KiB, the header first. Null is an empty cell, as an empty text is."""
    names, extras = column_names(saved=saved), extra_names(extra_columns)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([*names, *extras.values()])
    for row in rows:
        writer.writerow([*(_cell(own_cell(row, name)) for name in names), *(extra_cell(row, name) for name in extras)])
        if text.tell() >= CHUNK_BYTES:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    if text.tell():
        yield text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, list | tuple):
        return to_json(value)
    return value
