"""The door to Postgres: engines, short transactions, and the notification that wakes the dispatcher.

A database that does not answer is `Unavailable`: nobody's fault, and never counted against a job.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from common.errors import Unavailable
from common.settings import Settings

JOBS_CHANNEL: Final = "fillfleet_jobs"
"""NOTIFY channel: a job became due. Notifications are a hint; polling finds what they miss."""

_STATEMENT_TIMEOUT_MS: Final = 30_000
_SILENCE_TIMEOUT_MS: Final = 60_000
"""How long a client may say nothing inside a transaction: one frozen there, perhaps with its machine, would else hold
its locks for ever, and nobody could rescue its jobs. To judge a chunk of rows takes seconds."""
_READ_ONLY: Final = "25006"
"""The SQLSTATE of a write to a standby."""
_KEEPALIVES: Final[dict[str, Any]] = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""A server that vanished without a word is noticed within about 20 s, also by who only listens."""


def make_engine(settings: Settings, *, pool_size: int = 5, application: str = "fillfleet") -> Engine:
    """Return an engine whose connections are checked before use and give up on a silent server."""
    return create_engine(
        settings.sqlalchemy_url,
        pool_size=pool_size,
        max_overflow=5,
        pool_timeout=10,
        pool_pre_ping=True,
        hide_parameters=True,  # they hold what users wrote, and errors are logged
        connect_args={
            "connect_timeout": 5,
            "application_name": application,
            # No JIT: the planner thinks that the hops of waiting.py may go on for long, and compiling takes 50 times as
            # long as they do.
            "options": f"-c statement_timeout={_STATEMENT_TIMEOUT_MS} -c lock_timeout=10000"
            f" -c idle_in_transaction_session_timeout={_SILENCE_TIMEOUT_MS} -c jit=off",
            **_KEEPALIVES,
        },
    )


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Run the block in one transaction. Raises Unavailable where the database does not answer."""
    try:
        with engine.begin() as connection:
            yield connection
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise Unavailable("database_unavailable", "the database does not answer") from error
    except DBAPIError as error:
        demoted = getattr(error.orig, "sqlstate", None) == _READ_ONLY
        if demoted:
            engine.dispose()  # these connections lead to what was the primary until now; new ones look again
        if demoted or error.connection_invalidated:
            raise Unavailable("database_unavailable", "the database does not answer") from error
        raise


def notify_jobs(connection: Connection) -> None:
    """Wake the dispatchers when this transaction commits."""
    connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": JOBS_CHANNEL})


class Doorbell:
    """One LISTEN connection. `wait` returns early when a job became due; after an outage `listen` has to come first."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.sqlalchemy_url.replace("postgresql+psycopg://", "postgresql://", 1)
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def listen(self) -> None:
        """Connect and listen where not yet done. Raises Unavailable."""
        if self._connection is not None and not self._connection.closed:
            return
        try:
            self._connection = psycopg.connect(
                self._url, autocommit=True, connect_timeout=5, application_name="fillfleet doorbell", **_KEEPALIVES
            )
            self._connection.execute(f"LISTEN {JOBS_CHANNEL}")
        except psycopg.OperationalError as error:
            self._connection = None
            raise Unavailable("database_unavailable", "the database does not answer") from error

    def wait(self, seconds: float) -> bool:
        """Wait for a notification for at most `seconds`; return whether one came. Raises Unavailable."""
        if self._connection is None:
            raise Unavailable("database_unavailable", "not connected yet: call listen first")
        try:
            return any(True for _ in self._connection.notifies(timeout=seconds, stop_after=1))
        except psycopg.OperationalError as error:
            self.close()
            raise Unavailable("database_unavailable", "the database does not answer") from error

    def close(self) -> None:
        """Close the connection; `listen` makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
