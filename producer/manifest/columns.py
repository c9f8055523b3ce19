"""Which column of a table is which field of the contract, and what a cell of text says as a JSON value.

The mapping is made once for a table, from its header alone. A column that looks like a misspelt field stops the table:
it must never be passed through in silence while ten million images are made without it.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from common.contract import FillRequest, shorten
from producer.manifest.options import ManifestOptions
from producer.manifest.row import ManifestError

CUSTOM_ID: Final = "custom_id"
FIELDS: Final = tuple(FillRequest.model_fields)
INTEGERS: Final = frozenset({"num_inference_steps", "seed", "num_images"})
NUMBERS: Final = frozenset({"guidance_scale"})
BOOLEANS: Final = frozenset({"enable_safety_checker", "enable_sync_mode", "enable_base64_output"})
SOURCES: Final = ("image", "mask_image")
"""Fields that name a file; a manifest may bring the file itself along."""
MAX_ID_CHARS: Final = 512
# How pandas writes a table's index: under this name in Parquet, under no name in CSV.
_PANDAS_INDEX: Final = re.compile(r"__index_level_\d+__")
_CLOSE: Final = 0.8  # difflib's ratio: "sead" and "promt" are closer than this to their fields, "sku" is not to any
_SHOWN_COLUMNS: Final = 30
_OTHER_NAMES: Final = {
    "mask": "mask_image",
    "mask_url": "mask_image",
    "mask_path": "mask_image",
    "image_url": "image",
    "image_path": "image",
    "img": "image",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
}
"""What tables often call a field: too far from its name for difflib, too telling to pass through."""
_WORDS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_OPTIONS: Final = {"image": "--image-col", "mask_image": "--mask-col", "prompt": "--prompt-col", CUSTOM_ID: "--id-col"}


class BadCell(ValueError):
    """One cell makes its whole row a bad one; of the row nothing else is looked at."""

    def __init__(self, field: str, value: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.value = value
        self.reason = reason


@dataclass(frozen=True)
class Columns:
    """The columns of one table, by their place in it."""

    custom_id: int | None
    fields: tuple[tuple[str, int], ...]
    """(field of the contract, place)."""
    extra: tuple[tuple[str, int], ...]
    """(name of the column, place): passed through."""


def map_columns(names: Sequence[str], options: ManifestOptions, table: str) -> Columns:
    """Return what the columns of `table` mean. Raises ManifestError with the words that the user needs."""
    _check_names(names, table)
    places = {name: place for place, name in enumerate(names)}
    wanted = _wanted(options, places, table)
    taken = set(wanted.values())
    for field in (CUSTOM_ID, *FIELDS):
        if field not in wanted and field in places and field not in options.keep and field not in taken:
            wanted[field] = field
    if "image" not in wanted and "image" not in options.constants:
        raise ManifestError(
            f"{table}: no column is the image; its columns are {_listed(names)}. "
            "Say which one holds the image's URL or path: --image-col NAME"
        )
    used = set(wanted.values())
    given = set(wanted) | set(options.constants) | ({"mask_image"} if options.mask else set())
    extra = [name for name in names if name and name not in used and not _PANDAS_INDEX.fullmatch(name)]
    for name in extra:
        meant = meant_field(name, given, options)
        if meant is not None:
            raise ManifestError(f"{table}: the column {shorten(name)} {misspelt(meant, name)}")
    return Columns(
        custom_id=places[wanted[CUSTOM_ID]] if CUSTOM_ID in wanted else None,
        fields=tuple((field, places[wanted[field]]) for field in FIELDS if field in wanted),
        extra=tuple((name, places[name]) for name in extra),
    )


def meant_field(name: str, given: Iterable[str], options: ManifestOptions) -> str | None:
    """Return the field that the unknown column or key `name` was likely meant for, unless it is `given` already.

    A second column that merely resembles a field, such as image_id beside image, is nobody's mistake.
    """
    if name in options.keep or name in FIELDS or name == CUSTOM_ID:
        return None
    plain = re.sub(r"[\s\-]+", "_", name.strip().lower())
    field = _OTHER_NAMES.get(plain)
    if field is None:
        close = difflib.get_close_matches(plain, (CUSTOM_ID, *FIELDS), n=1, cutoff=_CLOSE)
        field = close[0] if close else ""
    return field if field and field not in set(given) else None


def misspelt(field: str, name: str) -> str:
    """Return what is wrong with the column or key `name` and what to do, for after its name."""
    option = f" (or say {_OPTIONS[field]} {_quoted(name)})" if field in _OPTIONS else ""
    return f"looks like the field {field}: rename it{option}, or pass it through as it is with --keep {_quoted(name)}"


def cell_value(field: str, text: str) -> Any:
    """Return what a cell of text says, as the JSON value of `field`; the text itself where it does not convert."""
    if field in INTEGERS or field in NUMBERS:
        return _number(text.strip(), whole=field in INTEGERS, otherwise=text)
    if field in BOOLEANS:
        return _WORDS.get(text.strip().lower(), text)
    return _loras(text) if field == "loras" else text


def typed_value(field: str, value: Any) -> Any:
    """Return a value that has a type already: a whole float becomes an integer, as pandas makes floats of integers."""
    if field in INTEGERS and type(value) is float and value.is_integer() and abs(value) < 1e15:
        return int(value)
    return value


def custom_id_of(value: Any) -> str | None:
    """Return a row's custom_id as text, None where it has none. Raises BadCell."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if type(value) is float and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadCell(CUSTOM_ID, shorten(value), "must be a text or a number")
    text = str(value)
    if len(text) > MAX_ID_CHARS:
        raise BadCell(CUSTOM_ID, shorten(text), f"is longer than {MAX_ID_CHARS} characters; use a shorter id")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise BadCell(CUSTOM_ID, shorten(text), "holds half of a surrogate pair; write the character as a whole")
    if "\x00" in text:
        raise BadCell(CUSTOM_ID, shorten(text), "holds a NUL character; take it out")
    return text


