"""Locks on many jobs at once, always taken in the order of the ids.

Whoever changes several rows in one transaction locks them here first: two that want the same jobs then wait for one
another and never crosswise, and what they decide is decided on the rows as they are, not as a snapshot saw them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Connection, Row, Uuid, any_, literal, select
from sqlalchemy.sql.elements import ColumnElement

from common.tables import jobs


def among(ids: Iterable[UUID]) -> ColumnElement[bool]:
    """Return the condition that a job is one of `ids`: one array parameter, however many there are."""
    return jobs.c.id == any_(literal(list(ids), ARRAY(Uuid)))


def lock(
    connection: Connection, ids: Iterable[UUID], *fits: ColumnElement[bool], skip_locked: bool = False
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Lock those of `ids` that fit, and return what the transitions look at, by id.

    Do not repeat the predicate of a partial index in `fits`: the planner may then read that whole index instead of
    looking up the ids.
    """
    rows = select(
        jobs.c.id,
        jobs.c.status,
        jobs.c.attempt,
        jobs.c.publish_seq,
        jobs.c.cancel_requested_at,
        jobs.c.batch_id,
        jobs.c.error_code,
    )
    # NO KEY UPDATE, since the foreign keys that point here need not wait for any of this.
    held = rows.where(among(ids), *fits).order_by(jobs.c.id).with_for_update(key_share=True, skip_locked=skip_locked)
    return connection.execute(held).all()
