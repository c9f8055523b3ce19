"""A worker without S3 and without a device: the control path alone (`job`), or a bare Celery task.

That is a no-op (`bare`), or one that sleeps as it is told (`sleep`).
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from celery import Celery
from redis import Redis

from common.broker import FILL_TASK, QUEUE_NAMES, make_app
from common.database import make_engine
from common.ids import parse_id
from common.lifecycle import Claim
from common.result import JobResult, Timings
from common.settings import get_settings
from common.telemetry import configure_logging
from common.workers import WorkerBeat, WorkerState
from worker.lease import Heartbeat, Lease
from worker.outage import Outage
from worker.task import FillTask

_RESULT = JobResult(
    outputs=(),
    timings=Timings(queue=0, fetch=0, wait=0, inference=0, upload=0),
    model_version={},
    worker="null",
    mask_coverage=0.0,
    inputs={},
)


def main(kind: str) -> None:
    """Run until SIGTERM."""
    settings = get_settings()
    configure_logging(settings, "null worker")
    app: Celery = make_app(settings)
    if kind in {"bare", "sleep"}:
        redis: Any = Redis.from_url(settings.redis_url.get_secret_value())

        @app.task(name="sleep")  # type: ignore[untyped-decorator]
        def sleep(seconds: float, counter: str) -> None:
            time.sleep(seconds)
            redis.incr(counter)

        @app.task(name="bare")  # type: ignore[untyped-decorator]
        def bare() -> None:
            redis.incr("bench:done")

    else:
        engine = make_engine(settings, pool_size=settings.worker_slots + 1)
        beat = WorkerBeat("null", "bench", settings.worker_slots, WorkerState.READY, {})
        heartbeat = Heartbeat(make_engine(settings, pool_size=1), settings, beat, on_wedged=lambda _: None)
        heartbeat.start()
        draining = threading.Event()

        def nothing(_claim: Claim, lease: Lease) -> JobResult:
            lease.enter("upload", 60.0)
            return _RESULT

        task = FillTask(settings, engine, heartbeat, Outage(lambda: None, draining), draining, nothing)

        @app.task(name=FILL_TASK)  # type: ignore[untyped-decorator]
        def fill(job: str) -> None:
            job_id = parse_id(job)
            assert job_id is not None
            task.run(job_id)

    app.Worker(
        pool="threads",
        concurrency=settings.worker_slots,
        queues=list(QUEUE_NAMES.values()),
        without_gossip=True,
        without_mingle=True,
        loglevel="WARNING",
        quiet=True,
    ).start()


main(sys.argv[1])
