"""The states of a batch: receiving → open ⇄ paused → done or cancelled, and open again where its owner asks for it.

A batch's state only holds its rows back or lets them go; what becomes of a row is its own life. The batch is locked
before its state is changed, so that its end and a wish for more never miss one another; and before any of its jobs, so
that nobody who has a job waits for the batch of somebody who waits for that job.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, delete, func, insert, null, select, text, update

from common.contract import BatchState
from common.database import notify_jobs
from common.errors import Rejected
from common.ids import new_id
from common.lifecycle.counts import read_counts
from common.tables import batch_adapters, batch_counts, batches, jobs, webhooks

DONE_EVENT: Final = "batch.done"
CANCELLED_EVENT: Final = "batch.cancelled"
_EVENTS: Final = {BatchState.OPEN: DONE_EVENT, BatchState.CANCELLED: CANCELLED_EVENT}
"""What ends a batch of that state."""


@dataclass(frozen=True)
class NewBatch:
    """What its owner says of a batch before the first row."""

    name: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the contract for rows that say nothing of them."""
    strict: bool = False
    """Any bad row stops the batch before anything of it runs."""
    priority: int = 5
    """0 to 9, among the owner's own batches; the higher goes first."""
    webhook_url: str | None = None
    manifest: Mapping[str, Any] | None = None
    """What the server itself reads the rows from; None where they are sent."""


def create_batch(connection: Connection, owner: UUID, new: NewBatch) -> UUID:
    """Insert a batch that receives rows. Raises sqlalchemy's IntegrityError where the owner has one of that name."""
    batch = new_id()
    connection.execute(
        insert(batches).values(
            id=batch,
            owner_id=owner,
            name=new.name,
            state=BatchState.RECEIVING,
            defaults=dict(new.defaults),
            strict=new.strict,
            priority=new.priority,
            webhook_url=new.webhook_url,
            manifest=null() if new.manifest is None else dict(new.manifest),
        )
    )
    if new.manifest is not None:
        notify_jobs(connection)
    return batch


def lock_batch(connection: Connection, owner: UUID, batch: UUID) -> Row[*tuple[Any, ...]]:
    """Return the owner's batch, locked against every other change of its state. Raises Rejected (batch_not_found)."""
    # NO KEY UPDATE, since a claim's look at the state need not wait.
    held = select(batches).where(batches.c.id == batch, batches.c.owner_id == owner).with_for_update(key_share=True)
    row = connection.execute(held).one_or_none()
    if row is None:
        raise Rejected("batch_not_found", "there is no such batch; `fillfleet status` lists yours")
    return row


def open_batch(connection: Connection, owner: UUID, batch: UUID) -> BatchState:
    """End the receiving of rows: they may run now. Of a strict batch with bad rows nothing is kept.

    Returns the state that it has then; a batch that is past receiving stays as it is.
    """
    row = lock_batch(connection, owner, batch)
    if row.state != BatchState.RECEIVING:
        return BatchState(row.state)
    if row.strict and row.rejected:
        rows = "1 bad row" if row.rejected == 1 else f"{row.rejected} bad rows"
        discard_batch(connection, batch, f"{rows} in a strict batch: nothing was started; mend them and submit again")
        return BatchState.CANCELLED
    _set(connection, batch, state=BatchState.OPEN, opened_at=func.now(), intake_until=null(), error=null())
    notify_jobs(connection)
    return BatchState.OPEN


def discard_batch(connection: Connection, batch: UUID, why: str) -> None:
    """Cancel a batch of which nothing has run, and forget its rows: its name is free again. Its bad rows stay.

    The caller has locked it, and it is still receiving.
    """
    connection.execute(text("SET LOCAL statement_timeout = 0"))  # there may be a million of them
    connection.execute(delete(jobs).where(jobs.c.batch_id == batch))
    connection.execute(delete(batch_counts).where(batch_counts.c.batch_id == batch))
    connection.execute(delete(batch_adapters).where(batch_adapters.c.batch_id == batch))
    over = {"ended_at": func.now(), "discarded_at": func.now(), "intake_until": null()}
    _set(connection, batch, state=BatchState.CANCELLED, error=why, **over)
    _announce(connection, batch, CANCELLED_EVENT)


