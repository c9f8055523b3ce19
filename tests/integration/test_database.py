"""The door to Postgres: the bell rings in time and survives outages, and a dead server is Unavailable, nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, delete, func, insert, select, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from common.database import Doorbell, make_engine, notify_jobs, transaction
from common.errors import LeaseLost, Unavailable
from common.ids import new_id
from common.settings import Settings
from common.tables import owners
from infra.embedded.servers import EmbeddedServers
from tests.support.life import Life, remove_all


@pytest.fixture
def settings(life: Life) -> Settings:
    """The settings of a database that the tests of this file share, emptied before each."""
    return life.settings


@pytest.fixture
def database(life: Life) -> Engine:
    """An engine on it."""
    remove_all(life.engine)  # its owner, too
    return life.engine


@pytest.fixture
def bell(settings: Settings) -> Iterator[Doorbell]:
    doorbell = Doorbell(settings)
    doorbell.listen()
    yield doorbell
    doorbell.close()


@pytest.fixture
def a_server_that_is_back_afterwards(servers: EmbeddedServers) -> Iterator[EmbeddedServers]:
    """The servers, with PostgreSQL to be killed."""
    yield servers
    servers.postgres.start()


def ring(engine: Engine) -> float:
    """Ring the bell, and return when."""
    with engine.begin() as connection:
        notify_jobs(connection)
    return time.monotonic()


def terminate(settings: Settings, application: str) -> int:
    """End all backends of this name on our database, as an administrator might; return how many."""
    sever = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE application_name = :name AND datname = current_database() AND pid <> pg_backend_pid()"
    )
    engine = make_engine(settings, application="terminator")
    with engine.begin() as connection:
        count = connection.execute(sever, {"name": application}).scalar_one()
    engine.dispose()
    return int(count)


def add_owner(engine: Engine) -> None:
    with transaction(engine) as connection:
        connection.execute(insert(owners).values(id=new_id(), name=new_id().hex))


def count_owners(engine: Engine) -> int:
    with transaction(engine) as connection:
        return int(connection.execute(select(func.count()).select_from(owners)).scalar_one())


def attempt(engine: Engine, *steps: Callable[[Connection], object]) -> None:
    """Take all steps in one transaction."""
    with transaction(engine) as connection:
        for step in steps:
            step(connection)


def add_half(connection: Connection) -> None:
    """Write something that the rest of the transaction shall take back."""
    connection.execute(insert(owners).values(id=new_id(), name="half"))


def ask(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))


# --- the doorbell


def test_the_bell_wakes_who_waits_long_before_its_time_is_over(bell: Doorbell, database: Engine) -> None:
    with ThreadPoolExecutor(1) as pool:
        woken = pool.submit(lambda: (bell.wait(120), time.monotonic()))
        time.sleep(0.3)
        rung = ring(database)
        heard, when = woken.result()
    assert heard
    assert when - rung < 20


def test_without_a_ring_the_wait_ends_in_its_time(bell: Doorbell) -> None:
    started = time.monotonic()
    assert not bell.wait(0.3)
    assert 0.25 < time.monotonic() - started < 20


def test_a_ring_that_is_rolled_back_is_not_heard(bell: Doorbell, database: Engine) -> None:
    with database.connect() as connection:
        connection.begin()
        notify_jobs(connection)
        connection.rollback()
    assert not bell.wait(0.3)


def test_a_ring_while_nobody_waits_is_heard_at_the_next_wait(bell: Doorbell, database: Engine) -> None:
    for _ in range(5):
        ring(database)
    started = time.monotonic()
    assert bell.wait(120)
    assert time.monotonic() - started < 20


def test_every_dispatcher_hears_the_bell(bell: Doorbell, settings: Settings, database: Engine) -> None:
    other = Doorbell(settings)
    other.listen()
    ring(database)
    assert bell.wait(60)
    assert other.wait(60)
    other.close()


def test_listening_twice_is_one_connection_and_closing_twice_is_fine(bell: Doorbell, settings: Settings) -> None:
    bell.listen()
    assert terminate(settings, "fillfleet doorbell") == 1
    bell.close()
    bell.close()


def test_waiting_without_a_connection_is_unavailable(settings: Settings) -> None:
    with pytest.raises(Unavailable):
        Doorbell(settings).wait(0.1)


def test_a_severed_bell_is_unavailable_at_once_and_works_again_after_listen(
    bell: Doorbell, settings: Settings, database: Engine
) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(bell.wait, 600)
        time.sleep(0.2)
        assert terminate(settings, "fillfleet doorbell") == 1
        with pytest.raises(Unavailable):
            waiting.result(60)
    with pytest.raises(Unavailable):
        bell.wait(0.1)
    bell.listen()
    ring(database)
    assert bell.wait(60)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_the_bell_survives_a_restart_of_postgres(
    bell: Doorbell, database: Engine, a_server_that_is_back_afterwards: EmbeddedServers, end: str
) -> None:
    postgres = a_server_that_is_back_afterwards.postgres
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(bell.wait, 600)
        time.sleep(0.2)
        getattr(postgres, end)()
        with pytest.raises(Unavailable):
            waiting.result(60)
    with pytest.raises(Unavailable) as down:
        bell.listen()
    assert (down.value.code, down.value.message) == ("database_unavailable", "the database does not answer")
    postgres.start()
    bell.listen()
    ring(database)
    assert bell.wait(60)


# --- transactions


def test_what_the_block_wrote_is_kept_and_an_exception_takes_all_of_it_back(database: Engine) -> None:
    def lose_the_lease(_: Connection) -> None:
        raise LeaseLost

    add_owner(database)
    with pytest.raises(LeaseLost):
        attempt(database, add_half, lose_the_lease)
    assert count_owners(database) == 1


def test_a_mistake_in_the_statement_or_the_data_is_not_an_outage(database: Engine) -> None:
    with pytest.raises(ProgrammingError):
        attempt(database, add_half, lambda connection: connection.execute(text("SELECT * FROM nowhere")))
    with pytest.raises(IntegrityError):
        attempt(database, add_half, add_half)
    assert count_owners(database) == 0


def test_a_server_that_is_not_there_is_unavailable_and_the_message_names_nothing_internal(settings: Settings) -> None:
    url = SecretStr("postgresql://app:hunter2@127.0.0.1:1/fillfleet")
    engine = make_engine(settings.model_copy(update={"database_url": url}))
    with pytest.raises(Unavailable) as down, transaction(engine):
        raise AssertionError("never reached")
    assert (down.value.code, down.value.message) == ("database_unavailable", "the database does not answer")


def test_a_connection_severed_in_the_middle_is_unavailable_and_nothing_of_it_is_kept(
    settings: Settings, database: Engine
) -> None:
    with pytest.raises(Unavailable):
        attempt(database, add_half, lambda _: terminate(settings, "fillfleet"), ask)
    assert count_owners(database) == 0


def test_a_connection_severed_before_the_commit_is_unavailable_too(settings: Settings, database: Engine) -> None:
    with pytest.raises(Unavailable):
        attempt(database, add_half, lambda _: terminate(settings, "fillfleet"))
    assert count_owners(database) == 0


def test_a_server_that_dies_is_unavailable_and_the_same_engine_works_when_it_is_back(
    database: Engine, a_server_that_is_back_afterwards: EmbeddedServers
) -> None:
    postgres = a_server_that_is_back_afterwards.postgres
    add_owner(database)
    with pytest.raises(Unavailable):
        attempt(database, add_half, lambda _: postgres.kill(), ask)
    with pytest.raises(Unavailable):
        add_owner(database)
    postgres.start()
    assert count_owners(database) == 1
    add_owner(database)


def test_connections_that_a_restart_cut_are_replaced_without_anybody_noticing(
    database: Engine, a_server_that_is_back_afterwards: EmbeddedServers
) -> None:
    with transaction(database), transaction(database):
        pass  # two connections now lie in the pool
    a_server_that_is_back_afterwards.postgres.stop()
    a_server_that_is_back_afterwards.postgres.start()
    with transaction(database), transaction(database):
        add_owner(database)
    assert count_owners(database) == 1


def test_a_lock_that_is_never_given_is_unavailable_and_not_for_ever(database: Engine) -> None:
    add_owner(database)

    def lock_all(connection: Connection) -> None:
        connection.execute(text("SET LOCAL lock_timeout = '100ms'"))
        connection.execute(select(owners.c.id).with_for_update())

    with transaction(database) as holder:
        lock_all(holder)
        with pytest.raises(Unavailable):
            attempt(database, lock_all)


def test_a_primary_that_became_a_standby_is_unavailable_and_is_looked_for_anew(database: Engine) -> None:
    seen = []

    def demote(connection: Connection) -> None:
        seen.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        connection.execute(text("SET TRANSACTION READ ONLY"))

    with pytest.raises(Unavailable):
        attempt(database, demote, add_half)
    with transaction(database) as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() not in seen
    assert count_owners(database) == 0


def test_an_error_does_not_repeat_what_users_wrote(database: Engine) -> None:
    wish = text("SELECT CAST(:text AS integer) FROM nowhere")
    with pytest.raises(ProgrammingError) as error:
        attempt(database, lambda connection: connection.execute(wish, {"text": "a private prompt"}))
    assert "private" not in str(error.value)


def test_who_falls_silent_inside_a_transaction_loses_it_and_its_locks(database: Engine) -> None:
    def fall_silent(connection: Connection) -> None:
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '100ms'"))
        connection.execute(select(owners.c.id).with_for_update())
        with transaction(database) as other:  # waits for the lock until the server gives it away
            other.execute(delete(owners))

    add_owner(database)
    with pytest.raises(Unavailable):
        attempt(database, fall_silent, add_half)
    assert count_owners(database) == 0


_LIMITS = {
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "1min",
    "application_name": "fillfleet here",
}


def test_every_connection_gives_up_in_the_end_and_says_who_it_is(settings: Settings) -> None:
    engine = make_engine(settings, application="fillfleet here")
    with transaction(engine) as connection:
        shown = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in _LIMITS}
    engine.dispose()
    assert shown == _LIMITS


def test_a_plain_client_can_ring_too(bell: Doorbell, settings: Settings) -> None:
    """The channel's name is part of what operators may rely on."""
    url = settings.database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("NOTIFY fillfleet_jobs")
    assert bell.wait(60)
