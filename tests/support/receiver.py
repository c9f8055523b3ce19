"""A receiver of webhooks: a real web server on loopback that keeps what it is sent and answers as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Delivery:
    """One POST as it came; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """The webhook-id."""
        return self.headers["webhook-id"]

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


class Request(BaseHTTPRequestHandler):
    """One request to a Receiver."""

    server: Receiver

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.taken(Delivery(self.path, headers, self.rfile.read(int(headers["content-length"]))), self)

    def do_GET(self) -> None:
        """What a followed redirect would become."""
        self.server.taken(Delivery(self.path, {}, b""), self)

    def answer(self, status: int = 200, **headers: str) -> None:
        """Answer with an empty body."""
        self.send_response(status)
        for name, value in {"Content_Length": "0", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        pass


class Receiver(ThreadingHTTPServer):
    """Keeps `deliveries` in the order in which they came, and counts who connects."""

    daemon_threads = True
    request_queue_size = 64  # with a shorter one the kernel makes some clients wait a second

    def __init__(self, respond: Callable[[Request], None]) -> None:
        super().__init__((HOST, 0), Request)
        self.url = f"http://{HOST}:{self.server_address[1]}/hook"
        self.deliveries: list[Delivery] = []
        self.connections = 0
        self._respond = respond
        self._came = threading.Condition()

    def taken(self, delivery: Delivery, request: Request) -> None:
        """Keep `delivery`, then answer."""
        with self._came:
            self.deliveries.append(delivery)
            self._came.notify_all()
        self._respond(request)

    def wait_for(self, count: int, seconds: float = 60.0) -> list[Delivery]:
        """Return all deliveries once there are `count` of them. Raises AssertionError where there are fewer by then."""
        with self._came:
            came = self._came.wait_for(lambda: len(self.deliveries) >= count, seconds)
            assert came, f"{len(self.deliveries)} webhooks came instead of {count}"
            return list(self.deliveries)

    def verify_request(self, *_: Any) -> bool:
        self.connections += 1
        return True

    def handle_error(self, *_: Any) -> None:
        """Senders that leave early are what some tests are about."""


@contextmanager
def running_receiver(respond: Callable[[Request], None] = Request.answer) -> Iterator[Receiver]:
    """Run a receiver, which answers 200 to everything unless `respond` does something else."""
    with Receiver(respond) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()
