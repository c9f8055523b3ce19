"""The results table as NDJSON: one object a line, with lists and objects as they are, and passthrough under `extra`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from common.errors import FillfleetError
from producer.results.columns import Row, time_columns

MEDIA_TYPE: Final = "application/x-ndjson"
CHUNK_BYTES: Final = 64 * 1024
"""Chunks are about so large: a system call, or a piece of HTTP, for each row would cost more than the row."""

_TIMES: Final = time_columns()


def write_ndjson(rows: Iterable[Row]) -> Iterator[bytes]:
    """Yield the table in pieces of some 64 KiB. Times are ISO 8601 in UTC, such as 2026-05-01T12:00:00.250000Z."""
    lines: list[bytes] = []
    size = 0
    for row in rows:
        line = to_json(row).encode() + b"\n"
        lines.append(line)
        size += len(line)
        if size >= CHUNK_BYTES:
            yield b"".join(lines)
            lines.clear()
            size = 0
    if lines:
        yield b"".join(lines)


def read_ndjson(lines: Iterable[str | bytes]) -> Iterator[Row]:
    """Yield the rows of a table that `write_ndjson` wrote. Raises FillfleetError where a line is none of its lines."""
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise FillfleetError(
                "results_unreadable", f"line {number} of the results is not a JSON object; it may be cut off: try again"
            )
        for name in _TIMES:
            row[name] = _time(row.get(name))
        yield row


def to_json(value: Any) -> str:
    """Return `value` as compact JSON on one line."""
    return _ENCODER.encode(value)


def time_text(value: datetime) -> str:
    """Return a time as all forms of the table write it that have no type for it."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _time(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return time_text(value)
    raise TypeError(f"a row of results cannot hold a {type(value).__name__}")


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_plain)
