"""Free ports on 127.0.0.1 for one embedded system, apart from those of any other one on this machine.

A port is only ever free until somebody takes it: who starts a server has to try another one when it fails to bind.
"""

from __future__ import annotations

import random
import socket
import sys
from typing import Final

LOOPBACK: Final = "127.0.0.1"
_LOWEST: Final = 20_000
_HIGHEST: Final = 32_000
"""Below the range that Linux and macOS take ports of outgoing connections from. Otherwise a client that keeps trying a
server which is down for a moment may be given that very port, connect to itself, and so keep the server from it."""


class PortClaims:
    """The ports that one system has claimed; kept until `release` or the end of the process."""

    def __init__(self) -> None:
        self._claims: dict[int, socket.socket | None] = {}
        self._random = random.SystemRandom()

    def claim(self, preferred: int | None = None) -> int:
        """Return a free port, the preferred one where it is free. Raises OSError where there is none."""
        if preferred is not None and self._take(preferred):
            return preferred
        for _ in range(1000):
            port = self._random.randrange(_LOWEST, _HIGHEST)
            if self._take(port):
                return port
        raise OSError(f"no free port on {LOOPBACK} between {_LOWEST} and {_HIGHEST}")

    def claim_twins(self, distance: int, preferred: int | None = None) -> int:
        """Return a port that is free together with the one `distance` above it. Raises OSError where there is none."""
        for attempt in range(1000):
            port = preferred if preferred and attempt == 0 else self._random.randrange(_LOWEST, _HIGHEST - distance)
            if self._take(port):
                if self._take(port + distance):
                    return port
                self.release(port)
        raise OSError(f"no two free ports {distance} apart on {LOOPBACK}")

    def release(self, *ports: int) -> None:
        """Give these ports back, or all of them."""
        for port in ports or tuple(self._claims):
            claim = self._claims.pop(port, None)
            if claim is not None:
                claim.close()

    def _take(self, port: int) -> bool:
        if port in self._claims or not is_free(port):
            return False
        try:
            self._claims[port] = _announce(port)
        except OSError:
            return False
        return True


def is_free(port: int) -> bool:
    """Return whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _announce(port: int) -> socket.socket | None:
    """Tell other systems starting at this moment that the port is spoken for, before any server listens on it.

    The kernel drops an abstract socket's name with the process; it exists once per network namespace, as ports do.
    Raises OSError where another one has it.
    """
    if sys.platform != "linux":
        return None
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0fillfleet-port-{port}")
    except OSError:
        claim.close()
        raise
    return claim
