"""Batches under real dispatchers: held back, let go, ended, shared; hosts that rest; manifests that are read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from sqlalchemy import func, select, text, update

from common.contract import BatchState
from common.database import make_engine
from common.ids import new_id
from common.lifecycle import NewBatch
from common.tables import batches, jobs
from infra.embedded.process import Process
from infra.embedded.servers import EmbeddedServers
from producer.batches import Batch
from tests.support.bulk import Bulk, running_bulk
from tests.support.databases import fresh_database
from tests.support.environment import settings_for
from tests.support.fleet import png, running_fleet
from tests.support.intake_gate import no_more_rows_than
from tests.support.lora_site import Site, running_site
from tests.support.processes import needs_proc
from tests.support.shy_host import running_shy_host

MakeBulk = Callable[..., Bulk]


@pytest.fixture
def make_bulk(servers: EmbeddedServers, migrated_template: str, tmp_path: Path) -> Iterator[MakeBulk]:
    """Make batches, and a fleet for them, with settings of one's own."""
    with ExitStack() as stack:

        def make(**overrides: Any) -> Bulk:
            url = stack.enter_context(fresh_database(servers, migrated_template))
            settings = settings_for(servers, url, allow_safety_checker_off=True, **overrides)
            engine = make_engine(settings)
            stack.callback(engine.dispose)
            fleet = stack.enter_context(running_fleet(servers.guardian, settings, engine, tmp_path))
            return stack.enter_context(running_bulk(fleet, tmp_path))

        yield make


@pytest.fixture
def bulk(make_bulk: MakeBulk) -> Bulk:
    """Batches of a fleet with the settings of all tests."""
    return make_bulk()


@pytest.fixture
def site() -> Iterator[Site]:
    """A server of files."""
    with running_site() as running:
        yield running


def published(bulk: Bulk, batch: Batch) -> int:
    """Return how many messages were sent for the batch so far."""
    return sum(bulk.column(batch, "publish_no"))


# --- held back, let go, ended


def test_a_paused_batch_finishes_what_runs_starts_nothing_sends_nothing_and_goes_on(make_bulk: MakeBulk) -> None:
    bulk = make_bulk(publish_lost_seconds=4.0)  # or messages would be sent twice where a worker stands still
    fleet = bulk.fleet
    fleet.start("dispatcher")
    fleet.start_sleeping_worker(step_seconds=0.04)
    batch = bulk.submit("paused", 80)
    fleet.until(lambda: bulk.completed(batch) >= 5, "it runs")
    bulk.door.pause(batch)
    fleet.until(lambda: bulk.in_flight(batch) == 0, "what ran is finished, and its messages are taken back")
    counts, sent = bulk.again(batch).counts, published(bulk, batch)
    assert counts.processing == counts.failed == 0
    time.sleep(5.0)  # longer than until a message counts as lost
    assert bulk.again(batch).counts == counts, "nothing has started"
    assert published(bulk, batch) == sent, "and nothing was sent again"
    bulk.door.resume(batch)
    fleet.until(lambda: bulk.completed(batch) == 80, "it goes on to its end")
    assert set(bulk.column(batch, "attempt")) == {1}
    assert published(bulk, batch) <= 80 + 32, "each row once, and once more what the window held"


def test_a_cancelled_batch_ends_what_waits_at_once_and_what_runs_within_a_step(bulk: Bulk) -> None:
    fleet = bulk.fleet
    fleet.start("dispatcher")
    fleet.start_sleeping_worker(step_seconds=2.0)
    batch = bulk.submit("cancelled", 2000, num_inference_steps=50)
    fleet.until(lambda: any(bulk.column(batch, "on_device")), "one is on the device")
    bulk.door.cancel(batch)
    # In less than the 100 seconds that a job would take.
    fleet.until(lambda: bulk.again(batch).ended_at is not None, "it has ended", seconds=60)
    ended = bulk.again(batch)
    assert (ended.state, ended.counts.left) == (BatchState.CANCELLED, 0)
    assert ended.counts.cancelled + ended.counts.completed == 2000
    assert set(bulk.column(batch, "error_code")) <= {"cancelled", None}
    attempts = bulk.column(batch, "attempt")
    bulk.seconds_to_complete("later", 4, seconds=90)
    assert bulk.column(batch, "attempt") == attempts, "messages that are still in Redis start nothing"


