"""Hosts that images come from, and which of them asked to be left alone for a while."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from common.tables import source_hosts


def pause_host(connection: Connection, host: str, seconds: float) -> None:
    """Leave a host alone for so long; a longer rest that it asked for before stands."""
    rest = insert(source_hosts).values(host=host, not_before=func.now() + timedelta(seconds=seconds))
    connection.execute(
        rest.on_conflict_do_update(
            index_elements=[source_hosts.c.host],
            set_={"not_before": func.greatest(source_hosts.c.not_before, rest.excluded.not_before)},
        )
    )


def paused_hosts(connection: Connection) -> list[str]:
    """Return the hosts that are to be left alone now."""
    return list(connection.execute(select(source_hosts.c.host).where(source_hosts.c.not_before > func.now())).scalars())


def forget_rested_hosts(connection: Connection) -> None:
    """Remove those whose rest is over."""
    connection.execute(delete(source_hosts).where(source_hosts.c.not_before <= func.now()))
