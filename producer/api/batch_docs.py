"""What /openapi.json says of the batch routes beyond what FastAPI sees: bodies of lines, streams, and examples."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from producer.api import openapi
from producer.batch_wire import ROWS_TYPE

_CONFLICT: Final = "The batch's state does not allow it, or it has other rows or defaults under this name"


def responses(model: type[BaseModel], *errors: int) -> dict[int | str, dict[str, Any]]:
    """Return what a route may answer: `model` in the envelope, or one of the errors."""
    return _conflicts(openapi.responses(openapi.Envelope[model], *errors))  # type: ignore[valid-type]


def stream_responses(*media_types: str, example: str) -> dict[int | str, dict[str, Any]]:
    """Return what a route answers that streams; the example is of the first type."""
    content: dict[str, Any] = {name: {"schema": {"type": "string", "format": "binary"}} for name in media_types}
    content[media_types[0]]["example"] = example
    # FastAPI would document JSON for a route that has a model.
    errors = openapi.responses(openapi.ErrorEnvelope, 400, 401, 404, 429, 503)
    return {
        **errors,
        200: {"description": "The stream; it is whole only if the connection ends well", "content": content},
    }


def batch_extra(
    wish: type[BaseModel], examples: dict[str, Any], body_wish: type[BaseModel], lines: str
) -> dict[str, Any]:
    """Return the bodies of a new batch: JSON with `wish`, or lines with the fields of `body_wish` as the query."""
    schema = {"$ref": openapi.REF.format(model=wish.__name__)}
    return {
        **openapi.query_extra(body_wish),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "examples": examples}, ROWS_TYPE: _lines(lines)},
        },
    }


def lines_extra(lines: str, query: type[BaseModel] | None = None) -> dict[str, Any]:
    """Return a body of lines of JSON, and the query."""
    parameters = {} if query is None else openapi.query_extra(query)
    return {**parameters, "requestBody": {"required": True, "content": {ROWS_TYPE: _lines(lines)}}}


def _lines(example: str) -> dict[str, Any]:
    return {"schema": {"type": "string", "description": "One JSON object a line."}, "example": example}


def _conflicts(found: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    if 409 in found:
        found[409]["description"] = _CONFLICT
    return found