def pause_batch(connection: Connection, owner: UUID, batch: UUID) -> None:
    """Let nothing more of it start; what runs is finished. Raises Rejected (batch_not_found, batch_state)."""
    row = lock_batch(connection, owner, batch)
    if row.state == BatchState.PAUSED:
        return
    if row.state != BatchState.OPEN:
        raise _wrong_state(row, "paused")
    _set(connection, batch, state=BatchState.PAUSED)


def resume_batch(connection: Connection, owner: UUID, batch: UUID) -> None:
    """Let a paused batch go on. Raises Rejected (batch_not_found, batch_state)."""
    row = lock_batch(connection, owner, batch)
    if row.state == BatchState.OPEN:
        return
    if row.state != BatchState.PAUSED:
        raise _wrong_state(row, "resumed")
    _set(connection, batch, state=BatchState.OPEN)
    notify_jobs(connection)


def cancel_batch(connection: Connection, owner: UUID, batch: UUID) -> None:
    """Let nothing of it start from now on; the dispatcher ends its rows. One that is over stays as it is."""
    row = lock_batch(connection, owner, batch)
    if BatchState(row.state).is_over:
        return
    _set(connection, batch, state=BatchState.CANCELLED, intake_until=null())
    notify_jobs(connection)


def lock_batches(connection: Connection, wanted: Iterable[UUID]) -> Sequence[Row[*tuple[Any, ...]]]:
    """Lock some batches, whoever's they are, against every other change of their states; returns them by id."""
    ids = list(wanted)
    if not ids:
        return []
    held = select(batches).where(batches.c.id.in_(ids)).order_by(batches.c.id)
    return connection.execute(held.with_for_update(key_share=True)).all()


def reopen(connection: Connection, wanted: Collection[UUID]) -> None:
    """Let batches go on that were over, since some of their rows are not any more. The caller has locked them.

    One that was cancelled before all its rows were in receives rows again: it was never asked whether it may run.
    """
    for row in lock_batches(connection, wanted):
        if BatchState(row.state).is_over and row.ended_at is not None:
            state = BatchState.RECEIVING if row.opened_at is None else BatchState.OPEN
            _set(connection, row.id, state=state, ended_at=null())


def end_batches(connection: Connection) -> list[UUID]:
    """End the batches of which no row is left, and write their webhooks; returns them."""
    under_way = select(batches.c.id, batches.c.state).where(batches.c.state.in_(_EVENTS), batches.c.ended_at.is_(None))
    rows = connection.execute(under_way).all()
    counts = read_counts(connection, [row.id for row in rows])
    nothing_left = [row.id for row in rows if counts[row.id].left == 0]
    if not nothing_left:  # nothing was locked, so looking often costs little
        return []
    held = under_way.where(batches.c.id.in_(nothing_left)).order_by(batches.c.id)
    rows = connection.execute(held.with_for_update(key_share=True, skip_locked=True)).all()
    counts = read_counts(connection, [row.id for row in rows])  # now that no more rows can come
    ended = [row for row in rows if counts[row.id].left == 0]
    for row in ended:
        state = BatchState.DONE if row.state == BatchState.OPEN else BatchState.CANCELLED
        _set(connection, row.id, state=state, ended_at=func.now())
        _announce(connection, row.id, _EVENTS[BatchState(row.state)])
    return [row.id for row in ended]


def _announce(connection: Connection, batch: UUID, event: str) -> None:
    row = connection.execute(select(batches).where(batches.c.id == batch)).one()
    if row.webhook_url is None:
        return
    counts = read_counts(connection, [batch])[batch]
    body = {
        "event": event,
        "batch": {
            "id": batch.hex,
            "name": row.name,
            "state": row.state,
            "rows": counts.total,
            "completed": counts.completed,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
            "rejected": row.rejected,
            "error": row.error or "",
        },
    }
    connection.execute(
        insert(webhooks).values(
            id=new_id(), owner_id=row.owner_id, batch_id=batch, event=event, url=row.webhook_url, body=body
        )
    )


def _set(connection: Connection, batch: UUID, **values: Any) -> None:
    connection.execute(update(batches).where(batches.c.id == batch).values(**values))


def _wrong_state(row: Row[*tuple[Any, ...]], wish: str) -> Rejected:
    return Rejected("batch_state", f"the batch {row.name!r} is {row.state} and cannot be {wish}")
