"""The rows of a batch on their way in, and all of them at once on their way out: insert, cancel, retry in chunks.

Rows come in by COPY. A chunk is one transaction of the caller's: its rows, its bad rows and the cursor, or nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import psycopg
from pydantic_core import to_json
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Text,
    any_,
    delete,
    func,
    insert,
    literal,
    null,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import CollectionAggregate

from common.contract import MODEL, BatchState, Queue, Status
from common.errors import Rejected
from common.ids import new_id_text
from common.lifecycle.batch_states import lock_batch
from common.lifecycle.counts import add_counts
from common.lifecycle.locks import among, lock
from common.lifecycle.wishes import cancel_locked, retry
from common.tables import batch_rejects, batches, jobs

_COPY: Final = """
    COPY jobs (id, owner_id, queue, model, request, batch_id, row_no, custom_id, row_hash, adapters, source_host, extra)
    FROM STDIN
"""
# The conditions of partial indexes stand here in words, since a plan that is made for any parameter could not use them.
_WAITING: Final = text("status = 'created' AND publish_seq IS NULL")
_FAILED: Final = text("status = 'failed'")
_IN_FLIGHT_OF_CANCELLED: Final = text("""
    WITH job AS MATERIALIZED (
        SELECT id, batch_id FROM jobs
        WHERE queue = 'bulk' AND status = 'created' AND publish_seq IS NOT NULL
        UNION ALL
        SELECT id, batch_id FROM jobs
        WHERE queue = 'bulk' AND status = 'processing' AND cancel_requested_at IS NULL
    )
    SELECT job.id FROM job WHERE job.batch_id = ANY(CAST(:batches AS uuid[])) LIMIT :limit
""")
_HELD: Final = text("""
    WITH job AS MATERIALIZED (
        SELECT id, batch_id FROM jobs
        WHERE queue = 'bulk' AND status = 'created' AND publish_seq IS NOT NULL AND batch_id IS NOT NULL
    )
    SELECT job.id FROM job JOIN batches ON batches.id = job.batch_id WHERE batches.state <> 'open' LIMIT :limit
""")
"""What is in flight is little: read whole first, so that no plan comes to it by way of all rows of the batches."""
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


DOUBLE: Final = "custom_id"
"""The field of a bad row that uses a custom_id again."""


@dataclass(frozen=True)
class NewRow:
    """One row that becomes a job: judged, its sources resolved, its seed drawn."""

    number: int
    custom_id: str | None
    request_json: str
    """The validated FillRequest."""
    row_hash: bytes
    """Of the row as it was submitted: before the seed was drawn."""
    adapters: str
    """Names the set of LoRAs; empty where there is none."""
    source_host: str
    """Where the image is fetched from; empty: our own bucket."""
    extra: Mapping[str, Any]


@dataclass(frozen=True)
class Reject:
    """One bad row."""

    number: int
    custom_id: str | None
    place: str
    field: str
    value: str
    reason: str


@dataclass(frozen=True)
class Known:
    """A row that the batch has already."""

    number: int
    row_hash: bytes


def find_rows(
    connection: Connection, batch: UUID, numbers: Sequence[int], custom_ids: Sequence[str]
) -> tuple[dict[int, Known], dict[str, Known]]:
    """Return the batch's rows among these: by number those that have no custom_id, and by custom_id."""
    columns = select(jobs.c.row_no, jobs.c.custom_id, jobs.c.row_hash).where(jobs.c.batch_id == batch)
    by_number: dict[int, Known] = {}
    by_id: dict[str, Known] = {}
    if numbers:
        unnamed = columns.where(jobs.c.custom_id.is_(None), jobs.c.row_no == _one_of(numbers, BigInteger))
        by_number = {row.row_no: Known(row.row_no, row.row_hash) for row in connection.execute(unnamed)}
    if custom_ids:
        named = columns.where(jobs.c.custom_id == _one_of(custom_ids, Text))
        by_id = {row.custom_id: Known(row.row_no, row.row_hash) for row in connection.execute(named)}
    return by_number, by_id


def find_doubles(connection: Connection, batch: UUID, numbers: Sequence[int], cursor: int) -> dict[int, str | None]:
    """Return number → custom_id of those rows up to the cursor that are bad rows for using a custom_id again."""
    again = [number for number in numbers if number <= cursor]
    if not again:
        return {}
    rows = connection.execute(
        select(batch_rejects.c.row_no, batch_rejects.c.custom_id).where(
            batch_rejects.c.batch_id == batch,
            batch_rejects.c.field == DOUBLE,
            batch_rejects.c.row_no == _one_of(again, BigInteger),
        )
    )
    return {row.row_no: row.custom_id for row in rows}


def insert_rows(connection: Connection, owner: UUID, batch: UUID, rows: Sequence[NewRow]) -> None:
    """Make each row a job. The caller has locked the batch, and none of the rows is in it yet.

    A million rows wake nobody: the caller notifies where the batch is open, once a chunk.
    """
    if not rows:
        return
    before, after = f"{owner}\t{Queue.BULK.value}\t{MODEL}", str(batch)
    lines = "".join(
        # Written out here: psycopg's own write_row takes three times as long.
        f"{new_id_text()}\t{before}\t{_escaped(row.request_json)}\t{after}\t{row.number}\t{_text(row.custom_id)}"
        f"\t\\\\x{row.row_hash.hex()}\t{_text(row.adapters)}\t{_text(row.source_host)}\t{_json(row.extra)}\n"
        for row in rows
    )
    driver: Any = connection.connection.driver_connection
    if driver is None:
        raise RuntimeError("the connection is closed")
    try:
        with driver.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.write(lines)
    except psycopg.Error as error:  # in the words of SQLAlchemy, as from every other statement
        lost = driver.closed or driver.broken
        raise DBAPIError.instance(
            _COPY, None, error, psycopg.Error, hide_parameters=True, connection_invalidated=lost
        ) from error
    add_counts(connection, {batch: {Status.CREATED: len(rows)}})


