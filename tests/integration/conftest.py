"""What integration tests share: a fleet of real processes on the test's own database, and jobs without any process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from common.database import make_engine
from common.settings import Settings
from infra.embedded.servers import EmbeddedServers
from tests.support.api import Account, Api, running_api
from tests.support.databases import fresh_database
from tests.support.environment import settings_for
from tests.support.fleet import Fleet, running_fleet
from tests.support.life import Life, remove_all


@pytest.fixture
def fleet(servers: EmbeddedServers, settings: Settings, database: Engine, tmp_path: Path) -> Iterator[Fleet]:
    """Dispatchers and workers to start, kill and give jobs to."""
    with running_fleet(servers.guardian, settings, database, tmp_path) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def module_life(servers: EmbeddedServers, migrated_template: str) -> Iterator[Life]:
    """The database behind `life`: one for a whole file, since a new one costs ten times what most of its tests do."""
    with fresh_database(servers, migrated_template) as url:
        settings = settings_for(servers, url)
        engine = make_engine(settings)
        yield Life(engine, settings)
        engine.dispose()


@pytest.fixture
def life(module_life: Life) -> Life:
    """Jobs to lead through their life, on a database that is empty but for one owner."""
    remove_all(module_life.engine)
    return Life(module_life.engine, module_life.settings)


@pytest.fixture(scope="session")
def api(servers: EmbeddedServers, migrated_template: str) -> Iterator[Api]:
    """The HTTP API on a real port: one for the whole run, where each test has owners of its own."""
    with fresh_database(servers, migrated_template) as url:
        # Sync mode waits for almost as long as the tests' clients do: jobs are ended by threads that may stand still.
        settings = settings_for(servers, url, upload_max_bytes=256 * 1024, sync_mode_seconds=25.0)
        with running_api(settings) as running:
            yield running


@pytest.fixture
def hasty_api(api: Api) -> Iterator[Api]:
    """The same one, but for sync mode, which waits for a moment only: for jobs that nobody ends."""
    with running_api(api.settings.model_copy(update={"sync_mode_seconds": 1.5})) as running:
        yield running


@pytest.fixture
def account(api: Api) -> Account:
    """A new owner with a key."""
    return api.account()
