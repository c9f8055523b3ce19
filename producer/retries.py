"""Retries all failed rows of a batch, however many: chunk by chunk, each a transaction of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import UUID

from sqlalchemy import Connection

from common import lifecycle

InTransaction = Callable[[Callable[[Connection], list[UUID]]], list[UUID]]


def retry_failed(in_transaction: InTransaction, owner: UUID, batch: UUID) -> int:
    """Put every row that had failed back; returns how many. One that fails again meanwhile is not met twice.

    Raises Rejected (batch_not_found, batch_state), Unavailable; may be repeated.
    """
    retried = 0
    after: UUID | None = None
    while ids := in_transaction(partial(lifecycle.retry_rows, owner=owner, batch=batch, after=after)):
        retried += len(ids)
        after = ids[-1]
    return retried
