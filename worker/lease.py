"""A worker's right to its jobs: one thread that renews all leases, and beats into the workers table.

A lease is renewed only while its job's stage is inside its deadline; on the device that deadline moves with every tick.
So a stuck job loses its lease although its process lives. This file never decides what a job's end is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import UUID

from sqlalchemy import Engine

from common import lifecycle
from common.database import transaction
from common.errors import Cancelled, LeaseLost, Unavailable
from common.lifecycle import Claim
from common.settings import Settings
from common.telemetry import get_logger
from common.workers import WorkerBeat, WorkerState, beat

log = get_logger(__name__)


class Lease:
    """One claimed job, as its own thread, the device and the heartbeat see it."""

    def __init__(self, job: UUID, attempt: int, wake: Callable[[], None]) -> None:
        self.job = job
        self.attempt = attempt
        self._wake = wake
        self._stage = "claim"
        self._seconds = 60.0
        self._deadline = time.monotonic() + self._seconds
        self._lost = threading.Event()
        self._cancelled = threading.Event()
        self._on_device = False

    @property
    def stage(self) -> str:
        """What the job is doing: fetch, adapters, wait, device, upload."""
        return self._stage

    @property
    def on_device(self) -> bool:
        """Whether the job is on the device now: only then a lost worker counts against it."""
        return self._on_device

    @property
    def is_lost(self) -> bool:
        """Whether the job is known to be no longer this attempt's."""
        return self._lost.is_set()

    @property
    def is_overdue(self) -> bool:
        """Whether the stage has outlived its deadline."""
        return time.monotonic() > self._deadline

    def enter(self, stage: str, seconds: float, *, on_device: bool = False) -> None:
        """Begin a stage that may take this long. Raises LeaseLost or Cancelled."""
        changed = on_device != self._on_device
        self._stage, self._seconds, self._on_device = stage, seconds, on_device
        self.tick()
        if changed:
            self._wake()  # a process that dies on the device must have said that it was there

    def tick(self) -> None:
        """Move the deadline: the stage has made progress. Raises LeaseLost or Cancelled."""
        self.check()
        self._deadline = time.monotonic() + self._seconds

    def check(self) -> None:
        """Raise LeaseLost or Cancelled where the job is no longer this attempt's to go on with."""
        if self._lost.is_set():
            raise LeaseLost
        if self._cancelled.is_set():
            raise Cancelled

    def lose(self) -> None:
        """Mark the lease as lost; the job's thread stops at its next check."""
        self._lost.set()

    def cancel(self) -> None:
        """Mark the job as cancelled by its owner."""
        self._cancelled.set()


class Heartbeat:
    """The thread that keeps all leases of this worker alive, on a connection of its own."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        worker: WorkerBeat,
        *,
        on_wedged: Callable[[Lease], None],
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._worker = worker
        self._on_wedged = on_wedged
        self._leases: dict[tuple[UUID, int], Lease] = {}
        self._lock = threading.Lock()
        self._bell = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)
        self._last_beat = time.monotonic()

    @property
    def worker(self) -> WorkerBeat:
        """What the worker last said of itself."""
        return self._worker

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs and tries to beat, whether or not the database answers."""
        return self._thread.is_alive()

    @property
    def seconds_since_beat(self) -> float:
        """How long ago the database last took a heartbeat."""
        return time.monotonic() - self._last_beat

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Say that the worker has stopped, and end the thread."""
        self.say(state=WorkerState.STOPPED)
        self._stopping.set()
        self._bell.set()
        self._thread.join(timeout=10)

    def say(self, *, state: WorkerState, version: dict[str, str] | None = None) -> None:
        """Change what the next beat says, and beat now."""
        version = dict(self._worker.version) if version is None else version
        self._worker = replace(self._worker, state=state, version=version)
        self._bell.set()

    @contextmanager
    def hold(self, claim: Claim) -> Iterator[Lease]:
        """Keep the claim's lease alive inside the block."""
        lease = Lease(claim.job, claim.attempt, self._bell.set)
        with self._lock:
            self._leases[claim.job, claim.attempt] = lease
        try:
            yield lease
        finally:
            with self._lock:
                del self._leases[claim.job, claim.attempt]

    def _loop(self) -> None:
        while True:
            stopping = self._stopping.is_set()
            self._bell.clear()
            try:
                self._beat()
            except Unavailable:
                log.warning("heartbeat.missed", seconds=round(self.seconds_since_beat, 1))
            except Exception:
                log.exception("heartbeat.failed")  # must outlive anything: without it every job here is lost
            if stopping:
                return
            self._bell.wait(self._settings.heartbeat_seconds)

    def _beat(self) -> None:
        with self._lock:
            held = list(self._leases.values())
        alive = [lease for lease in held if not lease.is_overdue]
        for lease in held:
            if lease.is_overdue:
                self._give_up(lease)
        with transaction(self._engine) as connection:
            beat(connection, self._worker)
            renewals = lifecycle.renew(
                connection,
                [(lease.job, lease.attempt, lease.on_device) for lease in alive],
                lease_seconds=self._settings.lease_seconds,
            )
        self._last_beat = time.monotonic()
        answered = {(renewal.job, renewal.attempt): renewal for renewal in renewals}
        for lease in alive:
            renewal = answered.get((lease.job, lease.attempt))
            if renewal is None:
                self._missing(lease)
            elif renewal.cancel_requested:
                lease.cancel()

    def _missing(self, lease: Lease) -> None:
        with self._lock:
            still_held = (lease.job, lease.attempt) in self._leases
        if still_held:  # else its thread ended the job between our two looks
            log.warning("lease.lost", job=lease.job.hex, attempt=lease.attempt, stage=lease.stage)
            lease.lose()

    def _give_up(self, lease: Lease) -> None:
        log.error("lease.overdue", job=lease.job.hex, attempt=lease.attempt, stage=lease.stage)
        lease.lose()
        if lease.on_device:
            self._on_wedged(lease)
