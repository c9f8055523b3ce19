"""Whose rows are published next: turns between owners and batches, runs of one adapter set, and the bounds of hosts."""

from __future__ import annotations

import random
from collections import Counter
from itertools import groupby
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from common import lifecycle
from common.contract import Queue
from common.lifecycle import NewRow, Release
from common.lifecycle.turns import RUN, Candidate, InFlight, Turns, in_turn, lines_of
from tests.support.interleaving import at_once
from tests.support.life import DRAIN, RESULT, TROUBLE, Life, new_row, publishing

HOST = "slow.example.com"


def rows(count: int, *, adapters: str = "", host: str = "", first: int = 1) -> list[NewRow]:
    """Rows of one lane."""
    return [new_row(number, adapters=adapters, host=host) for number in range(first, first + count)]


def batches_of(life: Life, sent: list[lifecycle.Published]) -> list[UUID]:
    """Return the batch of each message."""
    return [life.row(message.job)["batch_id"] for message in sent]


def test_a_hundred_rows_beside_thousands_of_another_owner_get_every_second_turn(life: Life) -> None:
    huge, small = life.open(3000), life.open(20, life.new_owner())
    sent = batches_of(life, life.publish(room=30))
    assert Counter(sent) == {huge: 15, small: 15}
    assert all(sent[place] != sent[place + 1] for place in range(29))


def test_two_batches_of_one_owner_take_turns_in_runs(life: Life) -> None:
    first, second = life.open(500), life.open(20)
    sent = batches_of(life, life.publish(room=6 * RUN))
    assert [(batch, len(list(run))) for batch, run in groupby(sent)] == 3 * [(first, RUN), (second, RUN)]


def test_turns_count_what_runs_so_that_a_late_batch_catches_up(life: Life) -> None:
    first = life.open(100)
    early = life.publish(room=20)
    for message in early[:10]:
        life.take(message.job)
    second = life.open(100)
    assert batches_of(life, life.publish(room=20)) == [second] * 20
    for message in early[:10]:
        life.do(lifecycle.complete, message.job, 1, RESULT)
    assert Counter(batches_of(life, life.publish(room=10))) == {first: 10}


def test_the_higher_priority_of_an_owner_goes_first_and_other_owners_do_not_notice(life: Life) -> None:
    low, high = life.open(10, priority=2), life.open(5, priority=8)
    single = life.create()
    other = life.open(10, life.new_owner(), priority=9)
    sent = life.publish(room=14)
    order = batches_of(life, sent)
    assert Counter(order) == {other: 7, high: 5, None: 1, low: 1}
    assert [batch for batch in order if batch != other] == [*[high] * 5, None, low]
    assert single in [message.job for message in sent]


def test_one_batch_may_have_the_whole_room_however_many_wait_beside_it(life: Life) -> None:
    for _ in range(30):
        life.open(2, priority=2)
    high = life.open(70, priority=8)
    sent = life.publish(room=60)
    assert Counter(batches_of(life, sent)) == {high: 60}


def test_a_stream_of_small_batches_does_not_starve_the_one_that_was_there_before(life: Life) -> None:
    large = life.open(100)
    served: list[UUID] = []
    for _ in range(40):
        life.open(RUN)
        sent = life.publish(room=RUN)
        served += batches_of(life, sent)
        for message in sent:
            life.do(lifecycle.complete, message.job, life.take(message.job), RESULT)
    assert Counter(served)[large] >= 5 * RUN
    assert len(set(served)) >= 20, "and they go out, too"


def test_a_stream_of_new_owners_does_not_starve_the_one_who_waited_before(life: Life) -> None:
    waits = {life.create() for _ in range(4)}
    for _ in range(25):
        for _ in range(2):
            life.create(life.new_owner())
        for message in life.publish(room=2):
            waits.discard(message.job)
            life.do(lifecycle.complete, message.job, life.take(message.job), RESULT)
    assert not waits


@pytest.mark.parametrize("queue", list(Queue))
def test_more_owners_than_there_is_room_for_have_their_turns_one_after_the_other(life: Life, queue: Queue) -> None:
    owners = [life.new_owner() for _ in range(13)]
    for owner in owners:
        for _ in range(4):
            life.create(owner, queue=queue)
    served: list[UUID] = []
    for _ in range(13):
        for message in life.publish(room=3, queue=queue):
            served.append(message.owner)
            life.do(lifecycle.complete, message.job, life.take(message.job), RESULT)
    assert Counter(served) == dict.fromkeys(owners, 3)
    assert set(served[:13]) == set(owners)


def test_more_batches_than_there_is_room_for_have_their_turns_one_after_the_other(life: Life) -> None:
    batches = [life.open(3 * RUN) for _ in range(7)]
    served: list[UUID] = []
    for _ in range(7):
        sent = life.publish(room=2 * RUN)
        served += batches_of(life, sent)
        for message in sent:
            life.do(lifecycle.complete, message.job, life.take(message.job), RESULT)
    assert Counter(served) == dict.fromkeys(batches, 2 * RUN)
    assert len(set(served[: 7 * RUN])) == 7


def test_rows_of_one_adapter_set_go_out_in_a_run_whatever_their_order_in_the_manifest(life: Life) -> None:
    sets = ["", "a", "b"]
    mixed = [new_row(number, adapters=sets[number % 3]) for number in range(1, 31)]
    batch = life.open(mixed)
    sent = [life.row(message.job)["adapters"] for message in life.publish(room=25)]
    assert sent == sorted(sent)
    assert Counter(sent) == {"": 10, "a": 10, "b": 5}
    life.publish()
    assert life.counts(batch).created == 30


