"""Columns of Arrow as lists of Python's values: what a field takes, and JSON values for all that passes through.

One call converts one column of a batch; what is wrong with single cells is noted, and the others are converted.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import math
import posixpath
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from common.contract import shorten
from producer.manifest.columns import (
    BOOLEANS,
    CUSTOM_ID,
    INTEGERS,
    NUMBERS,
    SOURCES,
    BadCell,
    cell_value,
    typed_value,
)
from producer.manifest.row import InlineContent, ManifestError
from producer.manifest.row_builder import bad_text

_TEXT_TYPES: Final = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BYTE_TYPES: Final = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)
_LIST_TYPES: Final = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_IMAGE_STRUCT: Final = {"bytes", "path"}


class FieldKind(Enum):
    """How a column holds a field."""

    TEXT = auto()
    """Text for a field of text."""
    CELLS = auto()
    """Text that says a number, a boolean or a list."""
    VALUES = auto()
    """Numbers, booleans, lists of structs."""
    CONTENT = auto()
    """The bytes of an image, alone or as the struct {bytes, path} of the datasets library."""
    ID = auto()
    EMPTY = auto()
    """Nothing but nulls."""


def field_kind(field: str, column: pa.Field, table: str) -> FieldKind:
    """Return how `column` holds `field`. Raises ManifestError where its type cannot be that field."""
    kind = _plain_type(column.type)
    if pa.types.is_null(kind):
        return FieldKind.EMPTY
    text = _is_text(kind)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if field == CUSTOM_ID:
        if text or number:
            return FieldKind.ID
        needs = "text or whole numbers"
    elif field in INTEGERS or field in NUMBERS:
        if text or number:
            return FieldKind.CELLS if text else FieldKind.VALUES
        needs = "numbers"
    elif field in BOOLEANS:
        if text or pa.types.is_boolean(kind):
            return FieldKind.CELLS if text else FieldKind.VALUES
        needs = "true or false"
    elif field == "loras":
        if text or (_is_list(kind) and (pa.types.is_struct(kind.value_type) or pa.types.is_null(kind.value_type))):
            return FieldKind.CELLS if text else FieldKind.VALUES
        needs = "a list of {path, scale}, or text such as path:scale;path:scale"
    else:
        if text:
            return FieldKind.TEXT
        needs = "text"
        if field in SOURCES:
            if _is_bytes(kind) or _is_image_struct(kind):
                return FieldKind.CONTENT
            needs = "text (a URL or path), or the bytes of image files"
    raise ManifestError(
        f"{table}: the column {shorten(column.name)} holds {shorten_type(column.type)}, but {field} needs {needs}; "
        "convert it, or take another column"
    )


def shorten_type(kind: pa.DataType) -> str:
    """Return a type's name for a message."""
    text = str(kind)
    return text if len(text) <= 60 else text[:60] + "…"


def passes_through(kind: pa.DataType) -> bool:
    """Whether a column of this type can stand in a table of results: bytes cannot, and are left out."""
    kind = _plain_type(kind)
    if _is_bytes(kind):
        return False
    if pa.types.is_struct(kind):
        return all(passes_through(kind.field(i).type) for i in range(kind.num_fields))
    if _is_list(kind):
        return passes_through(kind.value_type)
    return not pa.types.is_map(kind) or passes_through(kind.item_type)


def field_values(column: pa.Array, field: str, kind: FieldKind, bad: dict[int, BadCell]) -> list[Any]:
    """Return the cells of `column` as values of `field`, None where a row says nothing.

    A row's first bad cell is put into `bad`, under its place in the batch.
    """
    column = _plain(column)
    if kind is FieldKind.CONTENT:
        return _contents(column, field, bad)
    if _is_text(column.type):
        texts = _texts(column, field, bad)
        if kind is FieldKind.CELLS:
            return [None if not text or not text.strip() else cell_value(field, text) for text in texts]
        return texts
    if kind is FieldKind.ID:
        return [_json(value) for value in column.to_pylist()]
    return [typed_value(field, _json(value)) for value in column.to_pylist()]


