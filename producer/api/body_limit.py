"""Refuses bodies that are too large while they come in, so that none is ever held in memory or on disk as a whole.

The answer is written first and a bounded rest of the body is read and dropped after it: most clients look at the
answer only once they have sent everything, and would otherwise see a broken connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.contract import Problem
from producer.api.envelope import EnvelopeResponse, failure, invalid

_DRAIN_BYTES: Final = 64 * 1024 * 1024
_DRAIN_SECONDS: Final = 15.0


class BodyTooLarge(Exception):
    """More came in than the route takes; raised where the body is being read."""


class BodyLimit:
    """ASGI middleware.

    `limit_of` returns, for a path and a Content-Type, the name of what is limited and how many bytes it may have.
    """

    def __init__(self, app: ASGIApp, limit_of: Callable[[str, str], tuple[str, int]]) -> None:
        self._app = app
        self._limit_of = limit_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a body that ends at the limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name, limit = self._limit_of(scope["path"], _header(scope, b"content-type") or "")
        declared = _content_length(scope)
        if declared is not None and declared > limit:
            await _refuse(too_large(name, f"{declared} bytes", limit), scope, receive, send)
            return
        size = 0
        started = False

        async def bounded_receive() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise BodyTooLarge
            return message

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, bounded_receive, watched_send)
        except BodyTooLarge:
            if started:
                raise
            await _refuse(too_large(name, f"more than {limit} bytes", limit), scope, receive, send)


def too_large(name: str, value: str, limit: int) -> EnvelopeResponse:
    """Return the 413 that names what is too large, how large it is, and what is allowed."""
    problem = Problem(name, value, "is too large", f"at most {limit} bytes")
    return failure(invalid([problem], status=413))


async def _refuse(response: EnvelopeResponse, scope: Scope, receive: Receive, send: Send) -> None:
    response.headers["Connection"] = "close"
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    if not _waits_for_go_ahead(scope):
        with suppress(TimeoutError):  # whoever sends this slowly has had its answer
            await asyncio.wait_for(_drain(receive), _DRAIN_SECONDS)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive) -> None:
    size = 0
    while size < _DRAIN_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        size += len(message.get("body", b""))


def _content_length(scope: Scope) -> int | None:
    value = _header(scope, b"content-length")
    # Beyond 18 digits it is too large, whatever the number is.
    return int(value[:18]) if value is not None and value.isascii() and value.isdigit() else None


def _waits_for_go_ahead(scope: Scope) -> bool:
    return (_header(scope, b"expect") or "").lower() == "100-continue"


def _header(scope: Scope, wanted: bytes) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), None)
