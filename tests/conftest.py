"""The fixtures of the whole suite: real servers, started when the first test asks and stopped at the end of the run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from common.database import make_engine
from common.settings import Settings
from infra.embedded.servers import EmbeddedServers
from tests.support.databases import fresh_database, make_template
from tests.support.environment import environment_of, settings_for

# As in worker/cli.py: torch's threads must not spin against the servers and processes of the tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """Valkey, PostgreSQL and SeaweedFS, shared by all tests. Who kills one of them starts it again."""
    with EmbeddedServers(durable=False) as started:
        yield started


@pytest.fixture(scope="session")
def migrated_template(servers: EmbeddedServers) -> str:
    """The name of the migrated database that each test gets a copy of."""
    return make_template(servers)


@pytest.fixture
def database_url(servers: EmbeddedServers, migrated_template: str) -> Iterator[str]:
    """The URL of a migrated, empty database of this test's own."""
    with fresh_database(servers, migrated_template) as url:
        yield url


@pytest.fixture
def settings(servers: EmbeddedServers, database_url: str) -> Settings:
    """Settings for this test alone: its own database, an empty Redis database, the run's bucket, short times."""
    return settings_for(servers, database_url)


@pytest.fixture
def database(settings: Settings) -> Iterator[Engine]:
    """An engine on this test's own database, the one that `settings` names."""
    engine = make_engine(settings)
    yield engine
    engine.dispose()


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """The environment for child processes that shall have this test's settings."""
    return environment_of(settings)
