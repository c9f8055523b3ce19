"""What becomes of a job when its fill ends this way or that: its row, its events, and what Flower gets to see."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from uuid import UUID

import pytest
import structlog
from pydantic import SecretStr
from sqlalchemy import text

from common import lifecycle
from common.database import make_engine
from common.errors import Cancelled, Draining, JobFailed, LeaseLost, Rejected, Transient, Unavailable
from common.ids import new_id
from common.lifecycle import Claim
from common.objects import Objects
from common.result import JobResult, Timings
from common.workers import WorkerBeat, WorkerState
from infra.embedded.servers import EmbeddedServers
from tests.support.life import Life
from tests.support.lossy_proxy import LossyProxy, lossy
from tests.support.processes import wait_until
from worker.lease import Heartbeat, Lease
from worker.outage import Outage
from worker.task import FillTask
from worker.work import DeviceBroken

Fill = Callable[[Claim, Lease], JobResult]

DONE = JobResult(
    outputs=(),
    timings=Timings(queue=1, fetch=2, wait=3, inference=4, upload=5),
    model_version={"model": "none"},
    worker="w1",
    mask_coverage=0.5,
    inputs={},
)
SECRET = "postgresql://app:hunter2@db.internal/fillfleet"


class Bench:
    """A worker without a device: its task runs whatever a test calls a fill."""

    def __init__(self, life: Life, *, database_url: str | None = None, **changes: object) -> None:
        direct = life.settings.database_url
        self.settings = life.settings.model_copy(update={"heartbeat_seconds": 0.1, "lease_seconds": 1.0} | changes)
        own = self.settings.model_copy(update={"database_url": SecretStr(database_url) if database_url else direct})
        self.life = life
        self.engine = make_engine(own)
        self.draining = threading.Event()
        self.objects = Objects(self.settings)
        self.outage = Outage(lambda: self.probe(), self.draining)
        self.probe: Callable[[], None] = lambda: None
        beat = WorkerBeat(f"w-{new_id().hex}", "host", 4, WorkerState.READY, {})
        self._beats = make_engine(self.settings, pool_size=1)
        self.heartbeat = Heartbeat(self._beats, self.settings, beat, on_wedged=lambda _: None)
        self.heartbeat.start()

    def run(self, fill: Fill, job: UUID | None = None) -> UUID:
        """Give a message of `job`, by default of a new one, to the task; returns the job."""
        job = job or self.life.create()
        FillTask(self.settings, self.engine, self.heartbeat, self.outage, self.draining, fill).run(job)
        return job

    def run_to_failure(self, fill: Fill, job: UUID | None = None) -> tuple[UUID, JobFailed]:
        """Do the same where the task must raise JobFailed."""
        job = job or self.life.create()
        with pytest.raises(JobFailed) as failed:
            self.run(fill, job)
        return job, failed.value

    def close(self) -> None:
        """End the heartbeat and close what is open."""
        self.heartbeat.stop()
        self._beats.dispose()
        self.engine.dispose()
        self.objects.close()


@pytest.fixture(autouse=True, scope="module")
def plain_logs() -> Iterator[None]:
    """One line a traceback: what structlog does unasked, with the source and all variables, takes a second each."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])
    yield
    structlog.reset_defaults()


@pytest.fixture
def bench(life: Life) -> Iterator[Bench]:
    bench = Bench(life)
    yield bench
    bench.close()


@pytest.fixture
def proxy(life: Life) -> Iterator[LossyProxy]:
    """A way to the test's database on which an answer can be lost."""
    with lossy(life.settings.sqlalchemy_url) as proxy:
        yield proxy


@pytest.fixture
def far_bench(life: Life, proxy: LossyProxy) -> Iterator[Bench]:
    """A worker whose jobs, but not its heartbeats, take that way."""
    bench = Bench(life, database_url=proxy.url)
    yield bench
    bench.close()


def completes(_claim: Claim, _lease: Lease) -> JobResult:
    return DONE


def raises(error: BaseException) -> Fill:
    def fill(_claim: Claim, _lease: Lease) -> JobResult:
        raise error

    return fill


# --- ends


def test_a_fill_that_returns_completes_its_job_once(bench: Bench) -> None:
    job = bench.run(completes)
    row = bench.life.row(job)
    assert (row["status"], row["attempt"], row["failures"], row["lease_until"]) == ("completed", 1, 0, None)
    assert row["result"] == DONE.model_dump(mode="json")
    bench.run(raises(AssertionError("a second message does no inference")), job)
    assert bench.life.events(job) == [("created", 0), ("claimed", 1), ("completed", 1)]


