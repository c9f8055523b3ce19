"""What integration tests share: a fleet of real processes on the test's own database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from common.settings import Settings
from infra.embedded.servers import EmbeddedServers
from tests.support.fleet import Fleet, running_fleet


@pytest.fixture
def fleet(servers: EmbeddedServers, settings: Settings, database: Engine, tmp_path: Path) -> Iterator[Fleet]:
    """Dispatchers and workers to start, kill and give jobs to."""
    with running_fleet(servers.guardian, settings, database, tmp_path) as fleet:
        yield fleet
