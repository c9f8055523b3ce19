"""Rows on their way to a batch, as lines of JSON: {"row": 17, "where": …, "custom_id": …, "body": {…}, "extra": {…}}.

A row that could not be read is {"row": 17, "where": …, "reject": {field, value, reason}}. Both sides of our batch
routes use this; no field of a body is judged here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from common.contract import shorten
from producer.intake import MAX_CUSTOM_ID_CHARS
from producer.manifest import BadRow, ManifestRow
from producer.manifest.row_builder import bad_text
from producer.manifest.strict_json import MAX_DEPTH, BadJson, parse_line

MAX_ROW: Final = 10**15
_KEYS: Final = frozenset({"row", "where", "custom_id", "body", "extra", "reject"})
_REJECT_KEYS: Final = ("field", "value", "reason")
_DEPTH: Final = MAX_DEPTH + 2
"""A row that was as deep as a manifest allows lies inside of another object here."""
_MAX_PLACE: Final = 5000
_MAX_FIELD: Final = 200
_MAX_VALUE: Final = 2000


class BadLine(ValueError):
    """A line that is no row: whoever sends such lines has to be mended. The message names the line."""


def write_line(row: ManifestRow | BadRow) -> bytes:
    """Return the row as one line with its end; one that still has files is a bad row, since they are not sent so."""
    if isinstance(row, ManifestRow) and row.files:
        name, content = next(iter(row.files.items()))
        reason = "was not uploaded; allowed: a URL or s3:// URI"
        row = BadRow(row.number, row.where, name, shorten(content.name), reason, row.custom_id)
    line: dict[str, Any] = {"row": row.number, "where": row.where}
    if row.custom_id is not None:
        line["custom_id"] = row.custom_id
    if isinstance(row, BadRow):
        line["reject"] = {"field": row.field, "value": row.value, "reason": row.reason}
        return _dumped(line)
    line["body"] = row.body
    if row.extra:
        line["extra"] = row.extra
    try:
        return _dumped(line)
    except ValueError:  # a NaN or an infinity, which JSON does not have
        line["body"] = {name: _finite(value, in_words=True) for name, value in row.body.items()}
        line["extra"] = _finite(row.extra, in_words=False)
        return _dumped(line)


def read_lines(data: bytes, upto: int, *, before: int = 0) -> Iterator[ManifestRow | BadRow]:
    """Yield the rows of a chunk up to row `upto`; `before` it stood so many other lines. Raises BadLine."""
    number = 0
    for count, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), before + 1):
        if not raw.strip():
            continue
        try:
            row = read_row(parse_line(raw.decode(), max_depth=_DEPTH))
        except UnicodeDecodeError as error:
            raise BadLine(f"line {count}: byte {error.start + 1} is not UTF-8") from None
        except (BadJson, BadLine) as error:
            raise BadLine(f"line {count} {error}") from None
        if not number < row.number <= upto:
            raise BadLine(
                f"line {count} is row {row.number}; rows come in the order of their numbers, none of them twice and "
                f"none above upto, which is {upto}"
            )
        number = row.number
        yield row


def read_row(line: Mapping[str, Any]) -> ManifestRow | BadRow:
    """Return the row that an object holds. Raises BadLine, whose message goes after the line's name."""
    unknown = sorted(set(line) - _KEYS)
    if unknown:
        raise BadLine(f"has the key {shorten(unknown[0])}; allowed: {', '.join(sorted(_KEYS))}")
    number, place, custom_id = line.get("row"), line.get("where", f"row {line.get('row')}"), line.get("custom_id")
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_ROW:
        raise BadLine(f"has the row {shorten(number)}; allowed: its number in the manifest, from 1")
    if not isinstance(place, str) or not isinstance(custom_id, str | None):
        raise BadLine("has a where or custom_id that is no text")
    place = _storable(place)[:_MAX_PLACE]
    if ("reject" in line) == ("body" in line):
        raise BadLine("must have either a body or a reject")
    if "reject" in line:
        return _bad_row(number, place, custom_id, line["reject"])
    body, extra = line["body"], line.get("extra") or {}
    if not isinstance(body, dict) or not isinstance(extra, dict):
        raise BadLine("has a body or extra that is no object")
    if custom_id is not None and bad_text(custom_id):
        return BadRow(number, place, "custom_id", shorten(custom_id), f"{bad_text(custom_id)}")
    if bad_text(list(extra)):
        extra = {_storable(name): value for name, value in extra.items()}
    return ManifestRow(number, place, body, custom_id, {}, extra)


def _bad_row(number: int, place: str, custom_id: str | None, reject: object) -> BadRow:
    said = reject if isinstance(reject, dict) else {}
    texts = [said.get(key) for key in _REJECT_KEYS]
    if set(said) - set(_REJECT_KEYS) or not all(isinstance(text, str) for text in texts):
        raise BadLine(f"has a reject that is no object of the texts {', '.join(_REJECT_KEYS)}")
    field, value, reason = (_storable(str(text)) for text in texts)
    known = _storable(custom_id) if custom_id and len(custom_id) <= MAX_CUSTOM_ID_CHARS else None
    return BadRow(number, place, field[:_MAX_FIELD], value[:_MAX_VALUE], reason[:_MAX_VALUE], known)


def _dumped(line: Mapping[str, Any]) -> bytes:
    # Half surrogate pairs stay escaped: the other side names the row that holds them.
    text = json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _finite(value: Any, *, in_words: bool) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value) if in_words else None
    if isinstance(value, Mapping):
        return {key: _finite(inner, in_words=in_words) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner, in_words=in_words) for inner in value]
    return value


def _storable(text: str) -> str:
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def pieces(rows: Iterable[ManifestRow | BadRow], max_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Cut rows into bodies of at most `max_bytes` (one row alone may be more); yields each with its last row number."""
    lines: list[bytes] = []
    size = last = 0
    for row in rows:
        line = write_line(row)
        if lines and size + len(line) > max_bytes:
            yield b"".join(lines), last
            lines, size = [], 0
        lines.append(line)
        size += len(line)
        last = row.number
    if lines:
        yield b"".join(lines), last