def json_values(column: pa.Array, name: str, bad: dict[int, BadCell]) -> list[Any]:
    """Return the cells of `column` as JSON values; NaN becomes None. Bad cells are put into `bad`."""
    column = _plain(column)
    kind = column.type
    if _is_text(kind):
        return _without_nul(column, _texts(column, name, bad), name, bad)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return list(column.to_pylist())
    if pa.types.is_floating(kind):
        isfinite = math.isfinite
        return [value if value is not None and isfinite(value) else None for value in column.to_pylist()]
    values = [_json(value) for value in _to_python(column)]
    for place, value in enumerate(values):
        flaw = bad_text(value) if isinstance(value, dict | list) else None
        if flaw:
            bad.setdefault(place, BadCell(name, shorten(value), flaw))
    return values


def _texts(column: pa.Array, name: str, bad: dict[int, BadCell]) -> list[str | None]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        pass  # at least one of them: each is looked at
    texts: list[str | None] = []
    for place, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
        try:
            texts.append(None if value is None else value.decode())
        except UnicodeDecodeError:
            texts.append(None)
            shown = shorten(value.decode(errors="replace"))
            bad.setdefault(place, BadCell(name, shown, "is not UTF-8; write the text as UTF-8"))
    return texts


def _without_nul(column: pa.Array, texts: list[str | None], name: str, bad: dict[int, BadCell]) -> list[str | None]:
    if bad or pc.any(pc.match_substring(column, "\x00")).as_py():
        for place, text in enumerate(texts):
            if text is not None and "\x00" in text:
                bad.setdefault(place, BadCell(name, shorten(text), "holds a NUL character; take it out"))
    return texts


def _contents(column: pa.Array, field: str, bad: dict[int, BadCell]) -> list[Any]:
    found: list[Any] = []
    for place, value in enumerate(column.to_pylist()):
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data:
            found.append(InlineContent(data, posixpath.basename(path) if path else field))
        elif data is not None:
            found.append(None)
            bad.setdefault(place, BadCell(field, "", "holds no bytes; write the image into it, or null"))
        else:
            found.append(path)
    return found


def _plain(column: pa.Array) -> pa.Array:
    """Return the column without dictionary, extension type or view."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    return column.cast(pa.large_string()) if column.type == pa.string_view() else column


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in _TEXT_TYPES)


def _is_bytes(kind: pa.DataType) -> bool:
    return any(test(kind) for test in _BYTE_TYPES)


def _is_list(kind: pa.DataType) -> bool:
    return any(test(kind) for test in _LIST_TYPES)


def _is_image_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    inner = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    if set(inner) != _IMAGE_STRUCT:
        return False
    data, path = inner["bytes"], inner["path"]
    return (_is_bytes(data) or pa.types.is_null(data)) and (_is_text(path) or pa.types.is_null(path))


def _to_python(column: pa.Array) -> list[Any]:
    """Return the values; times are cut to microseconds, and those beyond year 9999 are text: so are Python's types."""
    if pa.types.is_temporal(column.type):
        try:
            return list(_microseconds(column).to_pylist())
        except (ValueError, OverflowError):
            return list(column.cast(pa.string()).to_pylist())
    if pa.types.is_map(column.type):
        return list(column.to_pylist(maps_as_pydicts="lossy"))
    return list(column.to_pylist())


def _microseconds(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", "UTC" if kind.tz else None), safe=False)
    if pa.types.is_duration(kind):
        return column.cast(pa.duration("us"), safe=False)
    if pa.types.is_time64(kind):
        return column.cast(pa.time64("us"), safe=False)
    return column


def _decimal(value: decimal.Decimal) -> int | float | str:
    """Return a number where it is the same number, else its digits as text."""
    if value == value.to_integral_value() and abs(value) < 10**15:
        return int(value)
    as_float = float(value)
    return as_float if decimal.Decimal(repr(as_float)) == value else str(value)


_CONVERTERS: Final[dict[type, Callable[[Any], Any]]] = {
    type(None): lambda value: None,  # noqa: ARG005
    str: str,
    bool: bool,
    int: int,
    float: lambda value: value if math.isfinite(value) else None,
    list: lambda value: [_json(inner) for inner in value],
    tuple: lambda value: [_json(inner) for inner in value],
    dict: lambda value: {str(name): _json(inner) for name, inner in value.items()},
    decimal.Decimal: _decimal,
    datetime.datetime: datetime.datetime.isoformat,
    datetime.date: datetime.date.isoformat,
    datetime.time: datetime.time.isoformat,
    datetime.timedelta: datetime.timedelta.total_seconds,
    bytes: lambda value: base64.b64encode(value).decode(),
    UUID: str,
}


def _json(value: Any) -> Any:
    converter = _CONVERTERS.get(type(value))
    if converter is not None:
        return converter(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
