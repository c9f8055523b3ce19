"""The migrations: up, down and up again, the same tables as common/tables.py, on the newest and the oldest server."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString
from uuid import uuid4

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import create_engine, delete, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.pool import NullPool

from common import lifecycle
from common.contract import Queue
from common.database import make_engine
from common.tables import jobs, metadata, owners
from infra.embedded.servers import EmbeddedServers
from migrations.run import alembic_config, downgrade, upgrade
from tests.support import debian_postgres
from tests.support.environment import environment_of, settings_for
from tests.support.history import told_by
from tests.support.life import RESULT, TROUBLE, Life
from tests.support.schema import schema_of

MIGRATION_LOCK = 0x46696C6C
"""migrations/env.py takes this advisory lock."""


@pytest.fixture(scope="module", params=["the embedded 18", "Debian's 15"])
def server(request: pytest.FixtureRequest, servers: EmbeddedServers) -> Iterator[str]:
    """The URL of a server, to make databases on."""
    if request.param == "the embedded 18":
        yield servers.database_url
        return
    if not debian_postgres.is_installed():
        pytest.skip(debian_postgres.MISSING)
    with debian_postgres.running(servers.guardian) as url:
        yield url


@contextmanager
def empty_database(server: str) -> Iterator[str]:
    """Yield the URL of a database with nothing in it; drop it afterwards."""
    name = f"migrations_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def url(server: str) -> Iterator[str]:
    """The URL of a database with nothing in it."""
    with empty_database(server) as address:
        yield address


def driver(address: str) -> URL:
    """Return the address with the driver that SQLAlchemy shall use."""
    return make_url(address).set(drivername="postgresql+psycopg")


def test_up_makes_exactly_what_the_tables_say(server: str, url: str) -> None:
    upgrade(url)
    with empty_database(server) as other:
        engine = create_engine(driver(other), poolclass=NullPool)
        metadata.create_all(engine)
        expected = schema_of(other)
    actual = schema_of(url)
    assert {table for table, *_ in actual["tables"]} == set(metadata.tables)
    for kind in expected:
        assert actual[kind] == expected[kind], kind
    assert any("WHERE" in definition for *_, definition in actual["indexes"]), "partial indexes are compared, too"


def test_alembic_finds_no_difference_either(url: str) -> None:
    upgrade(url)
    engine = create_engine(driver(url), poolclass=NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_down_leaves_nothing_and_up_again_is_the_same(url: str) -> None:
    upgrade(url)
    first = schema_of(url)
    downgrade(url)
    assert {kind: rows for kind, rows in schema_of(url).items() if rows} == {}
    upgrade(url)
    assert schema_of(url) == first


def test_each_step_can_be_taken_back_and_again(url: str) -> None:
    steps = [step.revision for step in ScriptDirectory.from_config(alembic_config()).walk_revisions()][::-1]
    for step, before in zip(steps, ["base", *steps], strict=False):
        lower = schema_of(url)
        upgrade(url, step)
        upper = schema_of(url)
        assert upper != lower
        downgrade(url, before)
        assert schema_of(url) == lower
        upgrade(url, step)
        assert schema_of(url) == upper


def test_migrating_what_is_up_to_date_keeps_its_rows(url: str) -> None:
    upgrade(url)
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO owners (id, name) VALUES (%s, 'somebody')", (uuid4(),))
    upgrade(url)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT name FROM owners").fetchall() == [("somebody",)]


def test_a_migration_that_breaks_off_leaves_the_database_as_it_was(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE workers (id text)")  # in the way of the first step
    before = schema_of(url)
    with pytest.raises(ProgrammingError, match="already exists"):
        upgrade(url)
    assert schema_of(url) == before


def test_two_processes_that_migrate_at_once_take_turns(url: str, servers: EmbeddedServers) -> None:
    environment = environment_of(settings_for(servers, url))
    command = [sys.executable, "-m", "producer.cli", "migrate", "--no-bucket"]
    with psycopg.connect(url) as gate:
        gate.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        both = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for _ in range(2)
        ]
        until_both_wait(gate)
    for process in both:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    assert {table for table, *_ in schema_of(url)["tables"]} == set(metadata.tables)


_WAITING: LiteralString = """
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND NOT granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def until_both_wait(gate: psycopg.Connection) -> None:
    """Wait until two others want the advisory lock that `gate` has."""
    deadline = time.monotonic() + 60
    while gate.execute(_WAITING).fetchone() != (2,):
        assert time.monotonic() < deadline, "they did not both come to the lock"
        time.sleep(0.05)