def test_several_dispatchers_publish_each_row_once(make_bulk: MakeBulk) -> None:
    bulk = make_bulk(publish_lost_seconds=60.0)
    fleet = bulk.fleet
    for _ in range(3):
        fleet.start("dispatcher")
    fleet.start_sleeping_worker(step_seconds=0.001)
    crowd = [bulk.submit(f"batch {number}", 60) for number in range(3)]
    fleet.until(fleet.all_over, "all rows are over")
    for batch in crowd:
        assert bulk.completed(batch) == 60
        assert set(bulk.column(batch, "publish_no")) == {1}
        assert set(bulk.column(batch, "attempt")) == {1}


# --- gentle to hosts


def test_a_host_that_asks_for_rest_gets_it_and_every_row_completes(make_bulk: MakeBulk) -> None:
    limit, rows = 3, 40
    with running_shy_host(patience=12, rest=1) as shy:
        bulk = make_bulk(source_host_max_jobs=limit, fetch_allow_hosts=(shy.host,))
        fleet = bulk.fleet
        fleet.start("dispatcher")
        fleet.start_sleeping_worker(step_seconds=0.001, WORKER_SLOTS="8")
        batch = bulk.submit("shy", rows, lambda number: {"image": f"http://{shy.host}/{number}.png"})
        fleet.until(lambda: bulk.again(batch).is_over, "all rows are over")
        assert bulk.completed(batch) == rows
        assert sorted(shy.served) == sorted(f"/{number}.png" for number in range(1, rows + 1)), "each was fetched once"
        assert len(shy.rests) == 3
        assert max(shy.rests) < limit, f"{shy.rests}: only what was in flight already came during a rest"
        assert shy.most_at_once <= limit
        assert set(bulk.column(batch, "failures")) == {0}, "its wish for rest is nobody's failure"


# --- cheap when idle


@needs_proc
def test_an_idle_dispatcher_costs_next_to_nothing_even_beside_a_paused_batch(make_bulk: MakeBulk) -> None:
    bulk = make_bulk(dispatcher_poll_seconds=2.0)
    fleet = bulk.fleet
    paused = bulk.submit("paused", 1000)
    bulk.door.pause(paused)
    dispatcher = fleet.start("dispatcher")
    fleet.until(lambda: "dispatcher.started" in dispatcher.output(), "it runs", process=dispatcher)
    time.sleep(3.0)
    began, cpu, done = time.monotonic(), cpu_seconds(dispatcher), transactions(bulk)
    time.sleep(5.0)
    used, more = cpu_seconds(dispatcher) - cpu, transactions(bulk) - done
    seconds = time.monotonic() - began
    share = used / seconds
    assert share < 0.02, f"{share:.1%} of a core"
    assert more < 20 * seconds
    assert published(bulk, paused) == 0


def cpu_seconds(process: Process) -> float:
    """Return the computing time of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def transactions(bulk: Bulk) -> int:
    """Return how many transactions the test's database has seen."""
    seen = text("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()")
    with bulk.fleet.engine.begin() as connection:
        return int(connection.execute(seen).scalar_one())


# --- manifests by URL


def lines(rows: int, image: str) -> bytes:
    """Return a JSONL manifest."""
    return "".join(json.dumps({"custom_id": f"id-{n}", "image": image}) + "\n" for n in range(rows)).encode()


def hand_over(bulk: Bulk, name: str, source: str) -> Batch:
    """Create a batch whose manifest the fleet reads itself."""
    return bulk.door.start(NewBatch(name, manifest={"source": source, "options": {}}))


