"""The names of owners. Jobs know their owner by id; operators, and what they write into settings, by name."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, Engine, select

from common.database import transaction
from common.tables import owners


def owner_name(connection: Connection, owner: UUID) -> str | None:
    """Return the owner's name, or None where there is no such owner."""
    return connection.execute(select(owners.c.name).where(owners.c.id == owner)).scalar_one_or_none()


class OwnerNames:
    """Names that were looked up once; they never change. Threads may share one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[UUID, str] = {}

    def name(self, owner: UUID) -> str | None:
        """Return the owner's name, or None where there is no such owner. Raises Unavailable."""
        if owner in self._known:
            return self._known[owner]
        with transaction(self._engine) as connection:
            name = owner_name(connection, owner)
        if name is not None:
            self._known[owner] = name
        return name
