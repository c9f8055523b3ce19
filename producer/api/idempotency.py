"""`Idempotency-Key`: the same key with the same body names the same job, however often and however fast it is sent.

The key is written in the transaction that creates the job, so there is never one without the other.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from common.contract import Problem, shorten
from common.tables import idempotency_keys
from producer.api.envelope import ApiError, invalid

HEADER: Final = "Idempotency-Key"
_ALLOWED: Final = "1 to 255 printable ASCII characters"
_SHAPE: Final = re.compile(r"[\x20-\x7e]{1,255}")
_TRIES: Final = 3

Create = Callable[[Connection], UUID]


@dataclass(frozen=True)
class OnceKey:
    """A key that a client sent, and what its body was."""

    key: str
    body_hash: bytes


def read_once_key(header: str | None, body: Mapping[str, Any]) -> OnceKey | None:
    """Return the key of a request, if it has one. Raises ApiError (400) where it could not be kept.

    Two bodies are the same if they say the same, in whatever order and spacing.
    """
    if header is None:
        return None
    if not _SHAPE.fullmatch(header):
        raise invalid([Problem(HEADER, shorten(header), "is not allowed", _ALLOWED)])
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return OnceKey(header, hashlib.sha256(canonical.encode()).digest())


def create_once(connection: Connection, owner: UUID, once: OnceKey, create: Create) -> UUID:
    """Return the job that this key made before, else the one that `create` makes now.

    Raises ApiError (409) where the key came with another body before. Of many at once, one creates and the others
    wait for its commit and find its job.
    """
    for _ in range(_TRIES):
        job = _find(connection, owner, once)
        if job is not None:
            return job
        savepoint = connection.begin_nested()
        job = create(connection)
        won = connection.execute(
            insert(idempotency_keys)
            .values(owner_id=owner, key=once.key, body_hash=once.body_hash, job_id=job)
            .on_conflict_do_nothing()
            .returning(idempotency_keys.c.job_id)
        ).one_or_none()
        if won is not None:
            savepoint.commit()
            return job
        savepoint.rollback()  # takes our job and its notification back: another request was first
    raise ApiError(409, f"{HEADER}: {shorten(once.key)} is being used and deleted at this moment; try again")


def _find(connection: Connection, owner: UUID, once: OnceKey) -> UUID | None:
    row = connection.execute(
        select(idempotency_keys.c.job_id, idempotency_keys.c.body_hash).where(
            idempotency_keys.c.owner_id == owner, idempotency_keys.c.key == once.key
        )
    ).one_or_none()
    if row is None:
        return None
    if row.body_hash != once.body_hash:
        raise ApiError(
            409, f"{HEADER}: {shorten(once.key)} was sent before with another body; use a new key for a new request"
        )
    job: UUID = row.job_id
    return job