@pytest.mark.parametrize(
    ("error", "code"),
    [(Rejected("mask_empty", "mask_image: the mask is empty"), "mask_empty"), (Cancelled(), "cancelled")],
    ids=["rejected", "cancelled"],
)
def test_what_can_never_work_fails_at_once_and_flower_sees_it_failed(
    bench: Bench, error: Rejected | Cancelled, code: str
) -> None:
    job, failed = bench.run_to_failure(raises(error))
    row = bench.life.row(job)
    assert (row["status"], row["error_code"], row["error"], row["failures"]) == ("failed", code, error.message, 0)
    assert bench.life.last_event(job) == ("failed", 1, {"code": code})
    assert (failed.code, failed.message) == (code, error.message)


@pytest.mark.parametrize(
    ("error", "code", "counts"),
    [
        (Draining(), "draining", False),
        (Transient("fetch_timeout", "image: not fetched"), "fetch_timeout", True),
        (Unavailable("storage_unavailable", "the object store is not available"), "storage_unavailable", False),
        (DeviceBroken("CUDA error"), "device_broken", True),
        (ZeroDivisionError(SECRET), "internal_error", True),
        (MemoryError(), "internal_error", True),
    ],
    ids=["draining", "transient", "unavailable", "broken", "defect", "memory"],
)
def test_what_passes_gives_the_job_back_and_counts_only_where_the_job_is_to_blame(
    bench: Bench, error: BaseException, code: str, counts: bool
) -> None:
    job = bench.run(raises(error))  # raises nothing: for Flower the message is done
    row = bench.life.row(job)
    assert (row["status"], row["failures"], row["error"], row["lease_until"]) == ("created", int(counts), None, None)
    assert bench.life.last_event(job) == ("released", 1, {"code": code, "counts": counts})


def test_a_passing_trouble_that_does_not_pass_fails_the_job_after_its_tries(bench: Bench) -> None:
    trouble = raises(Transient("fetch_timeout", "image: not fetched"))
    job = bench.life.create()
    for _ in range(2):
        bench.run(trouble, job)
        assert bench.life.pause(job) > 0, "it waits for its next try"
        bench.life.make_due(job)
    _, failed = bench.run_to_failure(trouble, job)
    row = bench.life.row(job)
    assert (row["status"], row["attempt"], row["failures"]) == ("failed", 3, 3)
    assert row["error"] == "image: not fetched (tried 3 times)"
    assert failed.code == "fetch_timeout"


def test_a_host_that_is_too_busy_costs_the_job_nothing_and_everybody_leaves_it_alone_for_as_long_as_it_asks(
    bench: Bench,
) -> None:
    host = f"{new_id().hex}.example:81"
    busy = raises(Transient("fetch_failed", "image: HTTP 429", retry_after_seconds=100.0, host=host))
    job = bench.life.create()
    for attempt in range(1, 6):  # more often than a job may fail
        bench.run(busy, job)
        row = bench.life.row(job)
        assert (row["status"], row["failures"], row["attempt"]) == ("created", 0, attempt)
        assert bench.life.pause(job) == 100
        bench.life.make_due(job)
    with bench.life.engine.begin() as connection:
        rest = text("SELECT EXTRACT(epoch FROM not_before - now()) FROM source_hosts WHERE host = :host")
        assert 40 < float(connection.execute(rest, {"host": host}).scalar_one()) <= 100
    bench.run(completes, job)
    assert bench.life.row(job)["status"] == "completed"


def test_a_busy_host_that_names_no_time_is_left_alone_for_longer_each_time(life: Life) -> None:
    bench = Bench(life, backoff_seconds=10.0, backoff_max_seconds=35.0)
    busy = raises(Transient("fetch_failed", "image: HTTP 503", host=f"{new_id().hex}.example"))
    job = life.create()
    waits = []
    for _ in range(4):
        bench.run(busy, job)
        waits.append(life.pause(job))
        life.make_due(job)
    bench.close()
    assert waits == [10, 20, 35, 35]


