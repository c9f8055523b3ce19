"""Alembic's entry: runs the migrations on the connection or URL that it was given, one at a time on one database."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine, pool, text

from common.settings import get_settings
from common.tables import metadata

_LOCK = 0x46696C6C  # "Fill": two migrating processes take turns instead of racing


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        context.run_migrations()


def _main() -> None:
    given = context.config.attributes.get("connection")
    if given is not None:
        _run(given)
        return
    url = context.config.get_main_option("sqlalchemy.url") or get_settings().sqlalchemy_url
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        _run(connection)


_main()
