"""Finds the batch that a path names, for its owner alone: all others, and unknown ones, are the same 404."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection

from common.contract import BatchState
from common.errors import Rejected
from producer.batches import Batch, look_up_batch


def known_batch(connection: Connection, owner: UUID, name_or_id: str) -> Batch:
    """Return the owner's batch of that id or name. Raises Rejected (batch_not_found)."""
    found = None if "\x00" in name_or_id else look_up_batch(connection, owner, name_or_id)
    if found is None:
        raise Rejected(
            "batch_not_found",
            "no such batch; check its id or name, and that your key belongs to its owner",
        )
    return found


def check_receives(batch: Batch, wish: str) -> None:
    """Raise Rejected (batch_state) while the server itself reads the batch's rows."""
    if batch.read_by_server and batch.state is BatchState.RECEIVING:
        raise Rejected(
            "batch_state", f"the server reads the manifest of the batch {batch.name!r} itself; it cannot be {wish} now"
        )
