"""Two transactions in each other's way, on purpose and each time alike; and many at once, as chance has it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Barrier
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import Connection, Engine, event, select, text

from common.tables import jobs
from tests.support.life import outcome

A = TypeVar("A")
B = TypeVar("B")

_SECONDS: Final = 60.0
"""A limit for what hangs, not for a machine that has much to do."""
_BLOCKED: Final = text(
    "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(:pids) AND cardinality(pg_blocking_pids(pid)) > 0"
)


def overlap(
    engine: Engine, first: Callable[[Connection], A], second: Callable[[Connection], B], *, may_wait: bool = True
) -> tuple[Any, Any]:
    """Run `second` while `first` has done its work and not yet committed; return both outcomes (see `outcome`).

    `second` has either ended by itself or, where it may, waits for a lock of `first` when that commits.
    """
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as connection:
            one = outcome(lambda: first(connection))
            begun: Future[int] = Future()
            two = pool.submit(outcome, lambda: _in_transaction(engine, second, begun))
            waits = until_blocked_or_done(engine, [begun.result(_SECONDS)], [two])
        assert may_wait or not waits, "it waited for the other one"
        return one, two.result(_SECONDS)


def at_once(engine: Engine, calls: Sequence[Callable[[Connection], Any]]) -> list[Any]:
    """Run all calls, each in a transaction and a thread of its own, from one starting shot; return their outcomes."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[Connection], Any]) -> Any:
        with engine.begin() as connection:
            connection.execute(text("SELECT 1"))  # the transaction has begun before the shot
            barrier.wait(_SECONDS)
            return call(connection)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: outcome(lambda: run(call)), calls))


def is_free_while_waiting(engine: Engine, low: UUID, high: UUID, call: Callable[[Connection], A]) -> tuple[bool, A]:
    """Hold the job `low` until `call` waits for it; return whether `high` was free then, and what `call` returned.

    Indexes are off for `call`: it must not depend on the planner to come to the rows in a good order.
    """

    def call_without_indexes(connection: Connection) -> A:
        connection.execute(text("SET LOCAL enable_indexscan = off"))
        connection.execute(text("SET LOCAL enable_bitmapscan = off"))
        return call(connection)

    lock = select(jobs.c.id).with_for_update(skip_locked=True)
    begun: Future[int] = Future()
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as holder:
            holder.execute(lock.where(jobs.c.id == low)).one()
            answer = pool.submit(_in_transaction, engine, call_without_indexes, begun)
            assert until_blocked_or_done(engine, [begun.result(_SECONDS)], [answer]), "it did not need the lower id"
            with engine.begin() as onlooker:
                free = onlooker.execute(lock.where(jobs.c.id == high)).one_or_none() is not None
        return free, answer.result(_SECONDS)


def overtaken(engine: Engine, call: Callable[[Connection], A], meanwhile: Callable[[], object]) -> A:
    """Run `call`, and `meanwhile` from start to commit right before `call` locks what it has seen."""
    waiting = [meanwhile]

    def before(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if waiting and "SKIP LOCKED" in statement:
            waiting.pop()()

    with engine.begin() as connection:
        event.listen(connection, "before_cursor_execute", before)
        answer = call(connection)
    assert not waiting, "it locked nothing"
    return answer


def until_blocked_or_done(engine: Engine, pids: Sequence[int], futures: Sequence[Future[Any]]) -> bool:
    """Wait until all of these backends wait for a lock, or all futures are done; return whether they are blocked."""
    deadline = time.monotonic() + _SECONDS
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while time.monotonic() < deadline:
            if not wait(futures, timeout=0.005).not_done:
                return False
            if connection.execute(_BLOCKED, {"pids": list(pids)}).scalar_one() == len(pids):
                return True
    raise AssertionError(f"neither blocked nor done within {_SECONDS:.0f} s")


def _in_transaction(engine: Engine, call: Callable[[Connection], B], begun: Future[int]) -> B:
    with engine.begin() as connection:
        begun.set_result(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        return call(connection)
