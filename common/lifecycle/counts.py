"""How many jobs of a batch are in which state: kept as deltas in several shards, so that no row is hot.

Every transition writes its delta last, after its jobs are locked, and those of several batches in the order of their
ids: transactions then never wait for one another crosswise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from common.contract import Status
from common.tables import COUNTED, batch_counts

_SHARDS: Final = 16
CANCELLED: Final = "cancelled"
"""The error code of a cancelled job, and the name under which such failed jobs are counted."""

Move = tuple[UUID | None, Status | None, Status | None, str | None]
"""(batch, old status, new status, error code of whichever of the two is failed). No batch: not counted."""


@dataclass(frozen=True)
class Counts:
    """The jobs of a batch by state. `cancelled` is a part of `failed`."""

    created: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """All jobs of the batch."""
        return self.created + self.processing + self.completed + self.failed

    @property
    def left(self) -> int:
        """Jobs that have not ended."""
        return self.created + self.processing


def count_moves(connection: Connection, moves: Iterable[Move]) -> None:
    """Write what the transaction has done to jobs into the counts of their batches."""
    deltas: dict[UUID, Counter[str]] = {}
    for batch, old, new, code in moves:
        if batch is None:
            continue
        delta = deltas.setdefault(batch, Counter())
        for status, step in ((old, -1), (new, 1)):
            if status is not None:
                delta[status] += step
            if status is Status.FAILED and code == CANCELLED:
                delta[CANCELLED] += step
    add_counts(connection, deltas)


def add_counts(connection: Connection, deltas: Mapping[UUID, Mapping[str, int]]) -> None:
    """Add to the counts of batches."""
    rows = [
        {"batch_id": batch, **{name: delta.get(name, 0) for name in COUNTED}}
        for batch, delta in sorted(deltas.items())
        if any(delta.values())
    ]
    if not rows:
        return
    # A connection always takes the same shard, and few share one.
    add = insert(batch_counts).values([{**row, "shard": func.pg_backend_pid() % _SHARDS} for row in rows])
    connection.execute(
        add.on_conflict_do_update(
            index_elements=[batch_counts.c.batch_id, batch_counts.c.shard],
            set_={name: batch_counts.c[name] + add.excluded[name] for name in COUNTED},
        )
    )


def read_counts(connection: Connection, batches: Iterable[UUID]) -> dict[UUID, Counts]:
    """Return the counts of each of these batches."""
    wanted = list(batches)
    sums = (
        select(batch_counts.c.batch_id, *(func.sum(batch_counts.c[name]).label(name) for name in COUNTED))
        .where(batch_counts.c.batch_id.in_(wanted))
        .group_by(batch_counts.c.batch_id)
    )
    found = {
        row.batch_id: Counts(*(int(row[1 + place]) for place in range(len(COUNTED))))
        for row in connection.execute(sums)
    }
    return {batch: found.get(batch, Counts()) for batch in wanted}
