"""Checks the small bodies and queries of our own routes; the fill request itself is checked by common/contract.py.

Each field's description says what is allowed, for OpenAPI and for the error alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from common.contract import InvalidRequest, Problem, shorten

IGNORED_HEADER: Final = "X-Fillfleet-Ignored-Fields"
_SHOWN_FIELDS: Final = 20
_SHOWN_CHARACTERS: Final = 64

M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], values: Mapping[str, Any], *, strict: bool | None = None) -> M:
    """Return `values` as a `model`. A null counts as left out. Raises InvalidRequest.

    The models are strict, as JSON has types; `strict=False` is for a query, which has none.
    """
    given = {key: value for key, value in values.items() if value is not None}
    try:
        return model.model_validate(given, strict=strict)
    except ValidationError as error:
        raise InvalidRequest(tuple(_problem(model, detail) for detail in error.errors(include_url=False))) from None


def ignored(names: list[str]) -> dict[str, str]:
    """Return the header that names fields which were ignored, or none. Any name is made safe to stand in a header."""
    if not names:
        return {}
    shown = [quote(name[:_SHOWN_CHARACTERS], safe="[]", errors="backslashreplace") for name in names[:_SHOWN_FIELDS]]
    more = len(names) - len(shown)
    return {IGNORED_HEADER: ", ".join([*shown, f"and {more} more"] if more else shown)}


def _problem(model: type[BaseModel], detail: Mapping[str, Any]) -> Problem:
    location = tuple(detail["loc"])
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    info = model.model_fields.get(str(location[0])) if location else None
    missing = detail["type"] == "missing"
    return Problem(
        field=field or "body",
        value="" if missing else shorten(detail["input"]),
        reason="is missing" if missing else "is not allowed",
        allowed=(info.description if info else None) or "see /docs",
    )