def test_rows_that_are_not_due_hold_up_no_other_row_of_their_lane(life: Life) -> None:
    batch = life.open(6)
    some = life.rows_of(batch)
    later = Release("fetch_timeout", "late", counts=True, delay_seconds=600)
    for job in some[:4]:
        life.do(lifecycle.release, job, life.take(job), later, life.settings)
    assert [message.job for message in life.publish()] == some[4:]
    life.make_due(some[2])
    assert [message.job for message in life.publish()] == [some[2]]


def test_only_the_bulk_queue_has_batches(life: Life) -> None:
    life.open(3)
    assert life.publish(queue=Queue.INTERACTIVE) == []


def test_rows_of_a_host_without_room_hold_up_nothing_behind_them(life: Life) -> None:
    lanes = [rows(10, adapters=f"a{lane}", host=HOST, first=10 * lane) for lane in range(1, 4)]
    batch = life.open([row for lane in lanes for row in lane] + rows(10, adapters="z", first=100))
    sent = life.publish(room=10, host_limit=4) + life.publish(room=10, host_limit=4)
    hosts = Counter(life.row(message.job)["source_host"] for message in sent)
    assert hosts == {HOST: 4, "": 10}
    assert life.counts(batch).created == 40


def test_each_host_has_a_bound_of_its_own_and_single_jobs_have_none(life: Life) -> None:
    life.open([*rows(9, host=HOST), *rows(9, host="other.example.com", first=10), *rows(3, first=20)])
    singles = [life.create() for _ in range(5)]
    sent = life.publish(host_limit=2)
    hosts = Counter(
        (life.row(message.job)["batch_id"] is None, life.row(message.job)["source_host"]) for message in sent
    )
    assert hosts == {(False, HOST): 2, (False, "other.example.com"): 2, (False, ""): 3, (True, ""): len(singles)}


def test_a_thousand_hosts_at_rest_leave_the_others_their_turn(life: Life) -> None:
    names = [f"h{number}.example.com" for number in range(1000)]
    batch = life.open([new_row(number, host=name) for number, name in enumerate(names, 1)])

    def rest(connection: Connection) -> None:
        for name in names[:-2]:
            lifecycle.pause_host(connection, name, 600)

    life.do(rest)
    sent = life.publish(room=5)
    assert {life.row(message.job)["source_host"] for message in sent} == set(names[-2:])
    assert life.counts(batch).created == 1000


def test_dispatchers_at_once_publish_each_row_once(life: Life) -> None:
    owners = [life.owner, life.new_owner()]
    some = [job for owner in owners for _ in range(2) for job in life.rows_of(life.open(15, owner))]
    sent: list[UUID] = []
    for _ in range(100):
        if len(sent) >= len(some):
            break
        publish = [publishing(10) for _ in range(4)]
        sent += [message.job for messages in at_once(life.engine, publish) for message in messages]
    assert sorted(sent) == sorted(some)


_DUE = text("""
    SELECT jobs.id, jobs.owner_id, jobs.batch_id, coalesce(batches.priority, 5) AS priority
    FROM jobs LEFT JOIN batches ON batches.id = jobs.batch_id
    WHERE jobs.status = 'created' AND jobs.publish_seq IS NULL AND jobs.available_at <= now()
      AND coalesce(batches.state, 'open') = 'open'
    ORDER BY jobs.adapters, jobs.source_host, jobs.available_at, jobs.id
""")
_FLYING = text("""
    SELECT owner_id, batch_id FROM jobs WHERE publish_seq IS NOT NULL AND status IN ('created', 'processing')
""")


def turns_over_everything(connection: Connection, turns: Turns, room: int) -> list[UUID]:
    """Return what would go out if every due job of the table were looked at."""
    flight = InFlight()
    due = [Candidate(row.id, row.owner_id, row.batch_id, row.priority) for row in connection.execute(_DUE)]
    for row in connection.execute(_FLYING):
        flight.owners[row.owner_id] += 1
        flight.lines[row.owner_id, row.batch_id] += 1
    chosen = in_turn(lines_of(due), flight, turns, room=room, host_room={}, any_host_room=room)
    return [candidate.job for candidate in chosen]


@pytest.mark.parametrize("seed", range(4))
def test_the_few_rows_that_are_looked_at_give_the_same_turns_as_all_of_them(life: Life, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311
    owners = [life.owner, life.new_owner(), life.new_owner()]
    for owner in owners:
        for _ in range(dice.randint(1, 5)):
            some = [
                new_row(number, adapters=dice.choice(["", "a", "b"]), host=dice.choice(["", HOST]))
                for number in range(1, dice.randint(2, 60))
            ]
            batch = life.open(some, owner, priority=dice.randint(4, 6))
            if dice.random() < 0.2:
                life.do(lifecycle.pause_batch, owner, batch)
        for _ in range(dice.randint(0, 12)):
            life.create(owner)
    total = 0
    turns = Turns()
    for _ in range(12):
        room = dice.choice([dice.randint(1, 12), 60])
        with life.engine.begin() as connection:  # one transaction, so that both see the same as due
            expected = turns_over_everything(connection, turns, room)
            sent = lifecycle.publish_waiting(connection, Queue.BULK, turns, room=room)
        assert [message.job for message in sent] == expected
        total += len(sent)
        for message in dice.sample(sent, len(sent) // 2):
            attempt = life.take(message.job)
            if dice.random() < 0.5:
                life.do(lifecycle.complete, message.job, attempt, RESULT)
            elif dice.random() < 0.5:
                life.do(lifecycle.release, message.job, attempt, dice.choice([DRAIN, TROUBLE]), life.settings)
    assert total > 20
