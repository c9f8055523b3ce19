"""Uploads: as a ticket for a PUT straight to the bucket, or as a multipart form through this API.

Either gives a `download_url`, by which the owner names the file in a request; to all others it is a 404.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from common.contract import Problem, Text, shorten
from common.ids import parse_id
from common.settings import Settings
from producer.api import openapi
from producer.api.auth import CallerOf
from producer.api.body_limit import too_large
from producer.api.envelope import ApiError, EnvelopeResponse, invalid, success
from producer.api.json_body import read_json_object
from producer.api.links import ApiRoot, ApiRootOf
from producer.api.services import ServicesOf
from producer.api.validation import ignored, validated
from producer.uploads import Upload, add_upload, find_upload, new_upload

MULTIPART_OVERHEAD_BYTES: Final = 64 * 1024
"""What the form around a file may take."""
FILE_FIELD: Final = "file"

_MAX_FILENAME: Final = 255
_DEFAULT_TYPE: Final = "application/octet-stream"
# Anything else (HTML, say) is stored as plain bytes, so that no link of ours ever runs as a page.
_STORED_AS_IS: Final = re.compile(r"image/(png|jpeg|webp)")
_FORM: Final = "multipart/form-data with one part named file"

router = APIRouter(tags=["media"])


class UploadWish(BaseModel):
    """What will be uploaded."""

    model_config = ConfigDict(strict=True)

    filename: Annotated[Text, Field(min_length=1, max_length=_MAX_FILENAME)] = Field(
        description=f"a text of 1 to {_MAX_FILENAME} characters"
    )
    size: int = Field(ge=1, description="the file's bytes, an integer from 1 to what this server takes")
    content_type: Annotated[Text, Field(max_length=200)] = Field(
        default=_DEFAULT_TYPE, description="a media type such as image/png"
    )


@router.post(
    "/media/uploads",
    summary="Ask for an upload straight to the bucket",
    responses=openapi.responses(openapi.TicketEnvelope, 400, 401, 413, 503),
    openapi_extra=openapi.body_extra(
        UploadWish, {"filename": "knight.png", "size": 123456, "content_type": "image/png"}
    ),
)
async def ask(request: Request, caller: CallerOf, services: ServicesOf, root: ApiRootOf) -> Response:
    """Get a link to PUT the file to, with just the headers given here."""
    values = await read_json_object(request)
    wish = validated(UploadWish, values)
    if wish.size > services.settings.upload_max_bytes:
        return _file_too_large("size", wish.size, services.settings)
    upload = new_upload(caller.owner, wish.filename, _stored_type(wish.content_type))
    await services.in_transaction(lambda connection: add_upload(connection, upload))
    put = {
        "method": "PUT",
        "url": services.objects.presigned_put(upload.key, upload.content_type, wish.size),
        "headers": {"Content-Type": upload.content_type},
    }
    data = {**_described(upload, wish.size, root), "upload": put}
    return success(data, headers=ignored(sorted(set(values) - set(UploadWish.model_fields))))


@router.post(
    "/media/upload/binary",
    summary="Upload a file through this API",
    responses=openapi.responses(openapi.UploadEnvelope, 400, 401, 413, 503),
    openapi_extra=openapi.file_extra(FILE_FIELD),
)
async def upload_binary(request: Request, caller: CallerOf, services: ServicesOf, root: ApiRootOf) -> Response:
    """Send the file as the part `file` of a multipart form."""
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise invalid([Problem("Content-Type", shorten(kind), "is not supported", _FORM)])
    async with request.form(max_files=1, max_fields=20, max_part_size=MULTIPART_OVERHEAD_BYTES) as form:
        file = form.get(FILE_FIELD)
        if not isinstance(file, UploadFile):
            raise invalid([Problem(FILE_FIELD, "", "is missing", _FORM)])
        size = file.size or 0
        if size == 0:
            raise invalid([Problem(FILE_FIELD, "0 bytes", "is empty", _allowed_size(services.settings))])
        if size > services.settings.upload_max_bytes:
            return _file_too_large(FILE_FIELD, size, services.settings)
        named = validated(
            UploadWish, {"filename": file.filename or "file", "size": size, "content_type": file.content_type}
        )
        upload = new_upload(caller.owner, named.filename, _stored_type(named.content_type))
        await services.on_storage_thread(services.objects.put, upload.key, file.file, upload.content_type)
    # The row comes after the object: an upload that can be named is there.
    await services.in_transaction(lambda connection: add_upload(connection, upload))
    return success({"type": upload.content_type.partition("/")[0], **_described(upload, size, root)})


@router.get(
    "/media/files/{upload_id}/{filename:path}",
    summary="A file that you uploaded",
    status_code=307,
    responses=openapi.redirect_responses(),
)
async def download(upload_id: str, caller: CallerOf, services: ServicesOf) -> Response:
    """Redirect to a short-lived link to the file."""
    wanted = parse_id(upload_id)
    upload = None
    if wanted is not None:
        upload = await services.in_transaction(lambda connection: find_upload(connection, caller.owner, wanted))
    if upload is None:
        raise ApiError(404, "no such file; check the link, and that your key belongs to the owner who uploaded it")
    body = {"code": 307, "message": "the file is at the address in the header Location", "data": {}}
    link = services.objects.presigned_get(upload.key)
    return EnvelopeResponse(body, status_code=307, headers={"Location": link, "Cache-Control": "no-store"})


def _described(upload: Upload, size: int, root: ApiRoot) -> dict[str, Any]:
    return {
        "id": upload.id.hex,
        "filename": upload.filename,
        "size": size,
        "content_type": upload.content_type,
        "download_url": root.upload(upload),
    }


def _stored_type(content_type: str) -> str:
    plain = content_type.partition(";")[0].strip().lower()
    return plain if _STORED_AS_IS.fullmatch(plain) else _DEFAULT_TYPE


def _allowed_size(settings: Settings) -> str:
    return f"1 to {settings.upload_max_bytes} bytes"


def _file_too_large(field: str, size: int, settings: Settings) -> EnvelopeResponse:
    return too_large(field, f"{size} bytes", settings.upload_max_bytes)
