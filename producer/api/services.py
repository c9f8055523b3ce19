"""What the routes work with: settings, the database, the bucket, and whether this process is stopping.

Made once by create_app and handed to each route; nothing in this package is global.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Final, ParamSpec, TypeVar

import anyio
from anyio import CapacityLimiter
from fastapi import Depends
from sqlalchemy import Connection, Engine
from starlette.requests import Request

from common.database import make_engine, transaction
from common.objects import Objects
from common.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

_DATABASE_THREADS: Final = 20
_STORAGE_THREADS: Final = 8


@dataclass(frozen=True)
class Services:
    """The doors to the servers. Database and bucket have threads of their own: a slow bucket holds up no submit."""

    settings: Settings
    engine: Engine
    objects: Objects
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the process is asked to stop, so that nobody goes on waiting for a result."""
    _database_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_DATABASE_THREADS))
    _storage_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_STORAGE_THREADS))

    async def in_transaction(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns, done on a thread of its own in one transaction.

        Raises what `work` raises, and Unavailable where the database does not answer.
        """

        def run() -> T:
            with transaction(self.engine) as connection:
                return work(connection)

        return await anyio.to_thread.run_sync(run, limiter=self._database_threads)

    async def on_storage_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `function`, which moves bytes to or from the bucket, returns."""
        return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs), limiter=self._storage_threads)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        self.objects.close()


def make_services(settings: Settings) -> Services:
    """Return the services; nothing is connected to before it is needed. Raises Rejected (default_secret)."""
    settings.secret("api_key_secret")  # at start, and not at the first request
    engine = make_engine(settings, pool_size=_DATABASE_THREADS, application="fillfleet api")
    return Services(settings=settings, engine=engine, objects=Objects(settings))


def _services(request: Request) -> Services:
    services = request.app.state.services
    if not isinstance(services, Services):
        raise TypeError("the app was not made by create_app")
    return services


ServicesOf = Annotated[Services, Depends(_services)]
