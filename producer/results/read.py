"""Streams the jobs of a batch in the manifest's order, with flat memory, for the owner alone.

Each page is a short transaction of its own: a slow reader holds no snapshot, and may go on where it was. A row that
changes meanwhile comes once, as it was when its page was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Engine, select, text, tuple_

from common.contract import Status
from common.database import transaction
from common.lifecycle.locks import among
from common.tables import jobs

PAGE_ROWS: Final = 1000

_COLUMNS: Final = (
    jobs.c.id,
    jobs.c.batch_id,
    jobs.c.row_no,
    jobs.c.custom_id,
    jobs.c.status,
    jobs.c.error_code,
    jobs.c.error,
    jobs.c.attempt,
    jobs.c.failures,
    jobs.c.retryable,
    jobs.c.request,
    jobs.c.result,
    jobs.c.pins,
    jobs.c.extra,
    jobs.c.worker_id,
    jobs.c.created_at,
    jobs.c.started_at,
    jobs.c.ended_at,
)
_FAILED: Final = text("status = 'failed'")
"""In words, as the condition of the partial index has it: a plan for any parameter could not use that."""
_PLACE: Final = tuple_(jobs.c.row_no, jobs.c.id)

StoredJob = Mapping[str, Any]
"""The columns of the jobs table that results are made of."""


class Position(NamedTuple):
    """A place in a batch: just behind this job."""

    row: int
    job: UUID


@dataclass(frozen=True)
class RowFilter:
    """Which rows to read; None means: any."""

    statuses: frozenset[Status] | None = None
    error_codes: frozenset[str] | None = None


ANY: Final = RowFilter()


def read_jobs(
    engine: Engine,
    owner: UUID,
    batch: UUID,
    wanted: RowFilter = ANY,
    *,
    after: Position | None = None,
    page_rows: int = PAGE_ROWS,
) -> Iterator[StoredJob]:
    """Yield the jobs of the owner's batch by row number, those behind `after`; nothing where there is no such batch.

    Deleted jobs are left out. Raises Unavailable, also between two rows.
    """
    if after is None and wanted.statuses == frozenset({Status.FAILED}):
        with transaction(engine) as connection:
            few = _read_few_failed(connection, (owner, batch), wanted, page_rows)
        if few is not None:
            yield from few
            return
    place = after
    while True:
        with transaction(engine) as connection:
            page, place = _read_page(connection, (owner, batch), wanted, place, page_rows)
        yield from page
        if place is None:
            return


def _read_few_failed(
    connection: Connection, whose: tuple[UUID, UUID], wanted: RowFilter, page_rows: int
) -> Sequence[StoredJob] | None:
    """Return the jobs wanted where no more than a page of the batch has failed, else None.

    Three failures among ten million rows are so found at once, and not after a minute without a byte.
    """
    failed = select(jobs.c.id).where(jobs.c.batch_id == whose[1], _FAILED).order_by(jobs.c.id).limit(page_rows + 1)
    ids = connection.execute(failed).scalars().all()
    if len(ids) > page_rows:
        return None
    page = select(*_COLUMNS).where(among(ids), *_visible(whose), *_conditions(wanted))
    return [dict(row) for row in connection.execute(page.order_by(jobs.c.row_no, jobs.c.id)).mappings()]


def _read_page(
    connection: Connection, whose: tuple[UUID, UUID], wanted: RowFilter, after: Position | None, page_rows: int
) -> tuple[Sequence[StoredJob], Position | None]:
    """Return the jobs wanted among the next `page_rows`, and the place behind those; None where they were the last.

    The page is measured before it is filtered: a query for three failures never reads ten million rows at once.
    """
    visible = _visible(whose)
    if after is not None:
        visible.append(tuple_(after.row, after.job) < _PLACE)
    last = connection.execute(
        select(jobs.c.row_no, jobs.c.id)
        .where(*visible)
        .order_by(jobs.c.row_no, jobs.c.id)
        .offset(page_rows - 1)
        .limit(1)
    ).one_or_none()
    end = None if last is None else Position(last.row_no, last.id)
    page = select(*_COLUMNS).where(*visible, *_conditions(wanted)).order_by(jobs.c.row_no, jobs.c.id)
    # What came in since it was measured is not let into the last page, which would have no bound then.
    page = page.limit(page_rows) if end is None else page.where(tuple_(end.row, end.job) >= _PLACE)
    return [dict(row) for row in connection.execute(page).mappings()], end


def _visible(whose: tuple[UUID, UUID]) -> list[ColumnElement[bool]]:
    owner, batch = whose
    return [jobs.c.batch_id == batch, jobs.c.owner_id == owner, jobs.c.deleted_at.is_(None)]


def _conditions(wanted: RowFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.statuses is not None:
        conditions.append(jobs.c.status.in_([status.value for status in wanted.statuses]))
    if wanted.error_codes is not None:
        conditions.append(jobs.c.error_code.in_(wanted.error_codes))
    return conditions
