"""What a step costs depends neither on how much waits nor on the history in the table, whatever the planner knows.

Cost is counted in pages that PostgreSQL touches: the same on a fast and on a busy machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import Connection, event, select, text

from common import lifecycle
from common.contract import Queue, Status
from common.database import make_engine
from common.tables import jobs
from infra.embedded.servers import EmbeddedServers
from producer.results.read import RowFilter, read_jobs
from tests.support.databases import fresh_database
from tests.support.environment import settings_for
from tests.support.life import BROKEN, RESULT, TROUBLE, Life, publishing

MANY = 30_000
FEW_PAGES = 300
"""Five jobs with all their index entries; the smallest index of all that waits has far more."""
HOST = "busy.example.com"
Step = Callable[[Connection], object]

_FILL = text("""
    INSERT INTO jobs (id, owner_id, queue, model, request, status, attempt, publish_no, ended_at, result)
    SELECT gen_random_uuid(), :owner, 'bulk', 'm', '{"image": "https://e.com/a.png", "seed": 1}', :status, 1, 1,
           CASE :status WHEN 'completed' THEN now() END, CASE :status WHEN 'completed' THEN '{}'::jsonb END
    FROM generate_series(1, :count)
""")

_FILL_BATCH = text("""
    WITH added AS (
        INSERT INTO batch_counts (batch_id, shard, created, failed)
        SELECT :batch, 0, CASE :status WHEN 'created' THEN :count ELSE 0 END,
               CASE :status WHEN 'failed' THEN :count ELSE 0 END
    )
    INSERT INTO jobs (
        id, owner_id, queue, model, request, batch_id, row_no, source_host, status, error, error_code, ended_at
    )
    SELECT gen_random_uuid(), :owner, 'bulk', 'm', '{"image": "https://e.com/a.png", "seed": 1}', :batch, number,
           CASE WHEN number <= :of_host THEN 'busy.example.com' ELSE 'free.example.com' END, :status,
           CASE :status WHEN 'failed' THEN 'x' END, CASE :status WHEN 'failed' THEN 'x' END,
           CASE :status WHEN 'failed' THEN now() END
    FROM generate_series(1, :count) AS number
""")

_PAGES = text("""
    SELECT sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read, 0) + coalesce(idx_blks_hit, 0))
    FROM pg_statio_user_tables
