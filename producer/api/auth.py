"""Who is asking: the Bearer key of a request, looked up at each one, so that a revoked key stops working at once."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request

from producer import keys
from producer.api.envelope import ApiError
from producer.api.services import ServicesOf
from producer.keys import Caller

_HOW: Final = (
    "send the header `Authorization: Bearer KEY`; the operator makes a key with `fillfleet keys create --owner NAME`"
)
_BEARER: Final = HTTPBearer(
    auto_error=False, scheme_name="API key", description="A key from `fillfleet keys create --owner NAME`."
)


def _unauthorized(what: str) -> ApiError:
    return ApiError(401, f"{what}: {_HOW}", headers={"WWW-Authenticate": "Bearer"})


async def _authenticate(
    request: Request,
    services: ServicesOf,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Caller:
    if credentials is None:
        sent = "Authorization" in request.headers
        raise _unauthorized("the Authorization header is not of the form Bearer KEY" if sent else "no API key was sent")
    text = credentials.credentials.strip()
    if not keys.is_well_formed(text):
        raise _unauthorized("the API key is mistyped or was cut off")

    caller = await services.in_transaction(lambda connection: keys.authenticate(connection, text, services.settings))
    if caller is None:
        raise _unauthorized("the API key is unknown or was revoked")
    request.state.owner = caller.owner.hex  # for the access log
    return caller


CallerOf = Annotated[Caller, Depends(_authenticate)]
