"""What the routes work with: settings, the database, the bucket, and whether this process is stopping.

Made once by create_app and handed to each route; nothing in this package is global.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass, field
from typing import Annotated, Final, ParamSpec, TypeVar
from uuid import UUID

import anyio
from anyio import CapacityLimiter
from fastapi import Depends
from sqlalchemy import Connection, Engine
from starlette.requests import Request

from common.database import make_engine, transaction
from common.objects import Objects
from common.prompt_deny_file import PromptDenyFile
from common.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

_DATABASE_THREADS: Final = 20
_STORAGE_THREADS: Final = 8
_INTAKE_THREADS: Final = 4
"""Judging rows is Python's work: more at once would only take time from the others."""
_RESULTS_THREADS: Final = 8
_STREAMS_OF_AN_OWNER: Final = 8
"""Of one that is read slowly a page of rows lies in memory; it takes no thread."""


@dataclass(frozen=True)
class Services:
    """The doors to the servers. Database and bucket have threads of their own: a slow bucket holds up no submit."""

    settings: Settings
    engine: Engine
    objects: Objects
    deny: PromptDenyFile
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the process is asked to stop, so that nobody goes on waiting for a result."""
    _database_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_DATABASE_THREADS))
    _storage_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_STORAGE_THREADS))
    _intake_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_INTAKE_THREADS))
    _results_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_RESULTS_THREADS))

    _streams: Counter[UUID] = field(default_factory=Counter)
    """How many streams each owner has open; the event loop's alone."""

    def begin_stream(self, owner: UUID) -> bool:
        """Count one more stream of the owner, until `end_stream`; False where it has enough of them."""
        if self._streams[owner] >= _STREAMS_OF_AN_OWNER:
            return False
        self._streams[owner] += 1
        return True

    def end_stream(self, owner: UUID) -> None:
        """Count one stream less."""
        self._streams[owner] -= 1
        if not self._streams[owner]:
            del self._streams[owner]

    async def in_transaction(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns, done on a thread of its own in one transaction.

        Raises what `work` raises, and Unavailable where the database does not answer.
        """

        return await anyio.to_thread.run_sync(self.ask, work, limiter=self._database_threads)

    def ask(self, work: Callable[[Connection], T]) -> T:
        """Do the same on the thread that one is on already, which must not be the event loop's."""
        with transaction(self.engine) as connection:
            return work(connection)

    async def on_storage_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `function`, which moves bytes to or from the bucket, returns."""
        return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs), limiter=self._storage_threads)

    async def on_intake_thread(self, function: Callable[[], T]) -> T:
        """Return what `function`, which takes rows in, returns."""
        return await anyio.to_thread.run_sync(function, limiter=self._intake_threads)

    async def streamed(self, pieces: Generator[bytes, None, None]) -> AsyncIterator[bytes]:
        """Yield the pieces, each made on a thread when it is asked for; whoever hangs up ends their making."""
        try:
            while (
                piece := await anyio.to_thread.run_sync(next, pieces, None, limiter=self._results_threads)
            ) is not None:
                yield piece
        finally:
            pieces.close()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        self.objects.close()


def make_services(settings: Settings) -> Services:
    """Return the services; nothing is connected to before it is needed.

    Raises Rejected (default_secret, prompt_rules_invalid).
    """
    settings.secret("api_key_secret")  # at start, and not at the first request
    threads = _DATABASE_THREADS + _INTAKE_THREADS + _RESULTS_THREADS
    engine = make_engine(settings, pool_size=threads, application="fillfleet api")
    deny = PromptDenyFile(settings.prompt_deny_file)
    return Services(settings=settings, engine=engine, objects=Objects(settings), deny=deny)


def _services(request: Request) -> Services:
    services = request.app.state.services
    if not isinstance(services, Services):
        raise TypeError("the app was not made by create_app")
    return services


ServicesOf = Annotated[Services, Depends(_services)]