def test_a_job_lives_its_life_on_this_server(url: str, servers: EmbeddedServers) -> None:
    """All that uses PostgreSQL's own ways (turns, locks, arrays, intervals) in one go."""
    upgrade(url)
    settings = settings_for(servers, url)
    engine = make_engine(settings)
    try:
        life = Life(engine, settings)
        other = life.create(life.new_owner())
        job = life.create()
        messages = life.publish()
        assert {message.job for message in messages} == {job, other}
        life.age_publish(job, 60)
        lost = life.do(lifecycle.publish_lost, Queue.BULK, queue_is_empty=True, lost_seconds=30)
        assert [message.job for message in lost] == [job]
        assert life.do(lifecycle.withdraw, messages) == 1
        assert life.do(lifecycle.release, job, life.take(job), TROUBLE, settings) == "created"
        life.make_due(job)
        life.do(lifecycle.renew, [(job, life.take(job), True)], lease_seconds=60)
        life.expire(job)
        assert life.do(lifecycle.rescue, settings) == [(job, "created")]
        life.do(lifecycle.cancel, life.owner, [job])
        life.do(lifecycle.retry, life.owner, [job])
        attempt = life.take(job)
        life.do(lifecycle.pin, job, attempt, {"image": "00"})
        life.do(lifecycle.complete, job, attempt, RESULT)
        life.do(lifecycle.delete, life.owner, [job])
        told = told_by(life.events(job))
        assert (told.status, told.attempt, told.deleted) == ("completed", 3, True)
    finally:
        engine.dispose()


# --- what the schema itself refuses

REFUSED = {
    "status": "status = 'lost'",
    "queue": "queue = 'express'",
    "lease_while_processing": "status = 'processing', worker_id = 'w'",
    "ended_when_terminal": "ended_at = now()",
    "error_when_failed": "status = 'failed', ended_at = now()",
    "result_when_completed": "status = 'completed', ended_at = now()",
}


@pytest.mark.parametrize("constraint", REFUSED)
def test_the_table_refuses_a_job_in_a_state_that_makes_no_sense(life: Life, constraint: str) -> None:
    job = life.create()
    before = life.row(job)
    with pytest.raises(IntegrityError, match=f"ck_jobs_{constraint}"), life.engine.begin() as connection:
        connection.execute(text(f"UPDATE jobs SET {REFUSED[constraint]} WHERE id = :job"), {"job": job})  # noqa: S608
    assert life.row(job) == before


@pytest.mark.parametrize("leftover", ["error = 'x'", "lease_until = now(), worker_id = 'w'"])
def test_the_table_refuses_a_waiting_job_with_an_error_or_a_lease(life: Life, leftover: str) -> None:
    job = life.create()
    with pytest.raises(IntegrityError, match="ck_jobs_"), life.engine.begin() as connection:
        connection.execute(text(f"UPDATE jobs SET {leftover} WHERE id = :job"), {"job": job})  # noqa: S608


def test_an_owner_with_jobs_cannot_be_removed_and_a_removed_job_takes_its_events_along(life: Life) -> None:
    job = life.create()
    with pytest.raises(IntegrityError), life.engine.begin() as connection:
        connection.execute(delete(owners))
    with life.engine.begin() as connection:
        connection.execute(delete(jobs).where(jobs.c.id == job))
    assert life.events(job) == []