""")


@dataclass(frozen=True)
class Full:
    """A table with many jobs of every kind that waits for something, of one owner."""

    life: Life
    running: UUID
    """An open batch, of which a third waits for a host at rest, before all other rows."""
    paused: UUID
    failed: UUID
    """A batch that is over: every row has failed."""
    cancelled: UUID

    def some(self, batch: UUID | None, status: str = "created") -> list[UUID]:
        """Five jobs of a batch, or of none."""
        fits = jobs.c.batch_id.is_(None) if batch is None else jobs.c.batch_id == batch
        with self.life.engine.begin() as connection:
            some = select(jobs.c.id).where(fits, jobs.c.status == status, jobs.c.publish_seq.is_(None))
            return list(connection.execute(some.order_by(jobs.c.id.desc()).limit(5)).scalars())


def pages(connection: Connection) -> int:
    """Return how many pages of tables were touched so far."""
    connection.execute(text("SELECT pg_stat_force_next_flush()"))
    connection.commit()
    connection.execute(text("SELECT pg_stat_clear_snapshot()"))
    return int(connection.execute(_PAGES).scalar_one())


def touched(life: Life, steps: Mapping[str, Step]) -> dict[str, int]:
    """Make one step after the other; return how many pages each has touched."""
    counts = {}
    with life.engine.connect() as connection:
        for name, step in steps.items():
            before = pages(connection)
            step(connection)
            connection.commit()
            counts[name] = pages(connection) - before
    return counts


def plan_for_any_parameter(connection: object, _record: object) -> None:
    """Plan each statement without its parameters, as PostgreSQL may do for one that is prepared and used often."""
    connection.prepare_threshold = 0  # type: ignore[attr-defined]
    connection.execute("SET plan_cache_mode = force_generic_plan")  # type: ignore[attr-defined]
    connection.commit()  # type: ignore[attr-defined]


@pytest.fixture(
    params=["knows nothing", "knows an empty table", "knows the full table", "plans for any parameter"], scope="module"
)
def full(servers: EmbeddedServers, migrated_template: str, request: pytest.FixtureRequest) -> Iterator[Full]:
    """Many jobs, alone and in batches, and a planner that has seen this or not."""
    with fresh_database(servers, migrated_template) as url:
        settings = settings_for(servers, url)
        engine = make_engine(settings)
        if request.param == "plans for any parameter":
            event.listen(engine, "connect", plan_for_any_parameter)
        life = Life(engine, settings)
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        with autocommit.connect() as connection:
            connection.execute(text("ALTER TABLE jobs SET (autovacuum_enabled = off)"))
            if request.param == "knows an empty table":
                connection.execute(text("ANALYZE"))
        yield _fill(life, analyze=request.param in {"knows the full table", "plans for any parameter"})
        engine.dispose()


def _fill(life: Life, *, analyze: bool) -> Full:
    for _ in range(300):
        life.new_owner()
    full = Full(life, *(life.open(0) for _ in range(4)))
    with life.engine.begin() as connection:
        for status, count in (("created", MANY), ("completed", MANY // 4)):
            connection.execute(_FILL, {"owner": life.owner, "status": status, "count": count})
        for batch in (full.running, full.paused, full.failed, full.cancelled):
            status = "failed" if batch == full.failed else "created"
            count = MANY if batch == full.running else MANY // 3
            of_host = MANY // 3 if batch == full.running else 0
            rows = {"owner": life.owner, "batch": batch, "count": count, "of_host": of_host, "status": status}
            connection.execute(_FILL_BATCH, rows)
    if analyze:
        with life.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("ANALYZE"))
    life.do(lifecycle.pause_batch, life.owner, full.paused)
    life.do(lifecycle.cancel_batch, life.owner, full.cancelled)
    life.do(lifecycle.pause_host, HOST, 1000.0)
    assert life.do(lifecycle.end_batches) == [full.failed]
    return full


def test_each_step_of_a_job_touches_few_pages_however_much_waits(full: Full) -> None:
    life, some = full.life, full.some(None)
    counts = touched(
        life,
        {
            "publish": publishing(5),
            "publish from the empty queue": publishing(5, queue=Queue.INTERACTIVE),
            "look for lost messages": partial(
                lifecycle.publish_lost, queue=Queue.BULK, queue_is_empty=False, lost_seconds=15
            ),
            "send all again": partial(lifecycle.publish_lost, queue=Queue.BULK, queue_is_empty=True, lost_seconds=-1),
            "count": partial(lifecycle.count_published, queue=Queue.BULK),
            "claim": partial(lifecycle.claim, job=some[0], worker="w", lease_seconds=60),
            "renew": partial(lifecycle.renew, held=[(some[0], 2, True)], lease_seconds=60),
            "release": partial(lifecycle.release, job=some[0], attempt=2, why=TROUBLE, settings=life.settings),
            "cancel": partial(lifecycle.cancel, owner=life.owner, wanted=some),
            "retry": partial(lifecycle.retry, owner=life.owner, wanted=some),
            "delete": partial(lifecycle.delete, owner=life.owner, wanted=some),
            "rescue": partial(lifecycle.rescue, settings=life.settings),
        },
    )
    assert max(counts.values()) < FEW_PAGES, counts


def test_each_step_of_a_row_touches_few_pages_however_many_its_batch_has(full: Full) -> None:
    life, (claimed, failing, late, *wanted) = full.life, full.some(full.running)
    counts = touched(
        life,
        {
            "publish": publishing(5),
            "publish with a bound for hosts": publishing(5, host_limit=3),
            "claim": partial(lifecycle.claim, job=claimed, worker="w", lease_seconds=60),
            "complete": partial(lifecycle.complete, job=claimed, attempt=1, result=RESULT),
            "claim another": partial(lifecycle.claim, job=failing, worker="w", lease_seconds=60),
            "fail": partial(lifecycle.fail, job=failing, attempt=1, error=BROKEN),
            "claim a third": partial(lifecycle.claim, job=late, worker="w", lease_seconds=60),
            "release": partial(lifecycle.release, job=late, attempt=1, why=TROUBLE, settings=life.settings),
            "cancel": partial(lifecycle.cancel, owner=life.owner, wanted=wanted),
            "retry": partial(lifecycle.retry, owner=life.owner, wanted=wanted),
            "find rows by number": partial(
                lifecycle.find_rows, batch=full.running, numbers=list(range(7000, 7005)), custom_ids=[]
            ),
            "find rows by custom_id": partial(
                lifecycle.find_rows, batch=full.running, numbers=[], custom_ids=["a", "b"]
            ),
        },
    )
    assert max(counts.values()) < FEW_PAGES, counts


def test_each_step_of_a_batch_touches_few_pages_however_many_rows_it_has(full: Full) -> None:
    life = full.life
    claimed = full.some(full.cancelled)[0]
    # One row of the cancelled batch runs, two are out; two of the paused one are out.
    for batch, number in ((full.cancelled, 2), (full.paused, 2)):
        with life.engine.begin() as connection:
            connection.execute(
                text("UPDATE jobs SET publish_seq = nextval('publish_seq'), published_at = now() WHERE id = ANY(:ids)"),
                {"ids": full.some(batch)[1 : 1 + number]},
            )
    with life.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE jobs SET status = 'processing', worker_id = 'w', lease_until = now() + interval '1 hour'"
                " WHERE id = :id"
            ),
            {"id": claimed},
        )
    found: dict[str, object] = {}

    def noted(name: str, step: Step) -> Step:
        def run(connection: Connection) -> None:
            found[name] = step(connection)

        return run

    steps: dict[str, Step] = {
        "withdraw held rows": partial(lifecycle.withdraw_held_rows, limit=5),
        "withdraw none": partial(lifecycle.withdraw_held_rows),
        "end cancelled rows": partial(lifecycle.end_cancelled_rows, limit=5),
        "end more cancelled rows": partial(lifecycle.end_cancelled_rows, limit=5),
        "end no batch": lifecycle.end_batches,
        "retry rows": partial(lifecycle.retry_rows, owner=life.owner, batch=full.failed, limit=5),
        "retry later rows": partial(
            lifecycle.retry_rows, owner=life.owner, batch=full.failed, after=UUID(int=1 << 127), limit=5
        ),
        "retry rows of a batch that has none": partial(
            lifecycle.retry_rows, owner=life.owner, batch=full.paused, limit=5
        ),
        "pause": partial(lifecycle.pause_batch, owner=life.owner, batch=full.running),
        "resume": partial(lifecycle.resume_batch, owner=life.owner, batch=full.running),
        "counts": partial(lifecycle.read_counts, batches=[full.running]),
    }
    counts = touched(life, {name: noted(name, step) for name, step in steps.items()})
    assert max(counts.values()) < FEW_PAGES, counts
    assert found["withdraw held rows"] == 4
    assert (found["end cancelled rows"], found["end more cancelled rows"], found["end no batch"]) == (5, 5, [])
    assert life.row(claimed)["cancel_requested_at"] is not None, "what runs comes first"
    assert [len(found[name]) for name in steps if name.startswith("retry")] == [5, 5, 0]  # type: ignore[arg-type]


def test_a_pass_over_many_open_batches_looks_at_few_rows_of_each(life: Life) -> None:
    for _ in range(100):
        batch = life.open(0)
        with life.engine.begin() as connection:
            rows = {"owner": life.owner, "batch": batch, "count": 64, "of_host": 0, "status": "created"}
            connection.execute(_FILL_BATCH, rows)
    counts = touched(
        life,
        {
            "first": publishing(1),
            "few": publishing(8),
            "many": publishing(64),
        },
    )
    marked = 64 - 8
    assert counts["many"] - counts["few"] < 30 * marked, counts


def test_what_is_done_to_many_rows_is_no_statement_for_each(life: Life) -> None:
    batch = life.open(20)
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_more: object) -> None:
        times = len(parameters) if isinstance(parameters, list) else 1  # one for each, sent together
        statements.extend([statement] * times)

    life.do(lifecycle.cancel_batch, life.owner, batch)
    event.listen(life.engine, "before_cursor_execute", note)
    try:
        assert life.do(lifecycle.end_cancelled_rows) == 20
        assert life.do(lifecycle.end_batches) == [batch]
        assert len(life.do(lifecycle.retry_rows, life.owner, batch)) == 20
    finally:
        event.remove(life.engine, "before_cursor_execute", note)
    repeated = [statement for statement in set(statements) if statements.count(statement) >= 20]
    assert not repeated, repeated
    assert {len(life.events(job)) for job in life.rows_of(batch)} == {2}


def test_a_few_failures_are_found_without_reading_all_rows(full: Full) -> None:
    life = full.life
    with life.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE jobs SET status = 'failed', error = 'x', error_code = 'x', ended_at = now()"
                " WHERE batch_id = :batch AND row_no IN (7, 5000, 29000)"
            ),
            {"batch": full.running},
        )
    failed = RowFilter(frozenset({Status.FAILED}))
    found: list[int] = []

    def read(_connection: Connection) -> None:
        found.extend(job["row_no"] for job in read_jobs(life.engine, life.owner, full.running, failed))
        with life.engine.connect() as same:  # the pool's connection that has read tells what it touched
            pages(same)

    counts = touched(life, {"failed": read})
    assert {7, 5000, 29000} <= set(found)
    assert found == sorted(found)
    assert counts["failed"] < FEW_PAGES, counts
