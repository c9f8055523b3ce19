"""A host of images that now and then asks to be left alone, and remembers who came when."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from tests.support.fleet import png


class ShyHost(ThreadingHTTPServer):
    """Serves one picture at every path. Each time after `patience` of them it answers 429 for `rest` seconds."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *, patience: int, rest: int) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.host = f"127.0.0.1:{self.server_port}"
        self.picture = png(Image.new("RGBA", (256, 256), (0, 0, 0, 0)))
        self.served: list[str] = []
        self.most_at_once = 0
        self.rests: list[int] = []
        """How many requests came during each rest, the one that began it not counted."""
        self._patience, self._rest = patience, rest
        self._until = 0.0
        self._now = 0
        self._lock = threading.Lock()

    def enter(self, path: str) -> bool:
        """Take note of a request; returns whether it is served."""
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            if time.monotonic() < self._until:
                self.rests[-1] += 1
                return False
            if len(self.served) >= self._patience * (len(self.rests) + 1):
                self._until = time.monotonic() + self._rest
                self.rests.append(0)
                return False
            self.served.append(path)
            return True

    def leave(self) -> None:
        """Take note that a request has its answer."""
        with self._lock:
            self._now -= 1

    @property
    def retry_after(self) -> int:
        """Whole seconds that it asks for."""
        return self._rest


class _Answer(BaseHTTPRequestHandler):
    server: ShyHost

    def do_GET(self) -> None:
        try:
            if self.server.enter(self.path):
                time.sleep(0.02)  # so that requests side by side are seen side by side
                self._send(200, self.server.picture, ("Content-Type", "image/png"))
            else:
                self._send(429, b"", ("Retry-After", str(self.server.retry_after)))
        finally:
            self.server.leave()

    def _send(self, status: int, body: bytes, header: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header(*header)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running_shy_host(*, patience: int, rest: int) -> Iterator[ShyHost]:
    """Serve until the block ends."""
    with ShyHost(patience=patience, rest=rest) as host:
        thread = threading.Thread(target=host.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield host
        finally:
            host.shutdown()
            thread.join()
