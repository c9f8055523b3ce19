"""The outermost layer: gives each request an id, logs one line for it, and turns what nobody caught into a 500.

Only the path is logged, never the query, headers or body: those carry keys, signatures and users' texts.
"""

from __future__ import annotations

import time
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.ids import new_id
from common.telemetry import get_logger
from producer.api.envelope import ApiError, VendorCode, failure

log = get_logger(__name__)

_SHOWN_PATH: Final = 200
_QUIET: Final = frozenset({"/healthz", "/readyz"})
"""Probes ask these every few seconds; they are logged only when they fail."""


class AccessLog:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, whatever happens below."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_id().hex
        began = time.perf_counter()
        status = 0

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        with structlog.contextvars.bound_contextvars(request=request_id):
            try:
                await self._app(scope, receive, watched_send)
            except Exception:
                log.exception("api.crashed", path=_path(scope))
                if status:  # half an answer is out: only closing the connection tells the client
                    raise
                await failure(_crashed(request_id))(scope, receive, watched_send)
            finally:
                if status != 200 or scope["path"] not in _QUIET:
                    log.info(
                        "api.request",
                        method=scope["method"],
                        path=_path(scope),
                        status=status,
                        ms=round((time.perf_counter() - began) * 1000, 1),
                        owner=scope.get("state", {}).get("owner"),
                    )


def _crashed(request_id: str) -> ApiError:
    return ApiError(
        500,
        f"something went wrong here, not with your request; tell the operator its id {request_id}",
        data={"code": int(VendorCode.INTERNAL), "request_id": request_id},
    )


def _path(scope: Scope) -> str:
    # Still percent-encoded, so that no path can write a line of its own into the log.
    path = scope.get("raw_path") or scope["path"].encode("utf-8", "backslashreplace")
    return str(path[:_SHOWN_PATH].decode("latin-1"))
