"""Checks bodies and queries of routes that are our own: there a misspelt field is an error, and never ignored."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final, TypeVar

from pydantic import BaseModel
from starlette.requests import Request

from common.contract import InvalidRequest, Problem, shorten
from producer.api.validation import validated

M = TypeVar("M", bound=BaseModel)
_SHOWN_CHARACTERS: Final = 100
_SHOWN_FIELDS: Final = 20
"""Looking for what was meant takes 100 µs, and a small body may hold a hundred thousand names."""


def own_body(model: type[M], values: Mapping[str, Any], *, prefix: str = "") -> M:
    """Return `values` as a `model`. A null counts as left out. Raises InvalidRequest, also for unknown fields."""
    check_known(model, values, prefix=prefix)
    return validated(model, values)


def own_query(model: type[M], request: Request, *, lists: Iterable[str] = ()) -> M:
    """Return the query as a `model`; of `lists`, values may be repeated or joined by commas. Raises InvalidRequest."""
    query = request.query_params
    values: dict[str, Any] = dict(query)
    check_known(model, values)
    for name in lists:
        if name in values:
            values[name] = [part.strip() for text in query.getlist(name) for part in text.split(",") if part.strip()]
    return validated(model, values, strict=False)


def check_known(model: type[BaseModel], values: Mapping[str, Any], *, prefix: str = "") -> None:
    """Raise InvalidRequest naming each field that `model` does not have, and which one was meant."""
    unknown = islice((name for name in values if name not in model.model_fields), _SHOWN_FIELDS)
    problems = tuple(_unknown(model, name, values[name], prefix) for name in unknown)
    if problems:
        raise InvalidRequest(problems)


def _unknown(model: type[BaseModel], name: str, value: Any, prefix: str) -> Problem:
    known = model.model_fields
    meant = next(iter(difflib.get_close_matches(name[:_SHOWN_CHARACTERS], known, n=1)), None)
    field = prefix + name[:_SHOWN_CHARACTERS].encode("utf-8", "backslashreplace").decode()
    if meant is None:
        return Problem(field, shorten(value), "is no field here", f"one of {', '.join(sorted(known))}")
    allowed = known[meant].description or "see /docs"
    return Problem(field, shorten(value), f"is no field here; did you mean {prefix}{meant}?", allowed)
