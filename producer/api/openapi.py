"""What /openapi.json and /docs say beyond what FastAPI sees: bodies that we read ourselves, envelopes, and examples.

The schemas come from the very models that check the requests, so the documentation cannot drift from what is accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema

from common.contract import FillRequest
from producer.api.wire import Prediction

D = TypeVar("D")

REF: Final = "#/components/schemas/{model}"

_DESCRIPTION: Final = """
Fill images on your own GPUs, in the wire format of the hosted `flux-dev-fill` endpoint.

Submit a request, then poll `data.urls.get` until `data.status` is `completed` or `failed`. Every answer, also every
error, is one envelope `{code, message, data}`. Everything is served under `/api/v2` and `/api/v3` alike.
"""

_MEANINGS: Final = {
    200: "Success",
    400: "Something in the request is wrong: `data.errors` names field, value and what is allowed",
    401: "No API key, or one that is unknown or revoked",
    404: "Not there, or not yours",
    409: "This Idempotency-Key was used with another body",
    410: "The images are no longer stored",
    413: "The body is too large",
    429: "Too many at once; try again after `Retry-After` seconds",
    503: "Database or bucket do not answer; try again after `Retry-After` seconds",
}

_KNIGHT: Final = {
    "image": "https://example.com/knight.jpg",
    "mask_image": "https://example.com/knight-mask.png",
    "prompt": "a knight holding a greatshield",
    "size": "1024*1024",
    "num_inference_steps": 28,
    "seed": -1,
    "guidance_scale": 30,
    "num_images": 1,
    "loras": [],
    "enable_safety_checker": True,
}
_EXAMPLES: Final = {
    "knight": {"summary": "The documented example", "value": _KNIGHT},
    "outpaint": {
        "summary": "No mask: another aspect ratio than the image's outpaints the bars",
        "value": {"image": "https://example.com/knight.jpg", "size": "1536*1024"},
    },
    "region": {
        "summary": "A field of our own: only crops around a small mask are generated",
        "value": {**_KNIGHT, "size": "match", "region": "auto"},
    },
    "lora": {
        "summary": "With a LoRA and a fixed seed",
        "value": {
            **_KNIGHT,
            "seed": 42,
            "loras": [{"path": "linoyts/yarn_art_Flux_LoRA", "scale": 1.0}],
        },
    },
}


class Envelope(BaseModel, Generic[D]):
    """Every answer."""

    code: int
    message: str
    data: D


class PredictionEnvelope(Envelope[Prediction]):
    """A prediction."""


class Page(BaseModel):
    """Some predictions."""

    page: int
    page_size: int
    total: int
    items: list[Prediction]


class PageEnvelope(Envelope[Page]):
    """A page of predictions."""


class Deleted(BaseModel):
    """What became of the ids."""

    deleted: list[str]
    not_found: list[str]


class DeletedEnvelope(Envelope[Deleted]):
    """What was deleted."""


class Uploaded(BaseModel):
    """A file that can be named in a request by its `download_url`."""

    id: str
    filename: str
    size: int
    content_type: str
    download_url: str


class UploadEnvelope(Envelope[Uploaded]):
    """An upload."""


class PutInstruction(BaseModel):
    """How to send the file: exactly so, within an hour."""

    method: str
    url: str
    headers: dict[str, str]


class Ticket(Uploaded):
    """An upload that is still to be sent."""

    upload: PutInstruction


class TicketEnvelope(Envelope[Ticket]):
    """A ticket for an upload."""


class ModelInfo(BaseModel):
    """A model name that can be submitted to."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    name: str
    base_price: float
    description: str
    type: str
    api_schema: dict[str, Any]


class ModelsEnvelope(Envelope[list[ModelInfo]]):
    """The models."""


class FieldError(BaseModel):
    """One thing that is wrong with a request."""

    field: str
    value: str
    reason: str
    allowed: str


class ErrorData(BaseModel):
    """What is known about an error; `code` is the hosted endpoint's number."""

    model_config = ConfigDict(extra="allow")

    code: int | None = None
    errors: list[FieldError] = []


class ErrorEnvelope(Envelope[ErrorData]):
    """An error."""


def responses(model: type[BaseModel], *errors: int) -> dict[int | str, dict[str, Any]]:
    """Return what a route may answer: `model` with 200, the error envelope with each of `errors` and any other."""
    return {
        200: {"model": model, "description": _MEANINGS[200]},
        **{status: {"model": ErrorEnvelope, "description": _MEANINGS[status]} for status in errors},
        "default": {"model": ErrorEnvelope, "description": "Any other error, in the same envelope"},
    }


def submit_extra() -> dict[str, Any]:
    """Return the body and headers of a submit."""
    return {
        "requestBody": _body(FillRequest, {"examples": _EXAMPLES}),
        "parameters": [
            _header("Idempotency-Key", "Sent again with the same body it names the same job; another body is a 409."),
            _header("X-Fillfleet-Priority", "Which line to wait in.", enum=["interactive", "bulk"]),
        ],
    }


def body_extra(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON body that is read by hand."""
    return {"requestBody": _body(model, {"example": example})}


def file_extra(field: str) -> dict[str, Any]:
    """Return a multipart body with one file."""
    schema = {"type": "object", "required": [field], "properties": {field: {"type": "string", "format": "binary"}}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def redirect_responses() -> dict[int | str, dict[str, Any]]:
    """Return what a route answers that redirects."""
    return {
        307: {"description": "The file is at the address in the header `Location`"},
        **{status: {"model": ErrorEnvelope, "description": _MEANINGS[status]} for status in (401, 404, 503)},
    }


def query_extra(model: type[BaseModel]) -> dict[str, Any]:
    """Return the fields of `model` as query parameters."""
    properties = model.model_json_schema(ref_template=REF)["properties"]
    return {"parameters": [{"in": "query", "name": name, "schema": schema} for name, schema in properties.items()]}


def document(app: FastAPI, bodies: Sequence[type[BaseModel]]) -> None:
    """Let the app's OpenAPI document hold the models of bodies that are read by hand."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=_DESCRIPTION.strip(), routes=app.routes
            )
            _, read_by_hand = models_json_schema([(model, "validation") for model in bodies], ref_template=REF)
            schema["components"]["schemas"].update(read_by_hand["$defs"])
            app.openapi_schema = schema
        return app.openapi_schema

    # FastAPI's documented way
    app.openapi = openapi  # type: ignore[method-assign]


def _body(model: type[BaseModel], more: dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": REF.format(model=model.__name__)}
    return {"required": True, "content": {"application/json": {"schema": schema, **more}}}


def _header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"in": "header", "name": name, "description": description, "schema": {"type": "string", **schema}}