def _check_names(names: Sequence[str], table: str) -> None:
    seen: set[str] = set()
    for place, name in enumerate(names, start=1):
        if not isinstance(name, str) or "\x00" in name:
            raise ManifestError(f"{table}: the name of column {place} is not a text without NUL characters; rename it")
        if name in seen:
            raise ManifestError(
                f"{table}: more than one column has no name; name every column in the header"
                if not name
                else f"{table}: two columns are called {shorten(name)}; rename or remove one of them"
            )
        seen.add(name)


def _wanted(options: ManifestOptions, places: dict[str, int], table: str) -> dict[str, str]:
    for field, column in options.columns.items():
        if field != CUSTOM_ID and field not in FIELDS:
            raise ManifestError(f"{shorten(field)} is no field of a request; the fields are {', '.join(FIELDS)}")
        if column not in places:
            raise ManifestError(
                f"{table}: there is no column {shorten(column)} to take as {field}; its columns are {_listed(places)}"
            )
    return dict(options.columns)


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    shown = ", ".join(shorten(name, 40) for name in every[:_SHOWN_COLUMNS])
    return f"{shown} and {len(every) - _SHOWN_COLUMNS} more" if len(every) > _SHOWN_COLUMNS else shown


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_.-]+", name) else shorten(name)


def _number(text: str, *, whole: bool, otherwise: str) -> Any:
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        value = float(text)
        if whole:
            return int(value) if value.is_integer() and abs(value) < 1e15 else otherwise
        return value if math.isfinite(value) else otherwise
    return otherwise


def _loras(text: str) -> Any:
    """Return the list that `path:scale;path:scale` or JSON says; the text itself where it is neither."""
    text = text.strip()
    if text.startswith(("[", "{")):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        return [value] if isinstance(value, dict) else value
    loras = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        path, colon, scale = part.rpartition(":")  # the last one: https://… has a colon of its own
        number = _number(scale.strip(), whole=False, otherwise="")
        if not colon or not path or number == "":
            return text
        loras.append({"path": path.strip(), "scale": number})
    return loras
