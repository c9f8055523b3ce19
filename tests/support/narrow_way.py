"""A way to the object store that can be made narrow: then so many uploads get through, and the next ones wait."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

_BLOCK: Final = 65536
_UPLOAD: Final = b"PUT "


class NarrowWay:
    """Passes bytes on both ways; who waits for a narrow way to become wide is hung up on then."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        assert parts.hostname
        assert parts.port
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._wide = threading.Event()
        self._wide.set()
        self._lock = threading.Lock()
        self._left = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """The store's endpoint by this way."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def narrow(self, uploads: int) -> None:
        """Let only so many more uploads through."""
        self._left = uploads
        self._wide.clear()

    def widen(self) -> None:
        """Let everything through again."""
        self._wide.set()

    def may_pass(self) -> bool:
        """Say whether an upload that has just come may pass now."""
        if self._wide.is_set():
            return True
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def close(self) -> None:
        """Take no more connections; those that are open end with their clients."""
        self.widen()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        server = socket.create_connection(self._target)
        with client, server, suppress(OSError):
            while True:
                for readable in select.select([client, server], [], [])[0]:
                    data = readable.recv(_BLOCK)
                    if not data:
                        return
                    if readable is client and data.startswith(_UPLOAD) and not self.may_pass():
                        self._wide.wait()
                        return
                    (server if readable is client else client).sendall(data)


@contextmanager
def narrow_way(endpoint: str) -> Iterator[NarrowWay]:
    """Yield a way to this store, which is wide at first."""
    way = NarrowWay(endpoint)
    try:
        yield way
    finally:
        way.close()
