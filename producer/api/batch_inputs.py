"""Files of batches, straight to and from the bucket: a link to put an input that is known by its sha256, or to get an
output, or an input back. All lie under the caller's own prefixes, and nothing else can be named.
"""

from __future__ import annotations

import base64
from typing import Annotated, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from common.contract import InvalidRequest, Problem, Text, shorten
from common.errors import Rejected
from common.objects import input_key
from common.s3_uri import check_key, split_s3_uri
from common.urls import BadUrl
from producer.api import batch_docs, openapi
from producer.api.auth import CallerOf
from producer.api.body_limit import too_large
from producer.api.envelope import success
from producer.api.json_body import read_json_object
from producer.api.own_fields import own_body, own_query
from producer.api.services import ServicesOf
from producer.batch_wire import InputsWire, InputWire, OutputWire, PutWire
from producer.image_kind import ImageKind

_KINDS: Final = {kind.value: kind.content_type for kind in ImageKind}
_EXAMPLE: Final = {
    "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "extension": "png",
    "size": 123456,
    "content_type": "image/png",
}

_OWN: Final = ("outputs", "inputs", "uploads")
"""What results name of the caller's own files; a report shows inputs beside outputs."""

router = APIRouter(tags=["batches"])


class InputWish(BaseModel):
    """A file that rows will name."""

    model_config = ConfigDict(strict=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="64 lower-case hex digits")
    extension: str = Field(description=f"one of {', '.join(_KINDS)}")
    size: int = Field(ge=1, description="the file's bytes, an integer from 1 to what this server takes")
    content_type: str = Field(description=f"one of {', '.join(_KINDS.values())}, as the extension says")


class OutputWish(BaseModel):
    """Which output, or input."""

    uri: Annotated[Text, Field(max_length=2000)] = Field(
        description="the s3:// URI of a file of yours, as the results name it"
    )


@router.get("/batches/inputs", summary="Where your inputs lie", responses=batch_docs.responses(InputsWire, 401, 503))
async def place(caller: CallerOf, services: ServicesOf) -> Response:
    """Say below which URI your content-addressed inputs lie, and how large one may be."""
    prefix = services.objects.uri(input_key(caller.owner, "0" * 64, "x").rpartition("/")[0])
    return success(InputsWire(prefix=f"{prefix}/", max_bytes=services.settings.upload_max_bytes).model_dump())


@router.post(
    "/batches/inputs",
    summary="Put an input once",
    responses=batch_docs.responses(InputWire, 400, 401, 413, 503),
    openapi_extra=openapi.body_extra(InputWish, _EXAMPLE),
)
async def put(request: Request, caller: CallerOf, services: ServicesOf) -> Response:
    """Ask whether a file of this content is there, and else for a link that takes just it, with just these headers."""
    wish = own_body(InputWish, await read_json_object(request))
    problems = [
        Problem("extension", shorten(wish.extension), "is no kind of image here", f"one of {', '.join(_KINDS)}")
    ]
    if wish.extension in _KINDS:
        allowed = f"{_KINDS[wish.extension]}, as the extension says"
        problems = [Problem("content_type", shorten(wish.content_type), "does not fit", allowed)]
    if _KINDS.get(wish.extension) != wish.content_type:
        raise InvalidRequest(tuple(problems))
    if wish.size > services.settings.upload_max_bytes:
        return too_large("size", f"{wish.size} bytes", services.settings.upload_max_bytes)
    key = input_key(caller.owner, wish.sha256, wish.extension)
    found = await services.on_storage_thread(services.objects.size, key)
    answer = InputWire(exists=found == wish.size, uri=services.objects.uri(key))
    if not answer.exists:
        digest = base64.b64encode(bytes.fromhex(wish.sha256)).decode()
        url = services.objects.presigned_put(key, wish.content_type, wish.size, sha256=digest)
        headers = {"Content-Type": wish.content_type, "x-amz-checksum-sha256": digest}
        answer = answer.model_copy(update={"upload": PutWire(method="PUT", url=url, headers=headers)})
    return success(answer.model_dump(exclude_none=True))


@router.get(
    "/batches/outputs",
    summary="A link to an output",
    responses=batch_docs.responses(OutputWire, 400, 401, 404, 503),
    openapi_extra=openapi.query_extra(OutputWish),
)
async def output(request: Request, caller: CallerOf, services: ServicesOf) -> Response:
    """Return a short-lived link to an output, or to an input of yours, by the URI that the results name."""
    uri = own_query(OutputWish, request).uri
    try:
        bucket, key = split_s3_uri(uri)
        check_key(key)
    except BadUrl as error:
        raise InvalidRequest((Problem("uri", shorten(uri), str(error), "the s3:// URI of an output"),)) from None
    own = tuple(f"{place}/{caller.owner.hex}/" for place in _OWN)
    if bucket != services.objects.bucket or not key.startswith(own):
        raise Rejected("output_not_found", "no such file; check the URI, and that your key belongs to its owner")
    return success(OutputWire(url=services.objects.presigned_get(key)).model_dump())
