"""Who reads the manifest of a batch that the server itself reads: one process at a time, until its lease ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, null, or_, select, update

from common.contract import BatchState
from common.lifecycle.batch_states import discard_batch, lock_batch
from common.tables import batches


@dataclass(frozen=True)
class ManifestLease:
    """A manifest to read."""

    batch: UUID
    owner: UUID
    manifest: Mapping[str, Any]
    created_at: datetime
    age_seconds: float
    """Since the batch was made, by the database's clock."""


def claim_manifest(
    connection: Connection, *, lease_seconds: float, at_once_of_an_owner: int = 1000
) -> ManifestLease | None:
    """Take the oldest manifest that nobody reads now, if there is one whose owner may have a further one read.

    Two who claim in the same moment may overstep that bound by one.
    """
    others = batches.alias()
    # A lease is renewed long before it has run to half; one that merely rests after trouble ends sooner than that.
    being_read = (
        select(func.count())
        .select_from(others)
        .where(
            others.c.owner_id == batches.c.owner_id,
            others.c.state == BatchState.RECEIVING,
            others.c.intake_until > func.now() + timedelta(seconds=lease_seconds / 2),
        )
        .scalar_subquery()
    )
    free = (
        select(batches.c.id)
        .where(
            batches.c.state == BatchState.RECEIVING,
            batches.c.ended_at.is_(None),
            batches.c.manifest.is_not(None),
            or_(batches.c.intake_until.is_(None), batches.c.intake_until < func.now()),
            being_read < at_once_of_an_owner,
        )
        .order_by(batches.c.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
    )
    row = connection.execute(
        update(batches)
        .where(batches.c.id == free.scalar_subquery())
        .values(intake_until=func.now() + timedelta(seconds=lease_seconds))
        .returning(
            batches.c.id,
            batches.c.owner_id,
            batches.c.manifest,
            batches.c.created_at,
            func.extract("epoch", func.now() - batches.c.created_at).label("age"),
        )
    ).one_or_none()
    if row is None:
        return None
    return ManifestLease(row.id, row.owner_id, row.manifest, row.created_at, float(row.age))


def keep_manifest(connection: Connection, batch: UUID, *, lease_seconds: float) -> bool:
    """Lengthen the lease; False where the batch does not receive rows any more."""
    return _until(connection, batch, func.now() + timedelta(seconds=lease_seconds))


def give_manifest_back(connection: Connection, batch: UUID, *, delay_seconds: float = 0.0) -> None:
    """Let somebody else read it, after a while where it is not to be had now."""
    _until(connection, batch, func.now() + timedelta(seconds=delay_seconds) if delay_seconds else null())


def refuse_manifest(connection: Connection, owner: UUID, batch: UUID, why: str) -> None:
    """End a batch whose manifest cannot be read: nothing of it has run, and nothing is kept but the reason."""
    if lock_batch(connection, owner, batch).state == BatchState.RECEIVING:
        discard_batch(connection, batch, why)


def _until(connection: Connection, batch: UUID, until: Any) -> bool:
    receiving = update(batches).where(batches.c.id == batch, batches.c.state == BatchState.RECEIVING)
    return connection.execute(receiving.values(intake_until=until)).rowcount == 1
