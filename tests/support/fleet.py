"""Dispatchers, workers and APIs as real processes on the test's servers, and the jobs that they are given.

Each process runs `python -m producer.cli NAME` under the servers' guardian, so none outlives a test run that is killed.
"""

from __future__ import annotations

import hashlib
import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from PIL import Image
from sqlalchemy import Engine, func, insert, select, update

from common import lifecycle
from common.contract import MODEL, Queue, parse_request
from common.ids import new_id
from common.objects import Objects, input_key
from common.settings import Settings
from common.tables import job_events, jobs, owners
from common.workers import live_workers
from infra.embedded.process import Guardian, Process, Program
from tests.support.environment import environment_of

ROOT = Path(__file__).parents[2]
SLEEPING = "tests.support.sleeping_model:SleepingModel"


class Fleet:
    """The processes of one test, and its jobs."""

    def __init__(self, guardian: Guardian, settings: Settings, engine: Engine, logs: Path) -> None:
        self.settings = settings
        self.engine = engine
        self.objects = Objects(settings)
        self.owner = new_id()
        self._guardian = guardian
        self._logs = logs
        self._processes: list[Process] = []
        with engine.begin() as connection:
            connection.execute(insert(owners).values(id=self.owner, name=self.owner.hex))

    def start(self, name: str, *arguments: str, **env: str) -> Process:
        """Start `fillfleet NAME`."""
        number = len(self._processes)
        process = self._guardian.spawn(
            Program(
                name=f"{name}-{number}",
                argv=[sys.executable, "-m", "producer.cli", name, *arguments],
                log=self._logs / f"{name}-{number}.log",
                env=environment_of(self.settings) | env,
                cwd=ROOT,
                stop_seconds=20.0,
            )
        )
        self._processes.append(process)
        return process

    def start_sleeping_worker(self, *, step_seconds: float = 0.01, **env: str) -> Process:
        """Start a worker whose device only sleeps, and wait until it takes jobs."""
        worker = self.start("worker", TEST_MODEL_CLASS=SLEEPING, SLEEP_STEP_SECONDS=str(step_seconds), **env)
        self.until(lambda: self.has_been_ready(worker), "the worker is ready", process=worker)
        return worker

    def ready_workers(self) -> int:
        """Return how many workers are ready now."""
        with self.engine.begin() as connection:
            return live_workers(connection, seen_within_seconds=self.settings.lease_seconds)

    def has_been_ready(self, worker: Process) -> bool:
        """Return whether this worker has said that it takes jobs, even if its first one has killed it by now.

        In its log: before its next heartbeat said so in the table it may have been killed.
        """
        return "worker.ready" in worker.output()

    def expire(self, worker: Process | int) -> None:
        """Let so much time pass that the leases of a worker have ended that does not renew them any more."""
        pid = worker if isinstance(worker, int) else worker.pid
        with self.engine.begin() as connection:
            connection.execute(
                update(jobs)
                .where(jobs.c.worker_id.contains(f"-{pid}-", autoescape=True), jobs.c.status == "processing")
                .values(lease_until=func.now() - timedelta(seconds=1))
            )

    def store_image(
        self, size: tuple[int, int] = (256, 256), mode: str = "RGB", colour: str | tuple[int, ...] = "white"
    ) -> str:
        """Put a plain picture into the bucket as this owner's input; returns its s3:// URI."""
        data = png(Image.new(mode, size, colour))
        key = input_key(self.owner, hashlib.sha256(data).hexdigest(), "png")
        self.objects.put(key, data, "image/png")
        return self.objects.uri(key)

    def submit(self, queue: Queue = Queue.BULK, **fields: Any) -> UUID:
        """Create a job: a small white image, all of it masked, unless `fields` say otherwise."""
        body = {"size": "256*256", "num_inference_steps": 5, "seed": 1} | fields
        if "image" not in body:
            body["image"] = body["mask_image"] = self.store_image()
        with self.engine.begin() as connection:
            return lifecycle.create(connection, self.owner, parse_request(body).with_seed(), queue=queue, model=MODEL)

    def statuses(self) -> dict[str, int]:
        """Return how many jobs of this owner are in which state."""
        with self.engine.begin() as connection:
            rows = connection.execute(
                select(jobs.c.status, func.count().label("number"))
                .where(jobs.c.owner_id == self.owner)
                .group_by(jobs.c.status)
            )
            return {row.status: row.number for row in rows}

    def row(self, job: UUID) -> dict[str, Any]:
        """Return a job's row."""
        with self.engine.begin() as connection:
            return dict(connection.execute(select(jobs).where(jobs.c.id == job)).mappings().one())

    def events(self, job: UUID) -> list[str]:
        """Return what happened to a job, in order."""
        with self.engine.begin() as connection:
            rows = connection.execute(
                select(job_events.c.event).where(job_events.c.job_id == job).order_by(job_events.c.id)
            )
            return list(rows.scalars())

    def all_over(self) -> bool:
        """Return whether every job of this owner has ended."""
        return not {"created", "processing"} & set(self.statuses())

    def until(
        self, true: Callable[[], bool], what: str, *, seconds: float = 120.0, process: Process | None = None
    ) -> None:
        """Wait until something is true; fails, with what the processes said last, when it does not become so."""
        deadline = time.monotonic() + seconds
        while not true():
            dead = process is not None and process.exit_code() is not None
            if (dead and not true()) or time.monotonic() > deadline:
                said = "\n".join(one.last_words() for one in self._processes)
                raise AssertionError(f"not so after {seconds:.0f} s: {what}; {self.statuses()}\n{said}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop what still runs, workers with their drain."""
        for process in self._processes:
            process.ask_to_stop()
        for process in self._processes:
            process.stop()


def png(image: Image.Image) -> bytes:
    """Return a picture as a PNG of its own mode."""
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


@contextmanager
def running_fleet(guardian: Guardian, settings: Settings, engine: Engine, logs: Path) -> Iterator[Fleet]:
    """Yield a fleet that is stopped at the end."""
    fleet = Fleet(guardian, settings, engine, logs)
    try:
        yield fleet
    finally:
        fleet.stop()
        fleet.objects.close()