def test_a_host_that_stays_too_busy_ends_the_job_at_last(life: Life) -> None:
    bench = Bench(life, max_uncounted_attempts=4)
    busy = raises(Transient("fetch_failed", "image: HTTP 503", retry_after_seconds=1.0, host=f"{new_id().hex}.example"))
    job = life.create()
    for _ in range(5):
        bench.run(busy, job)
        life.make_due(job)
    _, failed = bench.run_to_failure(busy, job)
    bench.close()
    row = life.row(job)
    assert (row["status"], row["attempt"], row["failures"]) == ("failed", 6, 3)
    assert failed.message == "image: HTTP 503"


def test_a_defect_of_ours_is_retried_then_fails_and_tells_nothing_internal(bench: Bench) -> None:
    job = bench.life.create()
    for _ in range(2):
        bench.run(raises(ZeroDivisionError(SECRET)), job)
        bench.life.make_due(job)
    _, failed = bench.run_to_failure(raises(ZeroDivisionError(SECRET)), job)
    row = bench.life.row(job)
    assert (row["status"], row["error_code"], row["failures"]) == ("failed", "internal_error", 3)
    shown = "".join(traceback.format_exception(failed))  # what Celery sends to Flower
    assert "hunter2" not in row["error"] + shown
    assert "ZeroDivisionError" not in row["error"] + shown


def test_a_result_that_the_database_cannot_store_is_a_defect_like_any_other(bench: Bench) -> None:
    job = bench.run(lambda claim, lease: DONE.model_copy(update={"worker": "\x00"}))
    assert bench.life.row(job)["status"] == "created"
    assert bench.life.last_event(job) == ("released", 1, {"code": "internal_error", "counts": True})


def test_a_request_that_this_version_cannot_read_fails_after_its_tries_instead_of_going_round_for_ever(
    bench: Bench,
) -> None:
    job = bench.life.create()
    with bench.life.engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET request = request || '{\"num_inference_steps\": 999}'"))
    for _ in range(2):
        bench.run(lambda claim, _: DONE.model_copy(update={"worker": claim.request.prompt}), job)
        bench.life.make_due(job)
    bench.run_to_failure(lambda claim, _: DONE.model_copy(update={"worker": claim.request.prompt}), job)
    assert (bench.life.row(job)["status"], bench.life.row(job)["attempt"]) == ("failed", 3)


# --- leases


def test_whoever_lost_the_lease_writes_nothing(bench: Bench) -> None:
    def fill(claim: Claim, _lease: Lease) -> JobResult:
        bench.life.lose(claim.job)
        assert bench.life.take(claim.job) == 2  # somebody else has it now
        return DONE

    job = bench.run(fill)
    assert (bench.life.row(job)["status"], bench.life.row(job)["attempt"]) == ("processing", 2)
    assert bench.life.events(job)[-2:] == [("rescued", 1), ("claimed", 2)]
    bench.life.do(lifecycle.complete, job, 2, {"by": "the other"})
    for late in (raises(LeaseLost()), raises(Rejected("mask_empty", "empty")), raises(Transient("late", "late"))):
        bench.run(late, job)
    assert bench.life.row(job)["result"] == {"by": "the other"}


def test_the_lease_lives_as_long_as_the_fill_and_ends_with_it(bench: Bench) -> None:
    def fill(claim: Claim, lease: Lease) -> JobResult:
        def ends() -> datetime:
            end: datetime = bench.life.row(claim.job)["lease_until"]
            return end

        lease.enter("device", 600, on_device=True)
        once_more = ends() + 2 * timedelta(seconds=bench.settings.lease_seconds)
        assert wait_until(lambda: ends() > once_more, 60), "it is renewed even after a claim's lease would have ended"
        lease.check()
        return DONE

    job = bench.run(fill)
    assert (bench.life.row(job)["status"], bench.life.row(job)["lease_until"]) == ("completed", None)


def test_a_cancelled_job_fails_as_cancelled_whatever_its_fill_says(bench: Bench) -> None:
    def fill(claim: Claim, _lease: Lease) -> JobResult:
        bench.life.do(lifecycle.cancel, bench.life.owner, [claim.job])
        raise Transient("fetch_timeout", "image: not fetched")

    job, _ = bench.run_to_failure(fill)
    assert (bench.life.row(job)["status"], bench.life.row(job)["error"]) == ("failed", "cancelled")


# --- outages


