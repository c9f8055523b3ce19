"""The life of jobs as a test drives it: each step a transaction of its own, and rows and events to look at afterwards.

Jobs come into every state through the lifecycle's own functions; only time is moved with plain SQL, since waiting for
leases would take minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Concatenate, Final, ParamSpec, TypeVar
from uuid import UUID

from sqlalchemy import Connection, Engine, delete, func, insert, select, text

from common import lifecycle
from common.contract import MODEL, FillRequest, Queue, Status
from common.errors import LeaseLost, Rejected
from common.ids import new_id
from common.lifecycle import Claim, Counts, NewBatch, NewRow, Published, Release, Turns
from common.settings import Settings
from common.tables import api_keys, batches, job_events, jobs, owners, source_hosts, uploads, webhooks

P = ParamSpec("P")
T = TypeVar("T")

RESULT: Final = {"outputs": [], "worker": "w1"}
BROKEN: Final = Rejected("image_truncated", "image: the file ends too early")
DRAIN: Final = Release("draining", "the worker is shutting down", counts=False)
TROUBLE: Final = Release("fetch_timeout", "image: did not arrive in time", counts=True)
HOOK: Final = "https://example.com/hook"
REQUEST: Final = FillRequest(image="https://example.com/a.png", prompt="a fox", seed=7)
_EXPIRE: Final = text("UPDATE jobs SET lease_until = now() - interval '1 second' WHERE id = :job")
_PAUSE: Final = text("""
    SELECT EXTRACT(epoch FROM available_at - at) FROM jobs JOIN job_events ON job_id = jobs.id
    WHERE jobs.id = :job ORDER BY job_events.id DESC LIMIT 1
