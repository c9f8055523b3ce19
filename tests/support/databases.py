"""A fresh, migrated database for each test: a copy of one template that is migrated once a run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from infra.embedded.servers import EmbeddedServers
from migrations.run import upgrade

TEMPLATE: Final = "fillfleet_template"
_numbers = itertools.count(1)


def database_url(servers: EmbeddedServers, name: str) -> str:
    """Return the URL of a database on the test servers."""
    return make_url(servers.database_url).set(database=name).render_as_string(hide_password=False)


def make_template(servers: EmbeddedServers) -> str:
    """Create and migrate the template; return its name."""
    _execute(servers, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    upgrade(database_url(servers, TEMPLATE))
    return TEMPLATE


@contextmanager
def fresh_database(servers: EmbeddedServers, template: str = "template1") -> Iterator[str]:
    """Yield the URL of a new copy of `template`; afterwards it is dropped, with whoever is still connected to it."""
    name = f"test_{next(_numbers)}"
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    _execute(servers, copy)
    try:
        yield database_url(servers, name)
    finally:
        _execute(servers, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _execute(servers: EmbeddedServers, statement: sql.Composed) -> None:
    servers.postgres.start()  # a test may have left it killed
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(statement)
