"""A way to Postgres on which an answer can be lost: the server has done what it was asked, and nobody hears of it."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from sqlalchemy.engine import make_url

_BLOCK: Final = 65536
_COMMIT: Final = b"COMMIT"


class LossyProxy:
    """Passes bytes on both ways. Armed, it hangs up on the next COMMIT, between server's answer and client."""

    def __init__(self, database_url: str) -> None:
        self._target = make_url(database_url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._armed = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self.lost = 0
        """How many answers were lost so far."""

    @property
    def url(self) -> str:
        """The database's URL by way of this proxy."""
        here = self._target.set(host="127.0.0.1", port=self._listener.getsockname()[1])
        return here.render_as_string(hide_password=False)

    def lose_next_commit(self) -> None:
        """Lose the answer to the next COMMIT that comes by."""
        self._armed.set()

    def close(self) -> None:
        """Take no more connections; those that are open end with their clients."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._pass_on, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, client: socket.socket) -> None:
        server = socket.create_connection((self._target.host, self._target.port))
        with client, server, suppress(OSError):
            while True:
                for readable in select.select([client, server], [], [])[0]:
                    data = readable.recv(_BLOCK)
                    if not data:
                        return
                    if readable is server:
                        client.sendall(data)
                        continue
                    server.sendall(data)
                    if _COMMIT in data and self._armed.is_set():
                        self._armed.clear()
                        server.recv(_BLOCK)  # the server has done it
                        self.lost += 1
                        return


@contextmanager
def lossy(database_url: str) -> Iterator[LossyProxy]:
    """Yield a proxy in front of this database."""
    proxy = LossyProxy(database_url)
    try:
        yield proxy
    finally:
        proxy.close()
