"""A small batch is not kept waiting by a large one. Real processes, whose device sleeps: it alone is the limit.

So a batch takes as long as all that is filled from when its rows are there until its end, and that is counted: a
clock would also count how long this machine stood still, and how long it brought the rows in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from common.database import make_engine
from infra.embedded.servers import EmbeddedServers
from tests.support.bulk import Bulk, running_bulk
from tests.support.databases import fresh_database
from tests.support.environment import settings_for
from tests.support.fleet import running_fleet

WAITING = 100_000
ROWS = 50
JOB_SECONDS = 0.08
STANDSTILL_SECONDS = 20.0
"""What a batch may take longer by the clock than the device does: without turns it would be hours."""


@pytest.fixture
def bulk(servers: EmbeddedServers, migrated_template: str, tmp_path: Path) -> Iterator[Bulk]:
    """Batches of a fleet of one worker; its window is as small beside 50 rows as the shipped one is beside 200."""
    with fresh_database(servers, migrated_template) as url:
        settings = settings_for(servers, url, publish_window_floor=8, allow_safety_checker_off=True)
        engine = make_engine(settings)
        with (
            running_fleet(servers.guardian, settings, engine, tmp_path) as fleet,
            running_bulk(fleet, tmp_path) as running,
        ):
            yield running
        engine.dispose()


def test_a_small_batch_beside_a_hundred_thousand_rows_takes_at_most_two_and_a_half_times_its_time_alone(
    bulk: Bulk,
) -> None:
    fleet = bulk.fleet
    fleet.start("dispatcher")
    fleet.start_sleeping_worker(step_seconds=JOB_SECONDS)
    bulk.seconds_to_complete("warm-up", 4)
    alone = bulk.seconds_to_complete("alone", ROWS)
    large = bulk.submit("large", WAITING)
    fleet.until(lambda: bulk.completed(large) >= 4, "the large batch runs")
    began = time.monotonic()
    small = bulk.submit("beside", ROWS)
    brought_in = datetime.now(UTC)
    fleet.until(lambda: bulk.completed(small) == ROWS, "the small batch is completed")
    beside = time.monotonic() - began
    ended = max(bulk.column(small, "ended_at"))
    of_large = [end for end in bulk.column(large, "ended_at") if end is not None and end < ended]
    meanwhile = sum(end > brought_in for end in of_large)
    assert ROWS + meanwhile <= 2.5 * ROWS, f"{meanwhile} of the large batch meanwhile"
    opened = bulk.again(small).opened_at
    assert sum(end > opened for end in of_large) >= ROWS // 3, "and the large one was not stopped for it"
    assert beside <= 2.5 * alone + STANDSTILL_SECONDS, f"{beside:.1f} s beside, {alone:.1f} s alone"
