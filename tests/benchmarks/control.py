"""Row `control`: what a job costs us beside a bare Celery no-op: row, message, claim, heartbeat, complete, all durable.

No S3 and no compute on either side. Both run on the same servers in the same run, in turns, with the same pool.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from redis import Redis
from sqlalchemy import Engine, func, insert, select

from common import lifecycle
from common.broker import QUEUE_NAMES, make_app
from common.contract import MODEL, Queue, parse_request
from common.database import make_engine, transaction
from common.ids import new_id
from common.settings import Settings
from common.tables import jobs, owners
from infra.embedded.servers import EmbeddedServers
from migrations.run import upgrade

JOBS = 1000
ROUNDS = 3
SLOTS = 8
TARGET_MS = 6.0
"""0.2% of a job of three seconds."""

_DONE = "bench:done"


def measure(servers: EmbeddedServers) -> dict[str, Any]:
    """Return the row: ours and the peer's milliseconds a job, medians of ROUNDS rounds in turns."""
    environment = os.environ | servers.environment() | {"LOG_LEVEL": "WARNING", "WORKER_SLOTS": str(SLOTS)}
    upgrade(servers.database_url)
    settings = _settings(servers)
    engine = make_engine(settings)
    ours: list[float] = []
    peer: list[float] = []
    for _ in range(ROUNDS):
        with _running(environment, [*_MODULE, "bare"]):
            peer.append(_time_bare(settings))
        with (
            _running(environment, [*_MODULE, "job"]),
            _running(environment, ["-m", "producer.cli", "dispatcher"]),
        ):
            ours.append(_time_jobs(engine))
    engine.dispose()
    median, bare = statistics.median(ours), statistics.median(peer)
    return {
        "ours": median,
        "peer": bare,
        "ratio": median / bare,
        "target": f"<= {TARGET_MS} ms a job",
        "holds": median <= TARGET_MS,
        "unit": "ms a job",
        "raw": {"jobs": JOBS, "slots": SLOTS, "ours_ms": ours, "peer_ms": peer},
    }


_MODULE = ["-m", "tests.benchmarks.null_worker"]


def _settings(servers: EmbeddedServers) -> Settings:
    values = {name.lower(): value for name, value in servers.environment().items()}
    return Settings.model_validate(values)


@contextmanager
def _running(environment: dict[str, str], arguments: list[str]) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, *arguments], env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _time_bare(settings: Settings) -> float:
    app: Celery = make_app(settings)
    redis: Any = Redis.from_url(settings.redis_url.get_secret_value())
    redis.delete(_DONE)

    def one_round(count: int) -> float:
        redis.set(_DONE, 0)
        began = time.monotonic()
        for _ in range(count):
            app.send_task("bare", queue=QUEUE_NAMES[Queue.BULK])
        _until(lambda: int(redis.get(_DONE)) >= count)
        return time.monotonic() - began

    one_round(50)  # the worker's start and first connections are not the question
    seconds = one_round(JOBS)
    app.close()
    redis.close()
    return seconds / JOBS * 1000


def _time_jobs(engine: Engine) -> float:
    owner = new_id()
    with transaction(engine) as connection:
        connection.execute(insert(owners).values(id=owner, name=owner.hex))
    request = parse_request({"image": "https://example.com/image.png"}).with_seed()

    def completed() -> int:
        with transaction(engine) as connection:
            count = select(func.count()).where(jobs.c.owner_id == owner, jobs.c.status == "completed")
            return int(connection.execute(count).scalar_one())

    def one_round(count: int) -> float:
        before = completed()
        began = time.monotonic()
        for _ in range(count):  # as the API does: one job, one transaction, durable before the answer
            with transaction(engine) as connection:
                lifecycle.create(connection, owner, request, queue=Queue.BULK, model=MODEL)
        _until(lambda: completed() >= before + count)
        return time.monotonic() - began

    one_round(50)
    return one_round(JOBS) / JOBS * 1000


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("the jobs did not end")
        time.sleep(0.02)
