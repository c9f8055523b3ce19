"""Brings a database to the newest schema, or back: Alembic with its folder found beside this file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, pool
from sqlalchemy.engine import make_url


def alembic_config() -> Config:
    """Return the configuration that every call here, and the tests, use."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def upgrade(database_url: str, revision: str = "head") -> None:
    """Upgrade the database at `database_url` (with or without a driver in its scheme)."""
    _at(database_url, lambda config: command.upgrade(config, revision))


def downgrade(database_url: str, revision: str = "base") -> None:
    """Take the steps after `revision` back."""
    _at(database_url, lambda config: command.downgrade(config, revision))


def _at(database_url: str, step: Callable[[Config], None]) -> None:
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    engine = create_engine(url, poolclass=pool.NullPool)
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        step(config)
