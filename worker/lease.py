"""A worker's right to its jobs: one thread that renews all leases, and beats into the workers table.

A lease is renewed only while its job's stage is inside its deadline; on the device that deadline moves with every tick.
So a stuck job loses its lease although its process lives. This file never decides what a job's end is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from sqlalchemy import Engine

from common import lifecycle
from common.database import transaction
from common.errors import Cancelled, Draining, LeaseLost, Unavailable
from common.lifecycle import Claim
from common.settings import Settings
from common.telemetry import get_logger
from common.workers import WorkerBeat, WorkerState, beat

log = get_logger(__name__)


_CLAIM_SECONDS: Final = 60.0
END: Final = "end"
"""The stage in which a job's thread writes what became of it."""


@dataclass(frozen=True)
class Stage:
    """What a job is doing, and until when it may. Replaced as a whole: no reader ever sees half of a change."""

    name: str
    """claim, fetch, decode, adapters, wait, device, left, upload, end"""
    seconds: float
    deadline: float
    on_device: bool

    @property
    def is_overdue(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline


def _stage(name: str, seconds: float, *, on_device: bool = False) -> Stage:
    return Stage(name, seconds, time.monotonic() + seconds, on_device)


class Lease:
    """One claimed job, as its own thread, the device and the heartbeat see it."""

    def __init__(self, job: UUID, attempt: int, wake: Callable[[], None]) -> None:
        self.job = job
        self.attempt = attempt
        self._wake = wake
        self._lock = threading.Lock()
        self._stage = _stage("claim", _CLAIM_SECONDS)
        self._lost = threading.Event()
        self._cancelled = threading.Event()
        self._drained = threading.Event()

    @property
    def stage(self) -> Stage:
        """What the job is doing now."""
        return self._stage

    @property
    def on_device(self) -> bool:
        """Whether the job is on the device now: only then a lost worker counts against it."""
        return self._stage.on_device

    @property
    def is_lost(self) -> bool:
        """Whether the job is known to be no longer this attempt's."""
        return self._lost.is_set()

    @property
    def is_given_up(self) -> bool:
        """Whether nothing more may be waited for on behalf of this attempt: it is lost, or the worker's time is up."""
        return self._lost.is_set() or self._drained.is_set()

    def enter(self, name: str, seconds: float, *, on_device: bool = False) -> None:
        """Begin a stage that may take this long. Raises LeaseLost, Cancelled or Draining, and then begins nothing."""
        begun = _stage(name, seconds, on_device=on_device)
        with self._lock:
            self.check()
            changed, self._stage = begun.on_device != self._stage.on_device, begun
        if changed:
            self._wake()  # a process that dies on the device must have said that it was there

    def tick(self) -> None:
        """Move the deadline: the stage has made progress. Raises LeaseLost, Cancelled or Draining."""
        with self._lock:
            self.check()
            self._stage = replace(self._stage, deadline=time.monotonic() + self._stage.seconds)

    def leave_device(self) -> None:
        """Say that the device has let go of the job, however that ended; its thread has the word again."""
        with self._lock:
            self._stage = _stage("left", self._stage.seconds)
        self._wake()

    def conclude(self, seconds: float) -> None:
        """Begin to write the end, which may wait so long for the database. A cancel comes too late from here on."""
        with self._lock:
            self._stage = _stage(END, seconds)

    def check(self) -> None:
        """Raise LeaseLost, Cancelled or Draining where the job is no longer this attempt's to go on with."""
        if self._lost.is_set():
            raise LeaseLost
        if self._cancelled.is_set():
            raise Cancelled
        if self._drained.is_set():
            raise Draining

    def check_off_device(self) -> None:
        """Do the same unless the job is on the device, where its next tick does; after this raised it never gets there.

        For the job's thread while it waits. Whoever left a job on the device would take the lease along, and it is by
        the lease that the heartbeat sees that the device hangs.
        """
        with self._lock:
            if not self._stage.on_device:
                self.check()

    def lose(self) -> None:
        """Mark the lease as lost; the job's thread stops at its next check."""
        self._lost.set()

    def cancel(self) -> None:
        """Mark the job as cancelled by its owner."""
        self._cancelled.set()

    def drain(self) -> None:
        """Mark the job as one to give back, wherever it is: the worker may not wait for it any longer."""
        self._drained.set()


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
        if self._thread.ident is not None:  # a worker that is stopped early has never started it
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

    def drain_all(self) -> None:
        """Have every job given back that is still here, wherever it is."""
        with self._lock:
            held = list(self._leases.values())
        for lease in held:
            lease.drain()

    def _loop(self) -> None:
        while True:
            self._bell.clear()  # first: who rings from here on is heard by the next wait
            stopping = self._stopping.is_set()
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
        for lease in held:
            stage = lease.stage
            if stage.is_overdue:
                self._give_up(lease, stage)
        alive = [lease for lease in held if not lease.is_lost]
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
        # Else its thread ended the job between our two looks, or is about to learn what became of the end it writes.
        if still_held and lease.stage.name != END:
            log.warning("lease.lost", job=lease.job.hex, attempt=lease.attempt, stage=lease.stage.name)
            lease.lose()

    def _give_up(self, lease: Lease, stage: Stage) -> None:
        if not lease.is_lost:
            log.error("lease.overdue", job=lease.job.hex, attempt=lease.attempt, stage=stage.name)
            lease.lose()
        if stage.on_device:  # also where the lease is lost already: the device hangs all the same
            self._on_wedged(lease)
