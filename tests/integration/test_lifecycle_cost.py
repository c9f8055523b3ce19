"""What a step costs depends neither on how much waits nor on the history in the table, whatever the planner knows.

Cost is counted in pages that PostgreSQL touches: the same on a fast and on a busy machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import Connection, select, text

from common import lifecycle
from common.contract import Queue
from common.tables import jobs
from tests.support.life import TROUBLE, Life

MANY = 30_000
FEW_PAGES = 250
"""Five jobs with all their index entries; the smallest index of all that waits has more than twice as many."""

_FILL = text("""
    INSERT INTO jobs (id, owner_id, queue, model, request, status, attempt, publish_no, ended_at, result)
    SELECT gen_random_uuid(), :owner, 'bulk', 'm', '{"image": "https://e.com/a.png", "seed": 1}', :status, 1, 1,
           CASE :status WHEN 'completed' THEN now() END, CASE :status WHEN 'completed' THEN '{}'::jsonb END
    FROM generate_series(1, :count)
""")

_PAGES = text("""
    SELECT sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read, 0) + coalesce(idx_blks_hit, 0))
    FROM pg_statio_user_tables WHERE relname IN ('jobs', 'owners')
""")


def fill(life: Life, owner: UUID, status: str, count: int) -> None:
    """Put many jobs of one kind into the table."""
    with life.engine.begin() as connection:
        connection.execute(_FILL, {"owner": owner, "status": status, "count": count})


def pages(connection: Connection) -> int:
    """Return how many pages of jobs were touched so far."""
    connection.execute(text("SELECT pg_stat_force_next_flush()"))
    connection.commit()
    connection.execute(text("SELECT pg_stat_clear_snapshot()"))
    return int(connection.execute(_PAGES).scalar_one())


@pytest.fixture(params=["knows nothing", "knows an empty table", "knows the full table"])
def full(life: Life, request: pytest.FixtureRequest) -> Iterator[Life]:
    """One owner with many waiting jobs, as many completed ones, and a planner that has seen this or not."""
    analyze = text("ANALYZE jobs, owners")
    autocommit = life.engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as connection:
        connection.execute(text("ALTER TABLE jobs SET (autovacuum_enabled = off)"))
        if request.param == "knows an empty table":
            connection.execute(analyze)
    fill(life, life.owner, "created", MANY)
    fill(life, life.owner, "completed", MANY // 4)
    for _ in range(300):
        life.new_owner()
    with autocommit.connect() as connection:
        if request.param == "knows the full table":
            connection.execute(analyze)
    yield life
    with autocommit.connect() as connection:
        connection.execute(text("ALTER TABLE jobs RESET (autovacuum_enabled)"))
        connection.execute(text("TRUNCATE owners CASCADE"))


def test_each_step_touches_few_pages_however_much_waits(full: Life) -> None:
    with full.engine.begin() as connection:
        waiting = select(jobs.c.id).where(jobs.c.status == "created").order_by(jobs.c.id.desc()).limit(5)
        some = list(connection.execute(waiting).scalars())
    steps: dict[str, Callable[[Connection], object]] = {
        "publish": partial(lifecycle.publish_waiting, queue=Queue.BULK, room=5),
        "publish from the empty queue": partial(lifecycle.publish_waiting, queue=Queue.INTERACTIVE, room=5),
        "look for lost messages": partial(
            lifecycle.publish_lost, queue=Queue.BULK, queue_is_empty=False, lost_seconds=15
        ),
        "send all again": partial(lifecycle.publish_lost, queue=Queue.BULK, queue_is_empty=True, lost_seconds=-1),
        "count": partial(lifecycle.count_published, queue=Queue.BULK),
        "claim": partial(lifecycle.claim, job=some[0], worker="w", lease_seconds=60),
        "renew": partial(lifecycle.renew, held=[(some[0], 2, True)], lease_seconds=60),
        "release": partial(lifecycle.release, job=some[0], attempt=2, why=TROUBLE, settings=full.settings),
        "cancel": partial(lifecycle.cancel, owner=full.owner, wanted=some),
        "retry": partial(lifecycle.retry, owner=full.owner, wanted=some),
        "delete": partial(lifecycle.delete, owner=full.owner, wanted=some),
        "rescue": partial(lifecycle.rescue, settings=full.settings),
    }
    touched = {}
    with full.engine.connect() as connection:
        for name, step in steps.items():
            before = pages(connection)
            step(connection)
            connection.commit()
            touched[name] = pages(connection) - before
    assert max(touched.values()) < FEW_PAGES, touched