def replace_rejects(connection: Connection, batch: UUID, rejects: Sequence[Reject], judged: Iterable[int]) -> int:
    """Put `rejects` in the place of all bad rows among the numbers `judged`; returns by how much there are more."""
    gone = connection.execute(
        delete(batch_rejects).where(
            batch_rejects.c.batch_id == batch, batch_rejects.c.row_no == _one_of(judged, BigInteger)
        )
    ).rowcount
    if rejects:
        connection.execute(
            insert(batch_rejects),
            [
                {
                    "batch_id": batch,
                    "row_no": one.number,
                    "custom_id": one.custom_id,
                    "place": one.place,
                    "field": one.field,
                    "value": one.value,
                    "reason": one.reason,
                }
                for one in rejects
            ],
        )
    return len(rejects) - gone


def advance(
    connection: Connection, batch: UUID, *, upto: int, digest: str, more_rejected: int, extra_columns: Sequence[str]
) -> None:
    """Move the cursor to row `upto`, in the transaction of the rows up to it. A cursor never goes back."""
    connection.execute(
        update(batches)
        .where(batches.c.id == batch)
        .values(
            row_cursor=func.greatest(batches.c.row_cursor, upto),
            digest=digest,
            rejected=batches.c.rejected + more_rejected,
            extra_columns=list(extra_columns),
        )
    )


def retry_rows(
    connection: Connection, owner: UUID, batch: UUID, *, after: UUID | None = None, limit: int = 2000
) -> list[UUID]:
    """Retry failed rows whose id is above `after`, in the order of ids; fewer than `limit` were the last.

    Raises Rejected (batch_not_found, and batch_state where it is still being cancelled).
    """
    failed = select(jobs.c.id).where(
        jobs.c.batch_id == batch,
        _FAILED,
        jobs.c.owner_id == owner,
        jobs.c.deleted_at.is_(None),
        *([] if after is None else [jobs.c.id > after]),
    )
    state = lock_batch(connection, owner, batch)
    if state.state == BatchState.CANCELLED and state.ended_at is None:
        raise Rejected("batch_state", f"the batch {state.name!r} is still being cancelled; try again in a moment")
    wanted = list(connection.execute(failed.order_by(jobs.c.id).limit(limit)).scalars())
    retry(connection, owner, wanted)
    return wanted


def end_cancelled_rows(connection: Connection, *, limit: int = 2000) -> int:
    """End some rows of cancelled batches that wait, and mark those that run; returns how many there were.

    Rows that somebody else has locked are left to the next call: a batch does not end before its last row has.
    """
    cancelled = select(batches.c.id).where(batches.c.state == BatchState.CANCELLED, batches.c.ended_at.is_(None))
    wanted: list[UUID] = []
    ids = list(connection.execute(cancelled.order_by(batches.c.id)).scalars())
    if ids:
        in_flight = connection.execute(_IN_FLIGHT_OF_CANCELLED, {"batches": ids, "limit": limit})
        wanted += in_flight.scalars()
    for batch in ids:
        if len(wanted) >= limit:
            break
        waiting = select(jobs.c.id).where(jobs.c.batch_id == batch, _WAITING)
        lanes = (jobs.c.adapters, jobs.c.source_host, jobs.c.available_at, jobs.c.id)  # as the index has them
        wanted += connection.execute(waiting.order_by(*lanes).limit(limit - len(wanted))).scalars()
    # All at once and none waited for: a heartbeat or a wish may hold some of them, in the order of the ids.
    rows = lock(connection, wanted, jobs.c.status.in_([Status.CREATED, Status.PROCESSING]), skip_locked=True)
    cancel_locked(connection, rows)
    return len(rows)


def withdraw_held_rows(connection: Connection, *, limit: int = 2000) -> int:
    """Take back the messages of batches that are not open, so that they neither fill the window nor count as lost."""
    held = connection.execute(_HELD, {"limit": limit}).scalars()
    rows = lock(connection, held, jobs.c.status == Status.CREATED, skip_locked=True)
    ids = [row.id for row in rows if row.publish_seq is not None]
    if not ids:
        return 0
    return connection.execute(
        update(jobs).where(among(ids), jobs.c.status == Status.CREATED).values(publish_seq=null())
    ).rowcount


def _one_of(values: Iterable[object], kind: type[BigInteger] | type[Text]) -> CollectionAggregate[bool]:
    return any_(literal(list(values), ARRAY(kind)))


def _text(value: str | None) -> str:
    if not value:
        return "\\N" if value is None else ""
    return value if value.isalnum() else value.translate(_ESCAPES)


def _escaped(written: str) -> str:
    # JSON on one line holds no other character that COPY would take for its own.
    return written.replace("\\", "\\\\")


def _json(value: Mapping[str, Any]) -> str:
    if not value:
        return "\\N"
    try:
        written = to_json(value, inf_nan_mode="null").decode()
    except ValueError:  # half of a surrogate pair, or deeper than it goes
        written = "\\u0000"
    if "\\u0000" in written:
        written = json.dumps(_storable(value), ensure_ascii=False, separators=(",", ":"))
    return _escaped(written)


def _storable(value: object) -> object:
    # What JSONB does not know. These columns are nothing to us: no row, let alone its chunk, shall fail over them.
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(_storable(key)): _storable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(one) for one in value]
    return value