def test_a_bucket_that_is_away_costs_nothing_and_nobody_claims_until_it_takes_objects_again(
    bench: Bench, servers: EmbeddedServers
) -> None:
    def put() -> None:
        bench.objects.put("outputs/outage-probe", b"", "text/plain")

    def fill(_claim: Claim, _lease: Lease) -> JobResult:
        put()
        return DONE

    bench.probe = put
    servers.s3.kill()
    try:
        job = bench.run(fill)
        assert bench.life.row(job)["failures"] == 0
        assert bench.life.last_event(job) == ("released", 1, {"code": "storage_unavailable", "counts": False})
        assert bench.life.pause(job) > 0, "it waits a moment"
        with ThreadPoolExecutor(1) as pool:
            next_job = bench.life.create()
            running = pool.submit(bench.run, fill, next_job)
            time.sleep(1.0)
            assert bench.life.events(next_job) == [("created", 0)], "claiming pauses"
            servers.s3.start()
            running.result(120)
    finally:
        servers.s3.start()
    assert bench.life.row(next_job)["status"] == "completed"


def test_an_outage_of_one_object_alone_ends_its_job_at_last(bench: Bench) -> None:
    def fill(_claim: Claim, _lease: Lease) -> JobResult:
        raise Unavailable("storage_unavailable", "the object store is not available; try again later")

    job, runs = bench.life.create(), 0
    while bench.life.row(job)["status"] == "created":
        assert runs < 20, "it goes round for ever"
        runs += 1
        bench.life.make_due(job)
        try:
            bench.run(fill, job)
        except JobFailed:
            break
    row = bench.life.row(job)
    assert (row["status"], row["failures"], row["attempt"]) == ("failed", 3, 12)
    assert bench.life.events(job).count(("failed", 12)) == 1


def test_a_drain_ends_the_wait_for_servers_that_are_away(bench: Bench) -> None:
    def away() -> None:
        raise Transient("storage_refused", "the object store refused the request (HTTP 400)")

    bench.probe = away
    bench.outage.note(Unavailable("storage_unavailable", "the object store is not available"))
    job = bench.life.create()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(bench.run, completes, job)
        time.sleep(0.2)
        assert not running.done()
        bench.draining.set()
        running.result(60)
    assert bench.life.events(job) == [("created", 0)]


def test_a_database_that_is_away_when_a_job_ends_is_waited_for(bench: Bench, servers: EmbeddedServers) -> None:
    def fill(_claim: Claim, _lease: Lease) -> JobResult:
        servers.postgres.kill()
        threading.Timer(1.5, servers.postgres.start).start()
        return DONE

    job = bench.run(fill)
    assert bench.life.row(job)["status"] == "completed"
    assert bench.life.events(job) == [("created", 0), ("claimed", 1), ("completed", 1)]


# --- written, but the answer was lost


def test_a_completion_whose_answer_is_lost_is_one_completion(far_bench: Bench, proxy: LossyProxy) -> None:
    def fill(_claim: Claim, _lease: Lease) -> JobResult:
        proxy.lose_next_commit()
        return DONE

    job = far_bench.run(fill)
    assert proxy.lost == 1
    assert far_bench.life.row(job)["status"] == "completed"
    assert far_bench.life.events(job) == [("created", 0), ("claimed", 1), ("completed", 1)]


def test_a_failure_or_release_whose_answer_is_lost_counts_once(far_bench: Bench, proxy: LossyProxy) -> None:
    def fill(_claim: Claim, _lease: Lease) -> JobResult:
        proxy.lose_next_commit()
        raise Transient("fetch_timeout", "image: not fetched")

    job = far_bench.run(fill)
    assert proxy.lost == 1
    assert far_bench.life.row(job)["failures"] == 1
    assert far_bench.life.events(job) == [("created", 0), ("claimed", 1), ("released", 1)]


def test_a_claim_whose_answer_is_lost_is_not_worked_on_and_comes_back_free_of_charge(
    far_bench: Bench, proxy: LossyProxy
) -> None:
    job = far_bench.life.create()
    proxy.lose_next_commit()
    far_bench.run(raises(AssertionError("nobody knows that it is ours")), job)
    assert proxy.lost == 1
    assert far_bench.life.events(job) == [("created", 0), ("claimed", 1)]
    far_bench.life.expire(job)
    far_bench.life.do(lifecycle.rescue, far_bench.settings)
    far_bench.run(completes, job)
    row = far_bench.life.row(job)
    assert (row["status"], row["attempt"], row["failures"]) == ("completed", 2, 0)
