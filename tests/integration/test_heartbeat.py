"""The heartbeat keeps leases alive while their jobs go on, and only then, whatever the database does meanwhile.

Any thread here may stand still for seconds, as on a busy machine, so that a lease ends although all is well. What is
waited for is therefore never that a lease runs at this instant, but that it is renewed: see `Worker.keeps`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Column, Engine, select, text

from common import lifecycle
from common.contract import Status
from common.database import make_engine
from common.errors import Cancelled, Draining, LeaseLost
from common.ids import new_id
from common.lifecycle import Claim
from common.tables import workers
from common.workers import WorkerBeat, WorkerState
from infra.embedded.servers import EmbeddedServers
from tests.support.life import Life
from tests.support.processes import wait_until
from worker.lease import Heartbeat, Lease

LEASE_SECONDS = 0.8
HEARTBEAT_SECONDS = 0.1
STAGE_SECONDS = 5.0
"""For a stage that a test leaves, or ticks in, before it is over: much longer than a machine stands still."""
NEVER_SECONDS = 3600.0
"""A heartbeat that comes only when somebody asks for it."""


class Worker:
    """A worker that is all heartbeat."""

    def __init__(self, life: Life, *, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        times = {"lease_seconds": LEASE_SECONDS, "heartbeat_seconds": heartbeat_seconds}
        self.life = life
        self.settings = life.settings.model_copy(update=times)
        self.wedged: list[Lease] = []
        self.application = f"heartbeat {new_id().hex[-12:]}"
        self.engine: Engine = make_engine(self.settings, pool_size=1, application=self.application)
        beat = WorkerBeat(new_id().hex, "host", 4, WorkerState.LOADING, {})
        self.heartbeat = Heartbeat(self.engine, self.settings, beat, on_wedged=self.wedged.append)
        self.heartbeat.start()

    def claim(self) -> Claim:
        """Take a new job."""
        claim = self.life.claim(self.life.create(), worker=self.heartbeat.worker.id, lease_seconds=LEASE_SECONDS)
        assert claim is not None
        return claim

    def has(self, claim: Claim) -> bool:
        """Return whether the lease reaches into the future."""
        return self.life.age(claim.job, "lease_until") < 0

    def keeps(self, claim: Claim) -> bool:
        """Return whether the lease is renewed, and again: the first time may have been under way already."""
        return self._moves_twice(lambda: self.life.row(claim.job)["lease_until"])

    def goes_on(self) -> bool:
        """Return whether there is a beat that began after this call."""
        return self._moves_twice(lambda: self._of_row(workers.c.last_seen_at))

    def state(self) -> str | None:
        """Return what the workers table says."""
        state: str | None = self._of_row(workers.c.state)
        return state

    def _of_row(self, column: Column[Any]) -> Any:
        with self.life.engine.begin() as connection:
            mine = select(column).where(workers.c.id == self.heartbeat.worker.id)
            return connection.execute(mine).scalar_one_or_none()

    def _moves_twice(self, read: Callable[[], datetime | None]) -> bool:
        for _ in range(2):
            before = read()
            if not soon(lambda before=before: read() != before):  # type: ignore[misc]
                return False
        return True

    def sever(self) -> int:
        """End the heartbeat's connection from the server's side; return how many there were."""
        end = text("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = :name")
        with self.life.engine.begin() as connection:
            return int(connection.execute(end, {"name": self.application}).scalar_one())

    def close(self) -> None:
        """End it."""
        self.heartbeat.stop()
        self.engine.dispose()


@pytest.fixture
def worker(life: Life) -> Iterator[Worker]:
    worker = Worker(life)
    yield worker
    worker.close()


def soon(is_so: Callable[[], bool]) -> bool:
    """Return whether it becomes so within many heartbeats, also on a machine that stands still now and then."""
    return wait_until(is_so, 60.0)


def on_device(life: Life, job: UUID) -> bool:
    return bool(life.row(job)["on_device"])


# --- leases


def test_a_lease_is_renewed_for_as_long_as_its_job_goes_on_and_no_longer(worker: Worker) -> None:
    claim = worker.claim()
    with worker.heartbeat.hold(claim) as lease:
        for _ in range(5):
            lease.enter("fetch", 60)
            assert worker.keeps(claim)
        lease.check()
    assert worker.goes_on()
    assert soon(lambda: not worker.has(claim)), "whoever is done with it lets it expire"
    assert worker.goes_on()
    assert not worker.has(claim), "and the beats that come later change nothing"


def test_a_tick_is_what_keeps_a_stage_alive_beyond_its_seconds(worker: Worker) -> None:
    claim = worker.claim()
    with worker.heartbeat.hold(claim) as lease:
        lease.enter("device", STAGE_SECONDS, on_device=True)
        over = time.monotonic() + 1.2 * STAGE_SECONDS
        while time.monotonic() < over:
            time.sleep(0.1)
            lease.tick()
        assert worker.goes_on()
        lease.check()
        assert worker.wedged == []
        assert worker.keeps(claim)


def test_a_stage_that_outlives_its_deadline_loses_the_lease_and_the_process_goes_on(worker: Worker) -> None:
    stuck, fine = worker.claim(), worker.claim()
    with worker.heartbeat.hold(stuck) as lease, worker.heartbeat.hold(fine) as neighbour:
        neighbour.enter("fetch", 60)
        lease.enter("fetch", 0.2)
        assert soon(lambda: lease.is_lost)
        with pytest.raises(LeaseLost):
            lease.enter("decode", 60)
        assert soon(lambda: not worker.has(stuck)), "it is not renewed, so it expires"
        assert worker.keeps(fine)
        assert not worker.has(stuck)
        neighbour.check()
    assert worker.wedged == []


def test_a_device_that_outlives_a_step_is_reported_as_wedged(worker: Worker) -> None:
    claim = worker.claim()
    with worker.heartbeat.hold(claim) as lease:
        lease.enter("device", 60, on_device=True)
        assert soon(lambda: on_device(worker.life, claim.job))
        lease.enter("device", 0.2, on_device=True)
        assert soon(lambda: lease in worker.wedged)
        assert lease.is_lost
        assert on_device(worker.life, claim.job), "its rescue counts"


def test_a_wedged_device_is_seen_even_where_the_job_was_lost_before(worker: Worker) -> None:
    claim = worker.claim()
    with worker.heartbeat.hold(claim) as lease:
        lease.enter("device", 2.0, on_device=True)
        worker.life.lose(claim.job)
        assert soon(lambda: lease.is_lost)
        assert soon(lambda: lease in worker.wedged)


def test_a_job_that_waits_long_for_the_database_after_the_device_is_not_a_wedged_device(worker: Worker) -> None:
    claim = worker.claim()
    with worker.heartbeat.hold(claim) as lease:
        lease.enter("device", STAGE_SECONDS, on_device=True)
        lease.leave_device()
        lease.conclude(600)
        time.sleep(1.2 * STAGE_SECONDS)
        assert worker.keeps(claim)
        assert worker.wedged == []
        assert not lease.is_lost
        assert soon(lambda: not on_device(worker.life, claim.job))


def test_going_onto_the_device_and_off_it_is_said_at_once_and_not_at_the_next_heartbeat(life: Life) -> None:
    worker = Worker(life, heartbeat_seconds=NEVER_SECONDS)
    claim = worker.claim()
    with worker.heartbeat.hold(claim) as lease:
        assert soon(lambda: worker.state() == "loading"), "the first beat is over"
        lease.enter("device", 600, on_device=True)
        assert soon(lambda: on_device(life, claim.job))
        lease.leave_device()
        assert soon(lambda: not on_device(life, claim.job))
    worker.close()


def test_a_cancel_reaches_the_job_within_a_heartbeat(worker: Worker) -> None:
    claim = worker.claim()
    with worker.heartbeat.hold(claim) as lease:
        lease.enter("fetch", 60)
        worker.life.do(lifecycle.cancel, worker.life.owner, [claim.job])

        def is_cancelled() -> bool:
            try:
                lease.check()
            except Cancelled:
                return True
            return False

        assert soon(is_cancelled)
        assert worker.keeps(claim), "it is still this worker's, to write that it ended"


def test_a_job_that_somebody_else_has_now_is_lost_and_the_other_one_keeps_its_lease(worker: Worker) -> None:
    claim = worker.claim()
    with worker.heartbeat.hold(claim) as lease:
        worker.life.lose(claim.job)
        taken = worker.life.claim(claim.job, worker="other", lease_seconds=60)
        assert taken is not None
        assert soon(lambda: lease.is_lost)
        with pytest.raises(LeaseLost):
            lease.tick()
        row = worker.life.row(claim.job)
        assert (row["status"], row["attempt"], row["worker_id"]) == (Status.PROCESSING, 2, "other")


def test_an_end_that_is_written_while_the_heart_beats_does_not_look_like_a_lost_lease(worker: Worker) -> None:
    claim = worker.claim()
    with worker.heartbeat.hold(claim) as lease:
        lease.conclude(60)
        worker.life.do(lifecycle.complete, claim.job, claim.attempt, {"images": 1})
        assert worker.goes_on()
        assert not lease.is_lost


def test_at_the_end_of_a_drain_every_job_is_told_to_go_back(worker: Worker) -> None:
    claims = [worker.claim(), worker.claim()]
    with worker.heartbeat.hold(claims[0]) as first, worker.heartbeat.hold(claims[1]) as second:
        second.enter("device", 60, on_device=True)
        worker.heartbeat.drain_all()
        for lease in (first, second):
            with pytest.raises(Draining):
                lease.tick()
        assert first.is_given_up
        assert not first.is_lost, "it is still to be written that it goes back"


# --- the database


def test_a_severed_connection_costs_a_beat_and_no_lease(worker: Worker) -> None:
    claim = worker.claim()
    with worker.heartbeat.hold(claim) as lease:
        lease.enter("fetch", 60)
        assert soon(lambda: worker.state() == "loading")
        for _ in range(3):
            assert soon(lambda: worker.sever() == 1)
            assert worker.keeps(claim)
        lease.check()


def test_a_database_that_was_away_longer_than_the_lease_finds_the_job_still_held(
    worker: Worker, servers: EmbeddedServers
) -> None:
    claim = worker.claim()
    with worker.heartbeat.hold(claim) as lease:
        lease.enter("device", 60, on_device=True)
        servers.postgres.kill()
        try:
            assert soon(lambda: worker.heartbeat.seconds_since_beat > LEASE_SECONDS * 1.5)
            assert worker.heartbeat.is_alive
            lease.tick()  # nobody can have taken it away
        finally:
            servers.postgres.start()
        assert worker.keeps(claim)
        assert on_device(worker.life, claim.job)
        lease.check()


# --- the worker's own row


def test_what_the_worker_says_of_itself_stands_in_its_row_at_once(life: Life) -> None:
    worker = Worker(life, heartbeat_seconds=NEVER_SECONDS)
    assert soon(lambda: worker.state() == "loading")
    worker.heartbeat.say(state=WorkerState.READY, version={"model": "demo"})
    assert soon(lambda: worker.state() == "ready")
    worker.heartbeat.say(state=WorkerState.DRAINING)
    assert soon(lambda: worker.state() == "draining")
    assert worker.heartbeat.worker.version == {"model": "demo"}
    worker.close()
    assert worker.state() == "stopped", "it does not wait for its next beat"
    assert not worker.heartbeat.is_alive


def test_a_heartbeat_that_never_began_can_be_stopped(life: Life) -> None:
    engine = make_engine(life.settings)
    beat = WorkerBeat(new_id().hex, "host", 4, WorkerState.LOADING, {})
    heartbeat = Heartbeat(engine, life.settings, beat, on_wedged=lambda _: None)
    heartbeat.stop()
    assert not heartbeat.is_alive
    engine.dispose()
