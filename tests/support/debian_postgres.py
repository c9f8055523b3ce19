"""Debian's PostgreSQL 15, the oldest that a production server may be, in a temporary folder of its own.

It runs as `nobody` where root runs the tests, since PostgreSQL refuses to be root, and ends with the guardian.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from infra.embedded.ports import LOOPBACK, PortClaims
from infra.embedded.process import Guardian, Program
from infra.embedded.unprivileged import unprivileged_user

BINARIES: Final = Path("/usr/lib/postgresql/15/bin")
MISSING: Final = f"Debian's PostgreSQL 15 is not installed ({BINARIES}/postgres): apt install postgresql-15"
PASSWORD: Final = "for-this-run-only"


def is_installed() -> bool:
    """Return whether the server and initdb are there."""
    return all((BINARIES / name).is_file() for name in ("postgres", "initdb"))


@contextmanager
def running(guardian: Guardian) -> Iterator[str]:
    """Yield the URL of an empty server; stop and remove it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fillfleet-postgres-15-"))
    claims = PortClaims()
    try:
        port = claims.claim(None)
        yield from _serve(guardian, folder, port)
    finally:
        claims.release()
        shutil.rmtree(folder, ignore_errors=True)


def _serve(guardian: Guardian, folder: Path, port: int) -> Iterator[str]:
    user = unprivileged_user()
    password = folder / "password"
    password.write_text(PASSWORD)
    if user is not None:
        user.own(folder)
        user.own(password)
    details: dict[str, Any] = {"user": user.ids} if user else {}
    details |= {"env": {"LC_ALL": "C", "TZ": "UTC"}, "cwd": folder, "log": folder / "log"}
    data = str(folder / "data")
    initdb = ["-D", data, "-U", "app", "-A", "scram-sha-256", "--pwfile", str(password), "-E", "UTF8", "--no-sync"]
    guardian.run(
        Program(name="initdb-15", argv=[str(BINARIES / "initdb"), *initdb, "--locale=C.UTF-8"], **details), seconds=60
    )
    options = {"listen_addresses": LOOPBACK, "port": port, "unix_socket_directories": "", "fsync": "off"}
    words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    server = guardian.spawn(
        Program(
            name="postgres-15",
            argv=[str(BINARIES / "postgres"), "-D", data, *words],
            stop_signal=signal.SIGINT,
            **details,
        )
    )
    try:
        url = f"postgresql://app:{PASSWORD}@{LOOPBACK}:{port}/postgres"
        _until_it_answers(url)
        yield url
    finally:
        server.stop()


def _until_it_answers(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url, connect_timeout=3).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