""")


def new_row(
    number: int,
    *,
    custom_id: str | None = None,
    request: FillRequest = REQUEST,
    adapters: str = "",
    host: str = "",
    extra: Mapping[str, Any] | None = None,
) -> NewRow:
    """A row of a batch, as the intake hands it on."""
    return NewRow(
        number=number,
        custom_id=custom_id,
        request_json=request.model_dump_json(),
        row_hash=number.to_bytes(16, "big"),
        adapters=adapters,
        source_host=host,
        extra=extra or {},
    )


def publishing(room: int, *, queue: Queue = Queue.BULK, host_limit: int = 0) -> Callable[[Connection], list[Published]]:
    """Return what a dispatcher that remembers no turns does in a pass."""
    return partial(lifecycle.publish_waiting, queue=queue, turns=Turns(), room=room, host_limit=host_limit)


class Life:
    """Jobs of one owner (and of others where a test asks) on one database."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.owner = self.new_owner()
        self._turns = {queue: Turns() for queue in Queue}

    def do(self, transition: Callable[Concatenate[Connection, P], T], /, *arguments: P.args, **named: P.kwargs) -> T:
        """Run one function of the lifecycle in a transaction of its own."""
        with self.engine.begin() as connection:
            return transition(connection, *arguments, **named)

    def new_owner(self) -> UUID:
        """Make an owner."""
        owner = new_id()
        with self.engine.begin() as connection:
            connection.execute(insert(owners).values(id=owner, name=owner.hex))
        return owner

    def create(self, owner: UUID | None = None, *, queue: Queue = Queue.BULK) -> UUID:
        """Make a job that waits to be published."""
        return self.do(lifecycle.create, owner or self.owner, REQUEST, queue=queue, model=MODEL)

    def receive(
        self, rows: int | Sequence[NewRow] = 0, owner: UUID | None = None, *, priority: int = 5, strict: bool = False
    ) -> UUID:
        """Make a batch that still receives rows, and has these."""
        owner = owner or self.owner
        new = NewBatch(new_id().hex, strict=strict, priority=priority, webhook_url=HOOK)
        batch = self.do(lifecycle.create_batch, owner, new)
        self.add_rows(batch, rows, owner)
        return batch

    def add_rows(self, batch: UUID, rows: int | Sequence[NewRow], owner: UUID | None = None) -> None:
        """Take rows into a batch, as the intake does: locked."""
        with self.engine.begin() as connection:
            lifecycle.lock_batch(connection, owner or self.owner, batch)
            many = [new_row(number) for number in range(1, rows + 1)] if isinstance(rows, int) else rows
            lifecycle.insert_rows(connection, owner or self.owner, batch, many)

    def open(self, rows: int | Sequence[NewRow] = 3, owner: UUID | None = None, *, priority: int = 5) -> UUID:
        """Make a batch that is open, of these rows."""
        batch = self.receive(rows, owner, priority=priority)
        self.do(lifecycle.open_batch, owner or self.owner, batch)
        return batch

    def rows_of(self, batch: UUID) -> list[UUID]:
        """Return the jobs of a batch in the order of its rows."""
        with self.engine.begin() as connection:
            rows = select(jobs.c.id).where(jobs.c.batch_id == batch).order_by(jobs.c.row_no, jobs.c.id)
            return list(connection.execute(rows).scalars())

    def batch(self, batch: UUID) -> Mapping[str, Any]:
        """Return the batch's row."""
        with self.engine.begin() as connection:
            return dict(connection.execute(select(batches).where(batches.c.id == batch)).mappings().one())

    def state(self, batch: UUID) -> tuple[str, bool]:
        """Return the batch's state, and whether it has ended."""
        row = self.batch(batch)
        return row["state"], row["ended_at"] is not None

    def counts(self, batch: UUID) -> Counts:
        """Return the batch's counts; AssertionError where the jobs themselves, counted one by one, say otherwise."""
        with self.engine.begin() as connection:
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            kept = lifecycle.read_counts(connection, [batch])[batch]
            assert kept == counted(connection, batch)
            return kept

    def finish(self, job: UUID) -> None:
        """Lead a job that can be taken to its result."""
        self.do(lifecycle.complete, job, self.take(job), RESULT)

    def webhooks(self, batch: UUID) -> list[Mapping[str, Any]]:
        """Return the bodies of the batch's webhooks, the oldest first."""
        with self.engine.begin() as connection:
            bodies = select(webhooks.c.body).where(webhooks.c.batch_id == batch).order_by(webhooks.c.id)
            return list(connection.execute(bodies).scalars())

    def publish(self, room: int = 100, *, queue: Queue = Queue.BULK, host_limit: int = 0) -> list[Published]:
        """Publish what waits and is due."""
        return self.do(lifecycle.publish_waiting, queue, self._turns[queue], room=room, host_limit=host_limit)

    def claim(self, job: UUID, worker: str = "w1", lease_seconds: float = 60.0) -> Claim | None:
        """Try to take a job."""
        return self.do(lifecycle.claim, job, worker=worker, lease_seconds=lease_seconds)

    def take(self, job: UUID) -> int:
        """Take a job that can be taken, and return the attempt."""
        claim = self.claim(job)
        assert claim is not None
        return claim.attempt

    def expire(self, job: UUID) -> None:
        """Let so much time pass that the job's lease has ended."""
        with self.engine.begin() as connection:
            connection.execute(_EXPIRE, {"job": job})

    def lose(self, job: UUID) -> None:
        """Let its worker fall silent for so long that the job is rescued: no heartbeat comes in between."""
        with self.engine.begin() as connection:
            connection.execute(_EXPIRE, {"job": job})
            assert job in [rescued for rescued, _ in lifecycle.rescue(connection, self.settings)]

    def make_due(self, job: UUID) -> None:
        """Let so much time pass that the job's backoff is over."""
        self._set(job, "available_at = now()")

    def age_publish(self, job: UUID, seconds: float) -> None:
        """Let so much time pass since the job's message was sent."""
        self._set(job, "published_at = now() - :seconds * interval '1 second'", seconds=seconds)

    def row(self, job: UUID) -> Mapping[str, Any]:
        """Return the job's row."""
        with self.engine.begin() as connection:
            return dict(connection.execute(select(jobs).where(jobs.c.id == job)).mappings().one())

    def events(self, job: UUID) -> list[tuple[str, int]]:
        """Return (event, attempt) of all that happened to the job, in order."""
        with self.engine.begin() as connection:
            rows = connection.execute(
                select(job_events.c.event, job_events.c.attempt)
                .where(job_events.c.job_id == job)
                .order_by(job_events.c.id)
            )
            return [(row.event, row.attempt) for row in rows]

    def last_event(self, job: UUID) -> tuple[str, int, Mapping[str, Any]]:
        """Return (event, attempt, detail) of what happened last."""
        newest = select(job_events).where(job_events.c.job_id == job).order_by(job_events.c.id.desc()).limit(1)
        with self.engine.begin() as connection:
            row = connection.execute(newest).one()
        return row.event, row.attempt, row.detail

    def picture(self, job: UUID) -> tuple[Mapping[str, Any], list[tuple[str, int]]]:
        """Return all there is about a job, to see that nothing changed."""
        return self.row(job), self.events(job)

    def age(self, job: UUID, column: str) -> float:
        """Return how many seconds ago a time of the job was, by the database's clock; negative where it is to come."""
        with self.engine.begin() as connection:
            seconds = select(text(f"EXTRACT(epoch FROM now() - {column})")).select_from(jobs).where(jobs.c.id == job)
            return float(connection.execute(seconds).scalar_one())

    def pause(self, job: UUID) -> float:
        """Return for how many seconds the job has to wait since what happened to it last, however long ago that was."""
        with self.engine.begin() as connection:
            return float(connection.execute(_PAUSE, {"job": job}).scalar_one())

    def _set(self, job: UUID, assignment: str, **values: object) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(f"UPDATE jobs SET {assignment} WHERE id = :job"), {"job": job, **values})  # noqa: S608


