"""Row `submit`: rows a second from a Parquet manifest until they are durable, beside a Celery apply_async loop.

Ours are validated, written under unique indexes and flushed to disk (fsync and synchronous_commit on), and run by a
process of its own whose memory must not grow with the manifest. The peer's are in Redis, unchecked, and nowhere else.
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pandas
import psycopg
from celery import Celery
from pydantic import SecretStr
from redis import Redis

from common.broker import QUEUE_NAMES, make_app
from common.contract import Queue
from common.database import make_engine, transaction
from common.objects import input_key
from common.settings import Settings
from infra.embedded.servers import EmbeddedServers
from migrations.run import upgrade
from producer.keys import ensure_owner
from tests.support.databases import fresh_database

ROWS: Final = 100_000
MOST_ROWS: Final = 1_000_000
FEW_ROWS: Final = 10_000
PEER_ROWS: Final = 20_000
PEER_BATCH: Final = 500
ROUNDS: Final = 3
TARGET_ROWS: Final = 20_000
RSS_RATIO: Final = 1.15
RSS_CHUNK_MB: Final = 40.0
"""FEW_ROWS are two chunks, so that the three that a longer manifest has in hand are never there together."""
OWNER: Final = "bench"


def measure(servers: EmbeddedServers) -> dict[str, Any]:
    """Return the row: ours and the peer's rows a second, medians of ROUNDS rounds in turns, and our peak memory."""
    with fresh_database(servers) as url, tempfile.TemporaryDirectory(prefix="fillfleet-bench-") as folder:
        upgrade(url)
        settings = _settings(servers, url)
        durable = _assert_durable(url)
        manifest = _manifest_writer(Path(folder), settings)
        environment = os.environ | servers.environment() | {"DATABASE_URL": url, "LOG_LEVEL": "WARNING"}

        def submit(rows: int, name: str) -> dict[str, Any]:
            return _submit(environment, manifest(rows), rows, name)

        few = submit(FEW_ROWS, "few")
        ours: list[dict[str, Any]] = []
        plain: list[float] = []
        batched: list[float] = []
        for number in range(ROUNDS):
            plain.append(_peer(settings, _send_plain))
            ours.append(submit(ROWS, f"round {number}"))
            batched.append(_peer(settings, _send_batched))
        most = submit(MOST_ROWS, "most")
    speeds = [ROWS / one["seconds"] for one in ours]
    median, peer = statistics.median(speeds), statistics.median(plain)
    some_mb = statistics.median(one["peak_rss_mb"] for one in ours)
    limits = (RSS_RATIO * some_mb, RSS_RATIO * few["peak_rss_mb"] + RSS_CHUNK_MB)
    is_flat = most["peak_rss_mb"] <= min(limits)
    return {
        "ours": median,
        "peer": peer,
        "ratio": median / peer,
        "target": f">= {TARGET_ROWS} rows/s, RSS flat from {FEW_ROWS} to {MOST_ROWS} rows",
        "holds": median >= TARGET_ROWS and is_flat,
        "unit": "rows/s",
        "raw": {
            "rows": ROWS,
            "peer_rows": PEER_ROWS,
            "ours_rows_per_s": speeds,
            "ours_rows_per_s_of_most": MOST_ROWS / most["seconds"],
            "ours_cpu_us_per_row": [one["cpu_seconds"] / ROWS * 1e6 for one in ours],
            "peer_rows_per_s": plain,
            f"peer_rows_per_s_in_batches_of_{PEER_BATCH}": batched,
            "peak_rss_mb": {
                str(FEW_ROWS): few["peak_rss_mb"],
                str(ROWS): some_mb,
                str(MOST_ROWS): most["peak_rss_mb"],
            },
            "rss_is_flat": is_flat,
            "rss_rule": f"{MOST_ROWS} <= {RSS_RATIO} x {ROWS}, and <= {RSS_RATIO} x {FEW_ROWS} + {RSS_CHUNK_MB:.0f} MB",
            "postgres": durable,
            "left_out": "the interpreter's start and imports",
        },
    }


