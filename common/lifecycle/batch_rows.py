"""The rows of a batch on their way in, and all of them at once on their way out: insert, cancel, retry in chunks.

Rows come in by COPY. A chunk is one transaction of the caller's: its rows, its bad rows and the cursor, or nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Text,
    and_,
    any_,
    delete,
    func,
    insert,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.sql.elements import CollectionAggregate

from common.contract import MODEL, BatchState, Queue, Status
from common.ids import new_id
from common.lifecycle.batch_states import lock_batch
from common.lifecycle.counts import add_counts
from common.lifecycle.locks import among
from common.lifecycle.wishes import cancel, retry
from common.tables import PUBLISHED, RUNNING, batch_rejects, batches, jobs

_COPY: Final = """
    COPY jobs (id, owner_id, queue, model, request, batch_id, row_no, custom_id, row_hash, adapters, source_host, extra)
    FROM STDIN
"""
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


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


def insert_rows(connection: Connection, owner: UUID, batch: UUID, rows: Sequence[NewRow]) -> None:
    """Make each row a job. The caller has locked the batch, and none of the rows is in it yet.

    A million rows wake nobody: the caller notifies where the batch is open, once a chunk.
    """
    if not rows:
        return
    constant = f"{owner}\t{Queue.BULK.value}\t{MODEL}"
    text = "".join(
        # Written out here: psycopg's own write_row takes three times as long.
        f"{new_id()}\t{constant}\t{row.request_json.translate(_ESCAPES)}\t{batch}\t{row.number}\t{_text(row.custom_id)}"
        f"\t\\\\x{row.row_hash.hex()}\t{row.adapters}\t{row.source_host.translate(_ESCAPES)}\t{_json(row.extra)}\n"
        for row in rows
    )
    driver = connection.connection.driver_connection
    if driver is None:
        raise RuntimeError("the connection is closed")
    with driver.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.write(text)
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

    Raises Rejected (batch_not_found).
    """
    failed = select(jobs.c.id).where(
        jobs.c.batch_id == batch,
        jobs.c.status == Status.FAILED,
        jobs.c.owner_id == owner,
        jobs.c.deleted_at.is_(None),
        *([] if after is None else [jobs.c.id > after]),
    )
    lock_batch(connection, owner, batch)
    wanted = list(connection.execute(failed.order_by(jobs.c.id).limit(limit)).scalars())
    retry(connection, owner, wanted)
    return wanted


def end_cancelled_rows(connection: Connection, *, limit: int = 2000) -> int:
    """End some rows of cancelled batches that wait, and mark those that run; returns how many there were."""
    cancelled = select(batches.c.id, batches.c.owner_id).where(
        batches.c.state == BatchState.CANCELLED, batches.c.ended_at.is_(None)
    )
    found = 0
    for batch in connection.execute(cancelled.order_by(batches.c.id)).all():
        # Three statements, since each of the three conditions has an index of its own.
        waiting = and_(jobs.c.status == Status.CREATED, jobs.c.publish_seq.is_(None))
        running = and_(RUNNING, jobs.c.cancel_requested_at.is_(None))
        for part in (waiting, PUBLISHED, running):
            rows = select(jobs.c.id).where(jobs.c.batch_id == batch.id, part).order_by(jobs.c.id).limit(limit - found)
            found += len(cancel(connection, batch.owner_id, connection.execute(rows).scalars()))
            if found >= limit:
                return found
    return found


def withdraw_held_rows(connection: Connection, *, limit: int = 2000) -> int:
    """Take back the messages of batches that are not open, so that they neither fill the window nor count as lost."""
    held = (
        select(jobs.c.id)
        .join(batches, batches.c.id == jobs.c.batch_id)
        .where(PUBLISHED, batches.c.state != BatchState.OPEN)
        .order_by(jobs.c.id)
        .limit(limit)
        .with_for_update(of=jobs, key_share=True, skip_locked=True)
    )
    ids = list(connection.execute(held).scalars())
    if not ids:
        return 0
    return connection.execute(
        update(jobs).where(among(ids), jobs.c.status == Status.CREATED).values(publish_seq=null())
    ).rowcount


def _one_of(values: Iterable[object], kind: type[BigInteger] | type[Text]) -> CollectionAggregate[bool]:
    return any_(literal(list(values), ARRAY(kind)))


def _text(value: str | None) -> str:
    return "\\N" if value is None else value.translate(_ESCAPES)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPES) if value else "\\N"
