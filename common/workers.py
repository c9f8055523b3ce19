"""The workers table: who is there, how many slots it has, which model version it runs, when it was last seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from common.tables import workers


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True)
class WorkerBeat:
    """What a worker says of itself at each heartbeat."""

    id: str
    hostname: str
    slots: int
    state: WorkerState
    version: Mapping[str, str]


def beat(connection: Connection, worker: WorkerBeat) -> None:
    """Say that this worker is alive, by the database's clock."""
    values = {
        "hostname": worker.hostname,
        "slots": worker.slots,
        "state": worker.state.value,
        "version": dict(worker.version),
        "last_seen_at": func.now(),
    }
    statement = insert(workers).values(id=worker.id, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=[workers.c.id], set_=values))


def live_slots(connection: Connection, *, seen_within_seconds: float) -> int:
    """Return how many jobs the workers that are ready and were seen lately can hold together."""
    total = select(func.coalesce(func.sum(workers.c.slots), 0)).where(
        workers.c.state == WorkerState.READY,
        workers.c.last_seen_at > func.now() - timedelta(seconds=seen_within_seconds),
    )
    return int(connection.execute(total).scalar_one())


def live_versions(connection: Connection, *, seen_within_seconds: float) -> list[Mapping[str, str]]:
    """Return the model version of each worker that is ready and was seen lately."""
    versions = select(workers.c.version).where(
        workers.c.state == WorkerState.READY,
        workers.c.last_seen_at > func.now() - timedelta(seconds=seen_within_seconds),
    )
    return list(connection.execute(versions).scalars())


def live_workers(connection: Connection, *, seen_within_seconds: float) -> int:
    """Return how many workers are ready and were seen lately."""
    count = (
        select(func.count())
        .select_from(workers)
        .where(
            workers.c.state == WorkerState.READY,
            workers.c.last_seen_at > func.now() - timedelta(seconds=seen_within_seconds),
        )
    )
    return int(connection.execute(count).scalar_one())