def _settings(servers: EmbeddedServers, url: str) -> Settings:
    values: dict[str, object] = {name.lower(): value for name, value in servers.environment().items()}
    return Settings.model_validate(values | {"database_url": SecretStr(url)})


def _assert_durable(url: str) -> dict[str, str]:
    with psycopg.connect(url) as connection:
        names = ("fsync", "synchronous_commit", "full_page_writes")
        said = {name: str(connection.execute(f"SHOW {name}").fetchone()[0]) for name in names}  # type: ignore[index]
    if set(said.values()) != {"on"}:
        raise RuntimeError(f"the database is not durable: {said}")
    return said


def _manifest_writer(folder: Path, settings: Settings) -> Callable[[int], Path]:
    """Return what writes a manifest of so many rows: one row group, as pandas writes it, of names that differ."""
    engine = make_engine(settings)
    with transaction(engine) as connection:
        owner = ensure_owner(connection, OWNER)
    engine.dispose()

    def uris(rows: int) -> list[str]:
        random = secrets.token_hex(32 * rows)
        digests = (random[at : at + 64] for at in range(0, len(random), 64))
        return [f"s3://{settings.s3_bucket}/{input_key(owner, digest, 'png')}" for digest in digests]

    def write(rows: int) -> Path:
        path = folder / f"{rows}.parquet"
        if not path.exists():
            columns = {
                "image": uris(rows),
                "mask_image": uris(rows),
                "prompt": [f"an empty wooden table, variation {number}" for number in range(rows)],
                "custom_id": [f"product-{number:07}" for number in range(rows)],
                "sku": [f"sku-{number % 977}" for number in range(rows)],
            }
            pandas.DataFrame(columns).to_parquet(path)
        return path

    return write


def _submit(environment: dict[str, str], manifest: Path, rows: int, name: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.submitting", str(manifest), OWNER, name],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    said: dict[str, Any] = json.loads(done.stdout)
    if (said["new"], said["stored"], said["rejected"]) != (rows, rows, 0):
        raise RuntimeError(f"{rows} rows were submitted, and this came of it: {said}")
    return said


def _peer(settings: Settings, send: Callable[[Celery], None]) -> float:
    """Return how many messages a second the peer sends."""
    app: Celery = make_app(settings)
    redis: Any = Redis.from_url(settings.redis_url.get_secret_value())
    redis.delete(_PEER_QUEUE)
    began = time.monotonic()
    send(app)
    seconds = time.monotonic() - began
    if redis.llen(_PEER_QUEUE) != PEER_ROWS:
        raise RuntimeError("the peer's messages are not all in Redis")
    redis.delete(_PEER_QUEUE)
    redis.close()
    app.close()
    return PEER_ROWS / seconds


_PEER_QUEUE: Final = QUEUE_NAMES[Queue.BULK]


def _arguments(number: int) -> tuple[str, str, str]:
    return (f"https://example.com/{number}.png", f"https://example.com/{number}-mask.png", "an empty wooden table")


def _send_plain(app: Celery) -> None:
    task = app.task(_nothing, name="bench.nothing")
    for number in range(PEER_ROWS):
        task.apply_async(_arguments(number), queue=_PEER_QUEUE)


def _send_batched(app: Celery) -> None:
    task = app.task(_nothing, name="bench.nothing")
    for first in range(0, PEER_ROWS, PEER_BATCH):
        with app.producer_pool.acquire(block=True) as producer, producer.batch(PEER_BATCH):
            for number in range(first, first + PEER_BATCH):
                task.apply_async(_arguments(number), queue=_PEER_QUEUE, producer=producer)


def _nothing(*_arguments: str) -> None:
    """Do nothing: only its messages are sent."""
