"""A bad way to a real HTTP API: a proxy that misbehaves as a test says, and hands on everything else unchanged."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.api import ask

DROP = "drop"
"""Break the connection without a word, after the request was handed on."""
CUT = "cut"
"""Break off in the middle of the answer."""
Trouble = str | tuple[int, dict[str, str], bytes]


class _Request(BaseHTTPRequestHandler):
    server: BadWay
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._hand_on()

    def do_POST(self) -> None:
        self._hand_on()

    def _hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        trouble = self.server.next_trouble(self.path)
        if isinstance(trouble, tuple):
            self._answer(*trouble)
            return
        drop = {"host", "content-length", "accept-encoding", "connection"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in drop}
        answer = ask(self.command, self.server.target + self.path, headers=headers, content=body)
        if trouble == DROP:
            self.close_connection = True
            return
        self._answer(
            answer.status_code,
            {"Content-Type": answer.headers["content-type"]},
            answer.content,
            cut=trouble == CUT,
        )

    def _answer(self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        pass


class BadWay(ThreadingHTTPServer):
    """Meets each request with the next of `troubles`, and those after the last with none; keeps the paths asked for."""

    daemon_threads = True

    def __init__(self, target: str, troubles: list[Trouble]) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.target = target
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.paths: list[str] = []
        self._troubles = list(troubles)

    def next_trouble(self, path: str) -> Trouble | None:
        """Return what shall befall this request."""
        self.paths.append(path)
        return self._troubles.pop(0) if self._troubles else None


@contextmanager
def bad_way(target: str, *troubles: Trouble) -> Iterator[BadWay]:
    """Run the proxy until the block ends."""
    with BadWay(target, list(troubles)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="bad way")
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
