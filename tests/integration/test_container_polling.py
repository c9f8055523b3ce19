"""The health check of a process without a port: whether its connection to Postgres is in use."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest
from click.testing import CliRunner, Result

from common.settings import get_settings
from infra.docker.health import health
from tests.support.processes import wait_until


@pytest.fixture
def own_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a database of this test's own, which the settings name, too."""
    monkeypatch.setenv("FILLFLEET_ENV", "test")
    monkeypatch.setenv("DATABASE_URL", database_url)
    get_settings.cache_clear()
    yield database_url.replace("postgresql+psycopg://", "postgresql://", 1)
    get_settings.cache_clear()


def check(seconds: float) -> Result:
    return CliRunner().invoke(health, ["polling", str(seconds)])


def test_a_process_that_asks_the_database_is_healthy_until_it_falls_silent(own_database: str) -> None:
    with psycopg.connect(own_database, autocommit=True) as loop:
        loop.execute("SELECT 1")
        assert check(30).exit_code == 0
        time.sleep(1.2)
        silent = check(1)
        assert silent.exit_code == 1
        assert "silent" in silent.output

        def is_healthy_again() -> bool:  # within a second, for which this machine may well stand still
            loop.execute("SELECT 1")
            return check(1).exit_code == 0

        assert wait_until(is_healthy_again, 60)


def test_a_process_without_a_connection_is_unhealthy_and_the_check_does_not_count_itself(own_database: str) -> None:
    assert check(30).exit_code == 1
    again = check(30)
    assert again.exit_code == 1
    assert "no connection" in again.output
