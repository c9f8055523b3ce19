"""Whose turn it is, as a plain function: fair between owners and their batches, whatever waits and is in flight."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from common.lifecycle.turns import RUN, Candidate, InFlight, LineName, Turns, in_turn, lines_of

OWNERS = [UUID(int=number) for number in range(1, 4)]
HOSTS = ["", "a.example.com", "b.example.com"]


@dataclass(frozen=True)
class Situation:
    """What waits and what is in flight."""

    candidates: list[Candidate]
    flight: InFlight
    room: int
    host_room: Mapping[str, int]
    any_host_room: int
    turns: Turns

    def choose(self) -> list[Candidate]:
        """Return the candidates that go out, in that order."""
        return in_turn(
            lines_of(self.candidates),
            self.flight,
            self.turns,
            room=self.room,
            host_room=self.host_room,
            any_host_room=self.any_host_room,
        )


@st.composite
def situations(draw: st.DrawFn, *, hosts: bool = False) -> Situation:
    """Up to nine lines of three owners: single jobs and batches of some priority, with some of them in flight."""
    flight = InFlight()
    candidates: list[Candidate] = []
    lines = draw(st.lists(st.tuples(st.sampled_from(OWNERS), st.booleans(), st.integers(3, 7)), max_size=9))
    seen: set[UUID] = set()
    for number, (owner, single, priority) in enumerate(lines):
        if single and owner in seen:
            continue
        batch = None if single else UUID(int=100 + number)
        seen |= {owner} if single else set()
        out = draw(st.integers(0, 12))
        flight.owners[owner] += out
        flight.lines[owner, batch] += out
        for _ in range(draw(st.integers(0, 15))):
            host = draw(st.sampled_from(HOSTS)) if hosts and batch else ""
            job = UUID(int=1000 + len(candidates))
            candidates.append(Candidate(job, owner, batch, 5 if single else priority, host))
    host_room = draw(st.dictionaries(st.sampled_from(HOSTS[1:]), st.integers(0, 4))) if hosts else {}
    turns = Turns()
    if candidates:
        turns.give(draw(st.lists(st.sampled_from(candidates), max_size=5)))
    return Situation(candidates, flight, draw(st.integers(1, 40)), host_room, draw(st.integers(1, 5)), turns)


@given(situations(hosts=True))
def test_each_job_goes_out_once_at_most_and_never_more_than_there_is_room_for(situation: Situation) -> None:
    chosen = situation.choose()
    assert len({candidate.job for candidate in chosen}) == len(chosen) <= situation.room
    assert set(chosen) <= set(situation.candidates)


@given(situations())
def test_no_room_is_left_while_something_waits(situation: Situation) -> None:
    assert len(situation.choose()) == min(situation.room, len(situation.candidates))


@given(situations(hosts=True))
def test_no_owner_gets_a_job_while_another_who_waits_has_fewer(situation: Situation) -> None:
    """Max-min fair at every single job, what was in flight before included; of equals the one that waited longest."""
    load = Counter(situation.flight.owners)
    last = {owner: situation.turns.last(owner) for owner in OWNERS}
    waiting = Counter(candidate.owner for candidate in _with_room(situation))
    for candidate in situation.choose():
        others = [owner for owner in waiting if waiting[owner] > 0]
        owner = candidate.owner
        assert (load[owner], last[owner], owner) == min((load[other], last[other], other) for other in others)
        load[owner] += 1
        last[owner] = max(situation.turns.number, *last.values()) + 1
        waiting = Counter(other.owner for other in _with_room(situation, after=candidate))


def _with_room(situation: Situation, after: Candidate | None = None) -> list[Candidate]:
    """Return those that can still go out when the choice has come to `after`, by playing it again from its start."""
    left = dict(situation.host_room)
    waiting = list(situation.candidates)
    if after is not None:
        for candidate in situation.choose():
            waiting.remove(candidate)
            left[candidate.host] = left.get(candidate.host, situation.any_host_room) - 1
            if candidate == after:
                break
    return [one for one in waiting if one.host == "" or left.get(one.host, situation.any_host_room) > 0]


@given(situations())
def test_of_one_owner_the_higher_priority_goes_first_and_a_line_keeps_its_order(situation: Situation) -> None:
    chosen = situation.choose()
    for owner in OWNERS:
        mine = [candidate for candidate in chosen if candidate.owner == owner]
        priorities = [candidate.priority for candidate in mine]
        assert priorities == sorted(priorities, reverse=True)
        for batch in {candidate.batch for candidate in mine}:
            line = [candidate.job for candidate in mine if candidate.batch == batch]
            every = [one.job for one in situation.candidates if (one.owner, one.batch) == (owner, batch)]
            assert line == every[: len(line)]


@given(situations())
def test_an_owners_batches_of_one_priority_differ_by_a_run_at_most_however_far_apart_they_began(
    situation: Situation,
) -> None:
    load = Counter(situation.flight.lines)
    waiting = Counter((candidate.owner, candidate.batch) for candidate in situation.candidates)
    priority = {(one.owner, one.batch): one.priority for one in situation.candidates}
    for candidate in situation.choose():
        line = candidate.owner, candidate.batch
        rivals = [
            other
            for other, number in waiting.items()
            if number and other[0] == candidate.owner and priority[other] == candidate.priority
        ]
        assert load[line] - min(load[other] for other in rivals) < RUN
        load[line] += 1
        waiting[line] -= 1


@given(situations(hosts=True))
def test_no_host_gets_more_than_it_has_room_for(situation: Situation) -> None:
    of_host = Counter(candidate.host for candidate in situation.choose())
    for host in HOSTS[1:]:
        assert of_host[host] <= situation.host_room.get(host, situation.any_host_room)


@given(situations(hosts=True))
def test_a_host_without_room_holds_up_nothing_but_its_own_jobs(situation: Situation) -> None:
    chosen = situation.choose()
    left_out = set(situation.candidates) - set(chosen)
    if len(chosen) < situation.room:
        assert all(candidate.host for candidate in left_out)
        of_host = Counter(candidate.host for candidate in chosen)
        for candidate in left_out:
            allowed = situation.host_room.get(candidate.host, situation.any_host_room)
            assert of_host[candidate.host] == allowed


def test_batches_go_out_in_runs_so_that_workers_change_adapters_rarely() -> None:
    owner, first, second = OWNERS[0], UUID(int=1), UUID(int=2)
    candidates = [Candidate(UUID(int=10 + n), owner, first if n < 12 else second) for n in range(24)]
    chosen = in_turn(lines_of(candidates), InFlight(), Turns(), room=24, host_room={}, any_host_room=24)
    assert [candidate.batch for candidate in chosen] == 3 * (RUN * [first] + RUN * [second])


@hypothesis_settings(max_examples=10)
@given(st.integers(1, 50))
def test_a_small_owner_gets_its_share_beside_a_huge_one(room: int) -> None:
    huge = [Candidate(UUID(int=1000 + n), OWNERS[0], UUID(int=1)) for n in range(200)]
    small = [Candidate(UUID(int=5000 + n), OWNERS[1], UUID(int=2)) for n in range(10)]
    flight = InFlight(owners=Counter({OWNERS[0]: 64}), lines=Counter({(OWNERS[0], UUID(int=1)): 64}))
    lines = lines_of([*huge, *small])
    chosen = in_turn(lines, flight, Turns(), room=room, host_room={}, any_host_room=room)
    assert len(set(chosen) & set(small)) == min(room, 10)


def _published(names: Sequence[LineName], *, window: int, passes: int) -> list[LineName]:
    """Return whose jobs go out, in order, where each line has more than enough and a window is kept full by runs."""
    turns, out = Turns(remembered=5), deque[Candidate]()
    order: list[Candidate] = []
    for _ in range(passes):
        turns.meet([*names, *(owner for owner, _ in names)])
        flight = InFlight()
        flight.owners.update(candidate.owner for candidate in out)
        flight.lines.update((candidate.owner, candidate.batch) for candidate in out)
        waiting = lines_of(Candidate(UUID(int=n), owner, batch) for owner, batch in names for n in range(window))
        room = window - len(out)
        chosen = in_turn(waiting, flight, turns, room=room, host_room={}, any_host_room=room)
        turns.give(chosen)
        order += chosen
        out += chosen
        for _ in range(RUN):
            out.popleft()
    return [(candidate.owner, candidate.batch) for candidate in order]


@given(st.integers(RUN, 40))
def test_two_batches_share_a_fleet_evenly_whatever_its_window(window: int) -> None:
    """As many in flight of both is a tie at every other run: it must not always go to the same one."""
    names = [(OWNERS[0], UUID(int=1)), (OWNERS[0], UUID(int=2))]
    counts = Counter(_published(names, window=window, passes=50))
    assert abs(counts[names[0]] - counts[names[1]]) <= 2 * RUN


@given(st.integers(1, 40), st.booleans())
def test_nobody_starves_however_many_more_wait_than_there_is_room_for(number: int, of_one_owner: bool) -> None:
    names: list[LineName] = [
        (OWNERS[0], UUID(int=100 + n)) if of_one_owner else (UUID(int=100 + n), None) for n in range(number)
    ]
    order = _published(names, window=2 * RUN, passes=4 * number)
    assert set(order) == set(names)
    share = len(order) / number
    assert all(abs(count - share) <= 2 * RUN for count in Counter(order).values())


def test_who_comes_new_stands_behind_all_who_wait() -> None:
    turns = Turns()
    early, served, late = (UUID(int=n) for n in (3, 2, 1))
    turns.meet([early, served])
    turns.give([Candidate(UUID(int=9), served)])
    turns.meet([early, served, late])
    turns.give([Candidate(UUID(int=10), served)])
    assert sorted([served, late, early], key=turns.last) == [early, late, served]


def test_who_waits_is_never_forgotten_and_of_the_others_only_so_many_are_remembered() -> None:
    turns = Turns(remembered=100)
    waits = Candidate(UUID(int=1), UUID(int=1))
    turns.give([waits])
    for n in range(2, 1000):
        gone = Candidate(UUID(int=n), UUID(int=n))
        turns.meet([waits.owner, gone.owner])
        turns.give([gone])
    assert turns.last(waits.owner) == 1
    assert turns.last(UUID(int=2)) == turns.number, "as if it came now"
