"""Turns whatever a route raises into an envelope. What is not listed here is a 500, written by access_log.py."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from common.contract import MODELS, InvalidRequest
from common.errors import FillfleetError, Rejected, Transient, Unavailable
from producer.api.envelope import ApiError, VendorCode, failure, invalid
from producer.inputs import NoSuchUpload
from producer.manifest import ManifestError

RETRY_SECONDS: Final = 2
_STATUS_OF: Final = {
    "batch_not_found": 404,
    "output_not_found": 404,
    "batch_exists": 409,
    "batch_name": 409,
    "batch_state": 409,
    "row_changed": 409,
}
"""Of errors that are no mistake in the request itself."""
_SHOWN_PATH: Final = 100


def add_error_handlers(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(InvalidRequest, _invalid_request)
    app.add_exception_handler(Rejected, _rejected)
    app.add_exception_handler(ManifestError, _rejected)
    app.add_exception_handler(Unavailable, _unavailable)
    app.add_exception_handler(Transient, _unavailable)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(ClientDisconnect, _disconnected)


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - narrows the type for mypy
    return failure(error)


async def _invalid_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidRequest)  # noqa: S101 - as above
    return failure(invalid(error.problems, status=404 if isinstance(error, NoSuchUpload) else 400))


async def _rejected(_request: Request, error: Exception) -> Response:
    assert isinstance(error, FillfleetError)  # noqa: S101 - as above
    data = {"code": int(VendorCode.INVALID_PARAMETER), "error_code": error.code}
    return failure(ApiError(_STATUS_OF.get(error.code, 400), str(error), data=data))


async def _unavailable(_request: Request, error: Exception) -> Response:
    message = f"{error}; nothing was changed, so try again in a few seconds"
    headers = {"Retry-After": str(RETRY_SECONDS)}
    return failure(ApiError(503, message, data={"code": int(VendorCode.INTERNAL)}, headers=headers))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    path = request.url.path
    path = path if len(path) <= _SHOWN_PATH else path[:_SHOWN_PATH] + "…"
    message = str(error.detail)
    if error.status_code == 404:
        message = f"nothing is at {request.method} {path}; the models here are {' and '.join(MODELS)}, see /docs"
    elif error.status_code == 405:
        message = f"{request.method} is not allowed at {path}; see /docs"
    return failure(ApiError(error.status_code, message, headers=error.headers))


async def _disconnected(_request: Request, _error: Exception) -> Response:
    return failure(ApiError(400, "the connection was closed before the whole body had come"))  # nobody reads this
