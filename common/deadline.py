"""A total time limit that also ends what hangs inside a system call.

A socket's own time-out restarts with every byte, so a server that sends one byte a second is never cut off by it:
here the watched sockets are shut down when the time is over, whatever they are doing.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Deadline:
    """`with Deadline(seconds) as deadline:` — after that time `expired` is true and watched sockets are shut."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._shut = False
        self._timer = threading.Timer(seconds, self._shut_sockets)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            while self._sockets:
                self._sockets.pop().close()

    @property
    def expired(self) -> bool:
        """Whether the time is over; true from before the first socket is shut."""
        return self._shut or time.monotonic() >= self._end

    def remaining(self) -> float:
        """Return the seconds left, above zero. Raises TimeoutError when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def watch(self, connection: socket.socket) -> None:
        """Shut `connection` down when the time is over. The caller keeps it and closes it as always."""
        # A copy of the descriptor: TLS takes the original away from this object, and a shutdown reaches all copies.
        copy = connection.dup()
        with self._lock:
            self._sockets.append(copy)
            if self._shut:
                _shut(copy)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `function` returns, or raise TimeoutError when the time is over, leaving it behind.

        For calls that cannot be interrupted but end by themselves, such as a DNS lookup.
        """
        outcome: Future[T] = Future()

        def run() -> None:
            try:
                outcome.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, all of them
                outcome.set_exception(error)

        threading.Thread(target=run, name="deadline-call", daemon=True).start()
        return outcome.result(timeout=self.remaining())

    def _shut_sockets(self) -> None:
        with self._lock:
            self._shut = True
            for connection in self._sockets:
                _shut(connection)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # the other side may have closed it already
        connection.shutdown(socket.SHUT_RDWR)
