"""When a worker that ended is started again."""

from __future__ import annotations

from worker.fleet.restarts import FIRST_SECONDS, LONGEST_SECONDS, STEADY_SECONDS, Restarts


def test_who_keeps_ending_is_started_later_and_later_but_at_least_every_minute_or_so() -> None:
    restarts = Restarts()
    pauses = [restarts.pause_seconds(2.0) for _ in range(12)]
    for pause, middle in zip(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60], strict=True):
        assert 0.75 * middle <= pause <= 1.25 * middle


def test_workers_that_ended_together_are_not_started_together() -> None:
    pauses = {Restarts().pause_seconds(2.0) for _ in range(8)}
    assert len(pauses) > 1


def test_who_ran_well_for_a_while_is_soon_started_again() -> None:
    restarts = Restarts()
    for _ in range(9):
        restarts.pause_seconds(2.0)
    assert restarts.pause_seconds(STEADY_SECONDS - 1) > LONGEST_SECONDS / 2
    assert restarts.pause_seconds(STEADY_SECONDS) <= 1.25 * FIRST_SECONDS
    assert restarts.pause_seconds(2.0) > 1.25 * FIRST_SECONDS, "and from there on later again"
