"""Starts a batch, or finds the one that was started before under the same name with the same manifest."""

from __future__ import annotations

from sqlalchemy import Connection, select

from common.errors import Rejected
from common.lifecycle import NewBatch
from common.tables import batches
from producer.batches import Batch
from producer.intake import Intake


def start_batch(connection: Connection, intake: Intake, new: NewBatch) -> Batch:
    """Return the batch. Raises InvalidRequest, Rejected (batch_name, and batch_exists of another manifest, too)."""
    batch = intake.start(connection, new)
    stored = connection.execute(select(batches.c.manifest).where(batches.c.id == batch.id)).scalar_one()
    known = None if stored is None else (stored.get("source"), stored.get("options"))
    if known != (None if new.manifest is None else (new.manifest["source"], new.manifest["options"])):
        raise Rejected(
            "batch_exists",
            f"there is already a batch named {new.name!r}, with {'rows' if stored is None else 'a manifest'} of its "
            "own; give this one another name",
        )
    return batch
