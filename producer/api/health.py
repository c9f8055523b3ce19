"""/healthz: this process lives. /readyz: it can serve, since database, Redis and bucket answer.

Both are open to anyone, so they say which server is away and nothing about where it is or why.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Final

import anyio
from fastapi import APIRouter
from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import Response

from common.broker import QueueLengths
from common.database import transaction
from common.objects import Objects
from common.settings import Settings
from common.telemetry import get_logger
from common.workers import live_workers
from producer.api.envelope import EnvelopeResponse

log = get_logger(__name__)

_REMEMBER_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 4.0
_WORKER_SILENCE_SECONDS: Final = 30.0
_PROBE_KEY: Final = "readyz"  # never there: that the bucket says so is what is asked

_FRESH: Final = {"Cache-Control": "no-store"}

router = APIRouter(tags=["health"])


class Readiness:
    """Asks each server at most once at a time and once a second: one that hangs piles up no threads, nor do askers."""

    def __init__(self, settings: Settings, engine: Engine, objects: Objects) -> None:
        self._lengths = QueueLengths(settings)
        self._silence = max(_WORKER_SILENCE_SECONDS, 3 * settings.heartbeat_seconds)
        self._engine = engine
        self._questions: dict[str, Callable[[], object]] = {
            "database": self._count_workers,
            "redis": self._lengths.read,
            "s3": lambda: objects.size(_PROBE_KEY),
        }
        self._threads = ThreadPoolExecutor(len(self._questions), thread_name_prefix="readiness")
        self._asked: dict[str, Future[object]] = {}
        self._workers = 0
        self._lock = threading.Lock()
        self._known: dict[str, Any] = {}
        self._known_until = 0.0

    def ask(self) -> dict[str, Any]:
        """Return what /readyz says; `status` is "ready" where every server answered in time."""
        with self._lock:
            if time.monotonic() >= self._known_until:
                self._known = self._ask()
                self._known_until = time.monotonic() + _REMEMBER_SECONDS
            return self._known

    def close(self) -> None:
        """Wait for nothing and close what is ours."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._lengths.close()

    def _ask(self) -> dict[str, Any]:
        for name, question in self._questions.items():
            if name not in self._asked:
                self._asked[name] = self._threads.submit(question)
        wait(self._asked.values(), timeout=_ANSWER_SECONDS)
        servers = {name: self._answer_of(name) for name in self._questions}
        ready = all(answer == "ok" for answer in servers.values())
        workers = self._workers if servers["database"] == "ok" else 0
        return {"status": "ready" if ready else "unavailable", "workers": workers, **servers}

    def _answer_of(self, name: str) -> str:
        if not self._asked[name].done():
            return "unavailable"
        error = self._asked.pop(name).exception()
        if error is None:
            return "ok"
        log.warning("api.not_ready", server=name, error=str(error))
        return "unavailable"

    def _count_workers(self) -> int:
        with transaction(self._engine) as connection:
            self._workers = live_workers(connection, seen_within_seconds=self._silence)
        return self._workers


@router.get("/healthz", summary="Does this process live?")
async def healthz() -> Response:
    """Answer without asking any server."""
    return EnvelopeResponse({"status": "ok"}, headers=_FRESH)


@router.get("/readyz", summary="Can this process serve?", responses={503: {"description": "Some server is away"}})
async def readyz(request: Request) -> Response:
    """Ask database, Redis and bucket; `workers` is how many workers are ready now."""
    readiness: Readiness = request.app.state.readiness
    known = await anyio.to_thread.run_sync(readiness.ask)
    return EnvelopeResponse(known, status_code=200 if known["status"] == "ready" else 503, headers=_FRESH)
