"""The LoRAs of a batch, pinned to one file each by whoever resolves them first, so that all rows get the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from common.tables import batch_adapters


@dataclass(frozen=True)
class AdapterPin:
    """Which file a LoRA's path meant when the batch first used it."""

    sha256: str
    revision: str | None = None
    """The commit, where it came from a hub."""


def adapter_pins(connection: Connection, batch: UUID) -> dict[str, AdapterPin]:
    """Return what is pinned so far, by path."""
    rows = connection.execute(select(batch_adapters).where(batch_adapters.c.batch_id == batch))
    return {row.path: AdapterPin(row.sha256, row.revision) for row in rows}


def pin_adapters(connection: Connection, batch: UUID, pins: Mapping[str, AdapterPin]) -> dict[str, AdapterPin]:
    """Pin paths that nobody has pinned yet; returns what then holds for the batch. A pin never changes."""
    rows = [
        {"batch_id": batch, "path": path, "sha256": pin.sha256, "revision": pin.revision}
        for path, pin in sorted(pins.items())
    ]
    if rows:
        connection.execute(insert(batch_adapters).on_conflict_do_nothing(), rows)
    return adapter_pins(connection, batch)
