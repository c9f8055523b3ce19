"""What ends by itself is started again: soon the first time, later and later when it keeps ending."""

from __future__ import annotations

from itertools import pairwise

import pytest

from infra.embedded.errors import GuardianLost, StartFailed
from infra.embedded.supervisor import Supervisor


class Part:
    """A part whose end a test decides."""

    name = "worker"

    def __init__(self) -> None:
        self.code: int | None = None
        self.starts: list[float] = []
        self.trouble: StartFailed | None = None
        self.now = 0.0

    def exit_code(self) -> int | None:
        return self.code

    def last_words(self, lines: int = 20) -> str:
        return "its last words"

    def start(self) -> None:
        self.starts.append(self.now)
        if self.trouble is not None:
            raise self.trouble
        self.code = None


def run(part: Part, supervisor: Supervisor, *, until: float, ends: bool) -> list[float]:
    """Let time pass in quarters of a second; return when the part was started. `ends`: it ends again at once."""
    before = len(part.starts)
    while part.now < until:
        part.now += 0.25
        if supervisor.look() and ends:
            part.code = 1
    return part.starts[before:]


def pauses(starts: list[float]) -> list[int]:
    return [round(later - earlier) for earlier, later in pairwise(starts)]


def supervise(part: Part) -> tuple[Supervisor, list[str]]:
    said: list[str] = []
    return Supervisor([part], say=said.append, clock=lambda: part.now), said


def test_what_runs_is_left_alone() -> None:
    part = Part()
    supervisor, said = supervise(part)
    assert run(part, supervisor, until=300, ends=False) == []
    assert said == []


def test_what_ends_is_started_again_after_a_second_and_said_to_have_ended() -> None:
    part = Part()
    supervisor, said = supervise(part)
    part.code = -9
    assert run(part, supervisor, until=30, ends=False) == [1.25]
    assert said == [
        "worker ended with signal SIGKILL. its last words\nstarting worker again in 1 s",
        "worker is started again",
    ]


def test_what_keeps_ending_is_started_again_later_and_later_but_at_least_every_minute() -> None:
    part = Part()
    supervisor, _ = supervise(part)
    part.code = 1
    starts = run(part, supervisor, until=400, ends=True)
    assert pauses(starts)[:8] == [2, 4, 8, 16, 32, 60, 60, 60]
    assert set(pauses(starts)[8:]) == {60}


def test_who_ran_for_a_minute_is_started_again_soon() -> None:
    part = Part()
    supervisor, _ = supervise(part)
    part.code = 1
    run(part, supervisor, until=40, ends=True)
    part.code = None
    run(part, supervisor, until=200, ends=False)
    part.code = 1
    assert run(part, supervisor, until=210, ends=False) == [201.25]


def test_what_cannot_be_started_is_tried_again_later_and_later() -> None:
    part = Part()
    supervisor, said = supervise(part)
    part.code, part.trouble = 1, StartFailed("the disk is full")
    starts = run(part, supervisor, until=60, ends=False)
    assert pauses(starts) == [2, 4, 8, 16]
    assert said[1] == "the disk is full\nstarting worker again in 2 s"


def test_without_the_guardian_nothing_is_tried() -> None:
    part = Part()
    supervisor, _ = supervise(part)
    part.code, part.trouble = 1, GuardianLost()
    with pytest.raises(GuardianLost):
        run(part, supervisor, until=60, ends=False)
