"""A network on which every answer is late: a host of files, and a way to the object store that all uploads take.

The delays are drawn from one seeded series, so all who are compared in a run wait for the same ones. Nothing here
computes: what is late is only the first byte.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from tests.support.narrow_way import NarrowWay

_DECK: Final = 18
"""Delays that have the mean between them: few, so that a run of some tens of requests has it, too."""


class Delays:
    """Seconds to wait, one after another: most are short, and the longest is three and a half times the mean.

    They are the quantiles of an exponential distribution, shuffled anew each time that all of them were dealt.
    """

    def __init__(self, mean_seconds: float, seed: int = 1) -> None:
        self.drawn: list[float] = []
        quantiles = [-math.log(1 - (n + 0.5) / _DECK) for n in range(_DECK)]
        self._deck = [mean_seconds * one * _DECK / sum(quantiles) for one in quantiles]
        self._left: list[float] = []
        self._random = random.Random(seed)  # noqa: S311 - no secret comes of it
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Sleep for the next of them."""
        with self._lock:
            if not self._left:
                self._left = self._random.sample(self._deck, _DECK)
            seconds = self._left.pop()
            self.drawn.append(seconds)
        time.sleep(seconds)


class SlowHost(ThreadingHTTPServer):
    """Serves `files` by their paths, each time after one delay."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, files: Mapping[str, bytes], delays: Delays) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.host = f"127.0.0.1:{self.server_port}"
        self.files = files
        self.delays = delays

    def url(self, path: str) -> str:
        """Return the address of one of the files."""
        return f"http://{self.host}{path}"


class _Answer(BaseHTTPRequestHandler):
    server: SlowHost

    def do_GET(self) -> None:
        self.server.delays.wait()
        data = self.server.files.get(self.path)
        self.send_response(200 if data is not None else 404)
        self.send_header("Content-Length", str(len(data or b"")))
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, *_: Any) -> None:
        pass


class SlowWay(NarrowWay):
    """Lets each upload through after one delay."""

    def __init__(self, endpoint: str, delays: Delays) -> None:
        self.delays = delays
        super().__init__(endpoint)

    def may_pass(self) -> bool:
        """Wait, then let it pass."""
        self.delays.wait()
        return True


@dataclass(frozen=True)
class SlowNetwork:
    """Both, with one series of delays."""

    host: SlowHost
    way: SlowWay

    def restart(self, mean_seconds: float) -> Delays:
        """Begin the series anew with this mean; returns it, to be asked for what was drawn."""
        delays = Delays(mean_seconds)
        self.host.delays = self.way.delays = delays
        return delays


@contextmanager
def slow_network(files: Mapping[str, bytes], store_endpoint: str) -> Iterator[SlowNetwork]:
    """Yield a network, at first without delays, on which `files` are served and the store is reached."""
    none = Delays(0.0)
    way = SlowWay(store_endpoint, none)
    with SlowHost(files, none) as host:
        thread = threading.Thread(target=host.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield SlowNetwork(host, way)
        finally:
            host.shutdown()
            thread.join()
            way.close()
