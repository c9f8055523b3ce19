"""Row `fair`: how much longer a batch of 100 rows takes while one of 100,000 rows is running, beside a plain queue.

Real dispatcher and worker; the device sleeps, so that it and not this machine is what both batches share. The peer is
a Celery queue that takes messages in the order in which they came, on a smaller backlog, since a large one takes hours.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from celery import Celery
from pydantic import SecretStr
from redis import Redis

from common.broker import QUEUE_NAMES, make_app
from common.contract import Queue
from common.database import make_engine
from common.settings import Environment, Settings
from infra.embedded.servers import EmbeddedServers
from migrations.run import upgrade
from producer.batches import Batch
from tests.support.bulk import Bulk, running_bulk
from tests.support.databases import fresh_database
from tests.support.environment import environment_of
from tests.support.fleet import running_fleet

LARGE: Final = 100_000
SMALL: Final = 100
ROUNDS: Final = 3
JOB_SECONDS: Final = 0.08
SLOTS: Final = 4
TARGET: Final = 2.5
PEER_AHEAD: Final = 1000
PEER_ROWS: Final = 100
PEER_JOB_SECONDS: Final = 0.01


def measure(servers: EmbeddedServers) -> dict[str, Any]:
    """Return the row: how many times its time alone the small batch takes; medians of ROUNDS rounds in turns."""
    with fresh_database(servers) as url, tempfile.TemporaryDirectory(prefix="fillfleet-bench-") as folder:
        upgrade(url)
        settings = _settings(servers, url)
        peer_alone, peer_beside = _peer(settings)
        engine = make_engine(settings)
        with (
            running_fleet(servers.guardian, settings, engine, Path(folder)) as fleet,
            running_bulk(fleet, Path(folder)) as bulk,
        ):
            fleet.start("dispatcher")
            fleet.start_sleeping_worker(step_seconds=JOB_SECONDS)
            bulk.seconds_to_complete("warm-up", 2 * SLOTS)
            large = bulk.submit("large", LARGE)
            alone: list[float] = []
            beside: list[float] = []
            for number in range(ROUNDS):
                _pause(bulk, large)
                alone.append(bulk.seconds_to_complete(f"alone {number}", SMALL))
                _resume(bulk, large)
                beside.append(bulk.seconds_to_complete(f"beside {number}", SMALL))
            bulk.door.cancel(large)
        engine.dispose()
    ours = statistics.median(two / one for one, two in zip(alone, beside, strict=True))
    peer = peer_beside / peer_alone
    return {
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer,
        "target": f"<= {TARGET} x its time alone",
        "holds": ours <= TARGET,
        "unit": "x alone",
        "raw": {
            "large_rows": LARGE,
            "small_rows": SMALL,
            "alone_seconds": alone,
            "beside_seconds": beside,
            "device_seconds_of_small": SMALL * JOB_SECONDS,
            "slots": SLOTS,
            "window": max(settings.publish_window_floor, 2 * SLOTS),
            "peer": f"first in, first out: {PEER_ROWS} messages behind {PEER_AHEAD}, of {PEER_JOB_SECONDS} s each",
            "peer_alone_seconds": peer_alone,
            "peer_beside_seconds": peer_beside,
            f"peer_ratio_computed_behind_{LARGE}": (LARGE + SMALL) / SMALL,
        },
    }


def _settings(servers: EmbeddedServers, url: str) -> Settings:
    values: dict[str, object] = {name.lower(): value for name, value in servers.environment().items()}
    values |= {
        "fillfleet_env": Environment.TEST,  # for the sleeping device alone; every time is as shipped
        "database_url": SecretStr(url),
        "worker_slots": SLOTS,
        "allow_safety_checker_off": True,
    }
    return Settings.model_validate(values)


def _pause(bulk: Bulk, large: Batch) -> None:
    bulk.door.pause(large)
    bulk.fleet.until(lambda: bulk.in_flight(large) == 0, "nothing of the large batch is in flight")


def _resume(bulk: Bulk, large: Batch) -> None:
    bulk.door.resume(large)
    before = bulk.completed(large)
    bulk.fleet.until(lambda: bulk.completed(large) >= before + 2 * SLOTS, "the large batch runs")


def _peer(settings: Settings) -> tuple[float, float]:
    """Return the seconds that the small batch takes alone and behind the backlog, in one queue with one worker."""
    app: Celery = make_app(settings)
    redis: Any = Redis.from_url(settings.redis_url.get_secret_value())
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.null_worker", "sleep"],
        env=environment_of(settings) | {"WORKER_SLOTS": "1"},
    )

    def small(ahead: int) -> float:
        redis.delete("bench:small")
        for _ in range(ahead):
            app.send_task("sleep", (PEER_JOB_SECONDS, "bench:large"), queue=QUEUE_NAMES[Queue.BULK])
        began = time.monotonic()
        for _ in range(PEER_ROWS):
            app.send_task("sleep", (PEER_JOB_SECONDS, "bench:small"), queue=QUEUE_NAMES[Queue.BULK])
        deadline = began + 120
        while int(redis.get("bench:small") or 0) < PEER_ROWS:
            if time.monotonic() > deadline:
                raise TimeoutError("the peer's messages did not end")
            time.sleep(0.02)
        return time.monotonic() - began

    try:
        small(0)  # the worker's start and first connections are not the question
        return small(0), small(PEER_AHEAD)
    finally:
        worker.terminate()
        worker.wait(30)
        redis.close()
        app.close()