def ids_once(bulk: Bulk, batch: Batch, rows: int) -> bool:
    """Return whether the batch has each row of `lines` once."""
    with bulk.fleet.engine.begin() as connection:
        of_batch = select(func.count(), func.count(jobs.c.custom_id.distinct())).where(jobs.c.batch_id == batch.id)
        return tuple(connection.execute(of_batch).one()) == (rows, rows)


def test_manifests_by_http_and_from_the_bucket_are_read_and_their_rows_run(make_bulk: MakeBulk, site: Site) -> None:
    bulk = make_bulk(fetch_allow_hosts=(site.host,))
    fleet = bulk.fleet
    fleet.start("dispatcher")
    site.files["/rows.jsonl"] = lines(30, bulk.image)
    key = f"uploads/{fleet.owner.hex}/{new_id().hex}/rows.jsonl"
    fleet.objects.put(key, lines(20, bulk.image), "application/jsonl")
    by_http = hand_over(bulk, "by http", f"{site.url}/rows.jsonl")
    from_bucket = hand_over(bulk, "from the bucket", fleet.objects.uri(key))
    for batch, rows in ((by_http, 30), (from_bucket, 20)):
        fleet.until(lambda batch=batch: bulk.again(batch).state is BatchState.OPEN, "it is open")  # type: ignore[misc]
        assert ids_once(bulk, batch, rows)
        assert bulk.again(batch).error is None


def test_a_manifest_whose_reader_is_killed_is_read_on_by_another_dispatcher(make_bulk: MakeBulk, site: Site) -> None:
    bulk = make_bulk(fetch_allow_hosts=(site.host,))
    fleet, rows = bulk.fleet, 20_000
    site.files["/rows.jsonl"] = lines(rows, bulk.image)
    doomed = fleet.start("dispatcher")
    fleet.until(lambda: "dispatcher.started" in doomed.output(), "it runs", process=doomed)
    batch = hand_over(bulk, "long", f"{site.url}/rows.jsonl")
    with no_more_rows_than(fleet.engine, rows - 1):
        fleet.until(lambda: bulk.again(batch).cursor > 0, "its first rows are in", process=doomed)
        doomed.kill()
        left = bulk.again(batch)
    assert left.state is BatchState.RECEIVING
    assert 0 < left.cursor < rows
    fleet.start("dispatcher")
    with fleet.engine.begin() as connection:  # two minutes later
        connection.execute(update(batches).where(batches.c.id == batch.id).values(intake_until=func.now()))
    fleet.until(lambda: bulk.again(batch).state is BatchState.OPEN, "it is open")
    assert (bulk.again(batch).cursor, ids_once(bulk, batch, rows)) == (rows, True)
    assert site.count("/rows.jsonl") == 2


def test_a_manifest_that_cannot_be_read_ends_its_batch_with_words(
    make_bulk: MakeBulk, site: Site, tmp_path: Path
) -> None:
    bulk = make_bulk(fetch_allow_hosts=(site.host,))
    whole = tmp_path / "rows.parquet"
    pd.DataFrame({"image": [bulk.image] * 1000}).to_parquet(whole)
    site.files["/cut.parquet"] = whole.read_bytes()[:-100]
    site.files["/picture"] = png(Image.new("RGB", (8, 8)))
    site.files["/empty.csv"] = b""
    site.files["/cut.jsonl.gz"] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00"
    bulk.fleet.start("dispatcher")
    words = {
        "/missing.jsonl": "404",
        "/cut.parquet": "ends too early",
        "/picture": "not UTF-8",
        "/empty.csv": "empty",
        "/cut.jsonl.gz": "ends too early",
    }
    crowd = {path: hand_over(bulk, path, f"{site.url}{path}") for path in words}
    for path, batch in crowd.items():
        bulk.fleet.until(
            lambda batch=batch: bulk.again(batch).state is BatchState.CANCELLED,  # type: ignore[misc]
            f"{path} has ended",
        )
        ended = bulk.again(batch)
        assert ended.error is not None
        assert words[path] in ended.error, ended.error
        assert "fillfleet-manifest" not in ended.error, ended.error
        assert "Traceback" not in ended.error
        assert ended.counts.total == 0