def remove_all(engine: Engine) -> None:
    """Empty the database. For the few rows of a test, deleting is thirty times as fast as truncating."""
    with engine.begin() as connection:
        for table in (jobs, batches, source_hosts, uploads, api_keys, owners):  # what hangs on a job goes with it
            connection.execute(delete(table))


def counted(connection: Connection, batch: UUID) -> Counts:
    """Count the jobs of a batch one by one."""
    kinds = select(jobs.c.status, jobs.c.error_code, func.count().label("number")).where(jobs.c.batch_id == batch)
    numbers = dict.fromkeys([*(status.value for status in Status), "cancelled"], 0)
    for row in connection.execute(kinds.group_by(jobs.c.status, jobs.c.error_code)):
        numbers[row.status] += row.number
        if (row.status, row.error_code) == ("failed", "cancelled"):
            numbers["cancelled"] += row.number
    return Counts(**numbers)


def created(life: Life) -> UUID:
    """A job that waits to be published."""
    return life.create()


def published(life: Life) -> UUID:
    """A job whose message is out."""
    job = life.create()
    assert job in [message.job for message in life.publish()]
    return job


def backing_off(life: Life) -> UUID:
    """A job that waits for its next try."""
    job = processing(life)
    life.do(lifecycle.release, job, 1, Release("fetch_timeout", "late", counts=True, delay_seconds=60), life.settings)
    return job


def processing(life: Life) -> UUID:
    """A job in its first attempt."""
    job = published(life)
    assert life.take(job) == 1
    return job


def marked(life: Life) -> UUID:
    """A running job that its owner wants cancelled."""
    job = processing(life)
    life.do(lifecycle.cancel, life.owner, [job])
    return job


def expired(life: Life) -> UUID:
    """A running job whose worker fell silent."""
    job = processing(life)
    life.expire(job)
    return job


def completed(life: Life) -> UUID:
    """A job with its result."""
    job = processing(life)
    life.do(lifecycle.complete, job, 1, RESULT)
    return job


def failed(life: Life) -> UUID:
    """A job that failed for good in its first attempt."""
    job = processing(life)
    life.do(lifecycle.fail, job, 1, BROKEN)
    return job


def cancelled(life: Life) -> UUID:
    """A job that was cancelled before anybody claimed it."""
    job = published(life)
    life.do(lifecycle.cancel, life.owner, [job])
    return job


def deleted(life: Life) -> UUID:
    """A completed job that its owner deleted."""
    job = completed(life)
    life.do(lifecycle.delete, life.owner, [job])
    return job


def deleted_while_running(life: Life) -> UUID:
    """A job that its owner deleted while it ran."""
    job = processing(life)
    life.do(lifecycle.delete, life.owner, [job])
    return job


def outcome(call: Callable[[], T]) -> T | type[LeaseLost]:
    """Return what a call returned, or LeaseLost where it raised that."""
    try:
        return call()
    except LeaseLost:
        return LeaseLost
