"""A little web server on loopback with one photograph on it: somebody else's site, from which jobs fetch by URL.

All that it does not have is a 404, which is what the demo's broken job runs into.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Final, Self

_LOOPBACK: Final = "127.0.0.1"


class PhotoServer:
    """Serves `files` (path -> content type and bytes) while entered."""

    def __init__(self, files: Mapping[str, tuple[str, bytes]]) -> None:
        self._server = ThreadingHTTPServer((_LOOPBACK, 0), _handler(files))
        self._thread = threading.Thread(target=self._server.serve_forever, name="photo-server", daemon=True)

    @property
    def host(self) -> str:
        """host:port, as FETCH_ALLOW_HOSTS wants it."""
        return f"{_LOOPBACK}:{self._server.server_address[1]}"

    def url(self, path: str) -> str:
        """Return the address of a file, whether it is there or not."""
        return f"http://{self.host}{path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(files: Mapping[str, tuple[str, bytes]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = files.get(self.path)
            if found is None:
                self.send_error(404)
                return
            content_type, data = found
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            pass  # the terminal belongs to the demo's progress

    return Handler
