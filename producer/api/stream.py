"""An answer that is made while it is read. Where it cannot be finished the connection is broken off, not ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from common.errors import FillfleetError
from common.telemetry import get_logger

log = get_logger(__name__)


class BreakableStream(StreamingResponse):
    """A stream of bytes. Of trouble of ours its reader sees that it is not whole: the last chunk never comes."""

    def __init__(
        self,
        content: AsyncIterator[bytes],
        *,
        media_type: str,
        headers: Mapping[str, str],
        on_end: Callable[[], None],
    ) -> None:
        """`on_end` is called once, however the stream ends."""
        super().__init__(content, media_type=media_type, headers=headers)
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; whoever hangs up ends it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()

    async def stream_response(self, send: Send) -> None:
        """Send all of it, or what there is until one of our errors."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for piece in self.body_iterator:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except FillfleetError as error:
            log.warning("api.stream_broken_off", code=error.code)
            return  # the server closes the connection of an answer that has no end
        await send({"type": "http.response.body", "body": b"", "more_body": False})
