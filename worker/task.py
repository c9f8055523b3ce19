"""One message: claim its job, have it filled, and write what became of it.

Here each error gets its meaning for the job's life. Nothing else in worker/ ends or releases a job.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar
from uuid import UUID

from sqlalchemy import Connection, Engine

from common import lifecycle
from common.contract import Status
from common.database import transaction
from common.errors import (
    Cancelled,
    Draining,
    FillfleetError,
    JobFailed,
    LeaseLost,
    Rejected,
    Transient,
    Unavailable,
)
from common.lifecycle import Claim, Release
from common.result import JobResult
from common.settings import Settings
from common.telemetry import bind_job, get_logger
from worker.lease import Heartbeat, Lease
from worker.outage import Outage
from worker.work import DeviceBroken

log = get_logger(__name__)
T = TypeVar("T")

_OUTAGE_DELAY_SECONDS: Final = 5.0
"""How long a job waits that met our own servers down; it is released to whoever has them back first."""
_RETRY_SECONDS: Final = 0.5
_END_SECONDS: Final = 900.0
"""How long an end may wait for the database to take it; after that somebody else may have the job."""


class FillTask:
    """What a Celery message sets off."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        heartbeat: Heartbeat,
        outage: Outage,
        draining: threading.Event,
        fill: Callable[[Claim, Lease], JobResult],
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._heartbeat = heartbeat
        self._outage = outage
        self._draining = draining
        self._fill = fill

    def run(self, job: UUID) -> None:
        """Do the job if it is still to be done. Raises JobFailed once a failed end is committed."""
        if not self._outage.wait_until_over():
            return  # draining: the job was not claimed, and the dispatcher sends it again
        claim = self._insist(lambda connection: self._claim(connection, job), lambda: not self._draining.is_set())
        if claim is None:
            log.info("job.not_due", job=job.hex)  # somebody has it, or it waits for its backoff, or it is over
            return
        with bind_job(claim.job, claim.attempt), self._heartbeat.hold(claim) as lease:
            log.info("job.claimed")
            self._attempt(claim, lease)

    def _claim(self, connection: Connection, job: UUID) -> Claim | None:
        return lifecycle.claim(
            connection, job, worker=self._heartbeat.worker.id, lease_seconds=self._settings.lease_seconds
        )

    def _attempt(self, claim: Claim, lease: Lease) -> None:
        try:
            result = self._fill(claim, lease)
            if self._write(lease, lambda connection: self._complete(connection, claim, result)):
                log.info("job.completed", images=len(result.outputs), **result.timings.model_dump())
        except LeaseLost:
            log.warning("job.lease_lost")
        except (Rejected, Cancelled) as error:
            self._fail(claim, lease, error)
        except Draining as error:
            self._release(claim, lease, Release(error.code, error.message, counts=False))
        except Transient as error:
            self._release(claim, lease, self._trouble_of(claim, error))
        except Unavailable as error:
            self._release(claim, lease, self._outage_of(claim, error))
        except DeviceBroken:
            # Only the job that was on the device gets this; those that waited get Draining.
            self._release(claim, lease, Release("device_broken", "the GPU failed under this job", counts=True))
        except Exception:
            log.exception("job.internal_error")
            why = Release("internal_error", "an internal error, which the operator's log describes", counts=True)
            self._release(claim, lease, why)

    def _trouble_of(self, claim: Claim, error: Transient) -> Release:
        if error.host is None:
            return Release(error.code, error.message, counts=True)
        # A host that asks for fewer requests says nothing about the job that it happened to say it to; and the other
        # jobs that name it wait as well. Where it never gets better, such a job must end at some time, too.
        settings = self._settings
        pause = error.retry_after_seconds
        if pause is None:
            pause = min(settings.backoff_max_seconds, settings.backoff_seconds * 2 ** min(claim.attempt - 1, 30))
        return Release(
            error.code,
            error.message,
            counts=claim.attempt >= settings.max_uncounted_attempts,
            delay_seconds=pause,
            host=error.host,
            host_pause_seconds=pause,
        )

    def _outage_of(self, claim: Claim, error: Unavailable) -> Release:
        self._outage.note(error)
        # One object can be out of reach while everything else works. Such a job must end at some time, too.
        if claim.attempt >= self._settings.max_uncounted_attempts and self._outage.is_over():
            return Release(error.code, error.message, counts=True)
        return Release(error.code, error.message, counts=False, delay_seconds=_OUTAGE_DELAY_SECONDS)

    def _complete(self, connection: Connection, claim: Claim, result: JobResult) -> None:
        lifecycle.complete(connection, claim.job, claim.attempt, result.model_dump(mode="json"))

    def _fail(self, claim: Claim, lease: Lease, error: FillfleetError) -> None:
        if not self._write(lease, lambda connection: lifecycle.fail(connection, claim.job, claim.attempt, error)):
            return
        log.info("job.failed", code=error.code, error=error.message)
        raise JobFailed(error.code, error.message) from None  # Flower shows the traceback: no more than the message

    def _release(self, claim: Claim, lease: Lease, why: Release) -> None:
        ended: list[Status] = []
        written = self._write(
            lease,
            lambda connection: ended.append(
                lifecycle.release(connection, claim.job, claim.attempt, why, self._settings)
            ),
        )
        if not written:
            return
        log.info("job.released", code=why.code, counts=why.counts, status=ended[-1].value)
        if ended[-1] is Status.FAILED:
            raise JobFailed(why.code, why.message) from None  # as above; the cause may name what is internal

    def _write(self, lease: Lease, change: Callable[[Connection], None]) -> bool:
        """Write an end while the lease may still be ours; False where it is not."""
        lease.conclude(_END_SECONDS)

        def attempt(connection: Connection) -> bool:
            change(connection)
            return True

        try:
            return bool(self._insist(attempt, lambda: not lease.is_given_up))
        except LeaseLost:
            log.warning("job.lease_lost")
            return False

    def _insist(self, change: Callable[[Connection], T], goes_on: Callable[[], bool]) -> T | None:
        """Run `change` in a transaction, again and again while the database is away and `goes_on` says so."""
        while True:
            try:
                with transaction(self._engine) as connection:
                    return change(connection)
            except Unavailable as error:
                self._outage.note(error)
                if not goes_on():
                    return None
                time.sleep(_RETRY_SECONDS)
