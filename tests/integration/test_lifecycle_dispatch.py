"""What the dispatcher does: turns between owners, lost and withdrawn messages, rescues, and two dispatchers at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection

from common import lifecycle
from common.contract import Queue
from common.database import Doorbell
from common.lifecycle import Published, Release
from tests.support import life as a_job
from tests.support.interleaving import at_once, is_free_while_waiting, overlap, overtaken
from tests.support.life import DRAIN, RESULT, TROUBLE, Life, publishing

State = Callable[[Life], UUID]


def owners_in_order(life: Life, count: int) -> list[UUID]:
    """Make owners, the one first that comes first where nobody was served yet."""
    return sorted(life.new_owner() for _ in range(count))


def ids(messages: list[Published]) -> list[UUID]:
    """Return the jobs that the messages name."""
    return [message.job for message in messages]


# --- publish_waiting


def test_owners_take_turns_however_much_each_has_waiting(life: Life) -> None:
    a, b, c = owners_in_order(life, 3)
    jobs = {owner: [life.create(owner) for _ in range(count)] for owner, count in ((a, 5), (b, 1), (c, 2))}
    messages = life.publish(room=7)
    turns = [jobs[a][0], jobs[b][0], jobs[c][0], jobs[a][1], jobs[c][1], jobs[a][2], jobs[a][3]]
    assert ids(messages) == turns
    assert [message.owner for message in messages] == [a, b, c, a, c, a, a]


def test_a_thousand_jobs_of_one_owner_do_not_delay_the_only_one_of_another(life: Life) -> None:
    big, small = owners_in_order(life, 2)

    def fill(connection: Connection) -> None:
        for _ in range(1000):
            lifecycle.create(connection, big, a_job.REQUEST, queue=Queue.BULK, model="m")

    life.do(fill)
    job = life.create(small)
    assert job in ids(life.publish(room=2))


@pytest.mark.parametrize("runs", [True, False])
def test_the_owner_with_the_fewest_in_flight_goes_first(life: Life, runs: bool) -> None:
    a, b, c = owners_in_order(life, 3)
    for owner in [a, a, b]:
        job = life.create(owner)
        life.publish()
        if runs:
            life.take(job)
    for owner in (a, b, c):
        life.create(owner)
        life.create(owner)
    assert [message.owner for message in life.publish(room=5)] == [c, b, c, a, b]


def test_what_is_over_or_waits_again_is_not_in_flight(life: Life) -> None:
    a, b = owners_in_order(life, 2)
    over = [life.create(a) for _ in range(3)]
    life.publish()
    life.do(lifecycle.complete, over[0], life.take(over[0]), RESULT)
    life.do(lifecycle.cancel, a, over[1:2])
    later = Release("fetch_timeout", "late", counts=True, delay_seconds=60)
    life.do(lifecycle.release, over[2], life.take(over[2]), later, life.settings)
    for owner in (a, b):
        life.create(owner)
        life.create(owner)
    assert [message.owner for message in life.publish(room=4)] == [a, b, a, b]


def test_what_is_in_flight_in_one_queue_is_no_turn_in_the_other(life: Life) -> None:
    a, b = owners_in_order(life, 2)
    life.create(a, queue=Queue.INTERACTIVE)
    life.publish(queue=Queue.INTERACTIVE)
    life.create(b)
    life.create(a)
    assert [message.owner for message in life.publish(room=2)] == [a, b]


def test_an_owners_jobs_go_out_in_the_order_in_which_they_became_due(life: Life) -> None:
    early, later = a_job.backing_off(life), life.create()
    life.make_due(early)
    assert ids(life.publish()) == [later, early]


def test_jobs_that_are_not_due_take_no_turn_and_no_room(life: Life) -> None:
    first, second = owners_in_order(life, 2)
    not_due = life.create(first)
    later = Release("fetch_timeout", "late", counts=True, delay_seconds=60)
    life.do(lifecycle.release, not_due, life.take(not_due), later, life.settings)
    due = life.create(second)
    assert ids(life.publish(room=1)) == [due]


def test_each_message_has_the_next_number_and_places_that_rise_in_the_order_of_sending(life: Life) -> None:
    for owner in owners_in_order(life, 4):
        for _ in range(5):
            life.create(owner)
    messages = life.publish(room=15) + life.publish(room=15)
    assert len(messages) == 20
    assert {message.number for message in messages} == {1}
    assert all(before.place < after.place for before, after in pairwise(messages))
    for message in messages:
        row = life.row(message.job)
        assert (row["publish_no"], row["publish_seq"], row["owner_id"]) == (1, message.place, message.owner)
        assert abs(life.age(message.job, "published_at")) < 60


@pytest.mark.parametrize(
    "state",
    [
        a_job.published, a_job.backing_off, a_job.processing, a_job.marked, a_job.expired, a_job.completed,
        a_job.failed, a_job.cancelled, a_job.deleted, a_job.deleted_while_running,
    ],
)  # fmt: skip
def test_what_does_not_wait_or_is_not_due_is_not_published(life: Life, state: State) -> None:
    job = state(life)
    before = life.picture(job)
    assert life.publish() == []
    assert life.picture(job) == before


def test_the_two_queues_do_not_mix(life: Life) -> None:
    bulk, interactive = life.create(), life.create(queue=Queue.INTERACTIVE)
    assert ids(life.publish(queue=Queue.INTERACTIVE)) == [interactive]
    assert ids(life.publish(queue=Queue.BULK)) == [bulk]


@pytest.mark.parametrize("room", [0, -3])
def test_without_room_nothing_is_published(life: Life, room: int) -> None:
    life.create()
    assert life.publish(room=room) == []


def test_publishing_is_no_event_of_the_job(life: Life) -> None:
    job = a_job.published(life)
    assert life.events(job) == [("created", 0)]


def test_dispatchers_at_once_never_publish_one_job_twice(life: Life) -> None:
    jobs = {life.create(owner) for owner in owners_in_order(life, 4) for _ in range(15)}
    sent: list[Published] = []
    for _ in range(100):
        if len(sent) >= len(jobs):
            break
        publish = [publishing(10) for _ in range(6)]
        for messages in at_once(life.engine, publish):
            sent += messages
    assert sorted(ids(sent)) == sorted(jobs)
    assert len({message.place for message in sent}) == len(jobs)


def test_a_second_dispatcher_passes_by_what_the_first_one_holds_without_waiting(life: Life) -> None:
    life.create()
    publish = publishing(10)
    first, second = overlap(life.engine, publish, publish, may_wait=False)
    assert (len(first), second) == (1, [])
    assert life.publish() == []


@pytest.mark.parametrize("came_back", [False, True])
def test_what_was_published_between_looking_and_locking_is_left_alone(life: Life, came_back: bool) -> None:
    job = life.create()

    def another_dispatcher_is_faster() -> None:
        assert ids(life.publish()) == [job]
        if came_back:  # and waits again: it looks as before, but for the time at which it is due
            life.do(lifecycle.release, job, life.take(job), TROUBLE, life.settings)

    publish = publishing(10)
    assert overtaken(life.engine, publish, another_dispatcher_is_faster) == []
    assert life.row(job)["publish_no"] == 1


@pytest.mark.parametrize("holder", ["cancel", "claim"])
def test_what_is_just_being_cancelled_or_claimed_is_not_published(life: Life, holder: str) -> None:
    job = life.create()

    def hold(connection: Connection) -> None:
        if holder == "cancel":
            lifecycle.cancel(connection, life.owner, [job])
        else:
            lifecycle.claim(connection, job, worker="w", lease_seconds=60)

    publish = publishing(10)
    _, messages = overlap(life.engine, hold, publish, may_wait=False)
    assert messages == []
    assert life.row(job)["publish_no"] == 0


def test_a_cancel_during_a_publish_waits_and_wins(life: Life) -> None:
    job = life.create()
    messages, cancelled = overlap(
        life.engine,
        publishing(10),
        lambda c: lifecycle.cancel(c, life.owner, [job]),
    )
    assert (ids(messages), cancelled) == ([job], [job])
    assert life.claim(job) is None
    assert life.do(lifecycle.count_published, Queue.BULK) == 0


# --- count_published


def test_only_messages_that_are_out_and_unclaimed_are_counted(life: Life) -> None:
    jobs = [life.create() for _ in range(5)]
    life.create(queue=Queue.INTERACTIVE)
    assert life.do(lifecycle.count_published, Queue.BULK) == 0
    life.publish(room=4)
    assert life.do(lifecycle.count_published, Queue.BULK) == 4
    assert life.do(lifecycle.count_published, Queue.INTERACTIVE) == 0
    life.take(jobs[0])
    life.do(lifecycle.cancel, life.owner, [jobs[1]])
    assert life.do(lifecycle.count_published, Queue.BULK) == 2


# --- publish_lost


def lost(life: Life, *, queue: Queue = Queue.BULK, empty: bool = False, limit: int = 500) -> list[Published]:
    """Ask for what counts as lost after 15 s."""
    return life.do(lifecycle.publish_lost, queue, queue_is_empty=empty, lost_seconds=15, limit=limit)


def test_an_old_message_is_lost_when_the_queue_is_empty(life: Life) -> None:
    (message,) = (life.create(), life.publish())[1]
    assert lost(life, empty=True) == [], "it is too young"
    life.age_publish(message.job, 20)
    assert lost(life, empty=False) == [], "it may still lie in the queue"
    assert lost(life, queue=Queue.INTERACTIVE, empty=True) == []
    (again,) = lost(life, empty=True)
    assert (again.job, again.owner, again.number) == (message.job, life.owner, 2)
    assert again.place > message.place
    assert lost(life, empty=True) == [], "it has just been sent again"


def test_an_old_message_is_lost_when_a_later_one_was_claimed(life: Life) -> None:
    early, middle, late = (life.create() for _ in range(3))
    life.publish()
    for job in (early, middle, late):
        life.age_publish(job, 20)
    life.take(early)
    assert lost(life) == [], "only an earlier one was claimed"
    life.take(late)
    assert ids(lost(life)) == [middle]


def test_a_claim_from_the_other_queue_overtakes_nothing(life: Life) -> None:
    job, other = life.create(), life.create(queue=Queue.INTERACTIVE)
    life.publish()
    life.publish(queue=Queue.INTERACTIVE)
    life.age_publish(job, 20)
    life.take(other)
    assert lost(life) == []


def test_messages_sent_in_one_go_do_not_overtake_each_other_when_claimed_in_their_order(life: Life) -> None:
    """The order within one publish is by turns, not that of the table: places that ignored it looked like losses."""
    for owner in owners_in_order(life, 5):
        for _ in range(4):
            life.create(owner)
    messages = life.publish()
    for message in messages:
        life.age_publish(message.job, 20)
    for message in messages[:-1]:
        life.take(message.job)
        assert lost(life) == []


def test_lost_messages_are_sent_again_in_their_old_order_the_oldest_first(life: Life) -> None:
    jobs = [life.create() for _ in range(6)]
    life.publish()
    for job in jobs:
        life.age_publish(job, 20)
    first = lost(life, empty=True, limit=4)
    assert ids(first) == jobs[:4]
    assert all(before.place < after.place for before, after in pairwise(first))
    assert ids(lost(life, empty=True)) == jobs[4:]


@pytest.mark.parametrize("state", [a_job.created, a_job.processing, a_job.completed, a_job.cancelled])
def test_what_has_no_message_out_cannot_lose_it(life: Life, state: State) -> None:
    job = state(life)
    life.age_publish(job, 1000)
    before = life.picture(job)
    assert lost(life, empty=True) == []
    assert life.picture(job) == before


def test_the_first_message_and_the_one_sent_again_are_one_claim(life: Life) -> None:
    job = a_job.published(life)
    life.age_publish(job, 20)
    lost(life, empty=True)
    claims = at_once(life.engine, [partial(lifecycle.claim, job=job, worker="w", lease_seconds=60)] * 2)
    assert len([claim for claim in claims if claim is not None]) == 1


def test_two_dispatchers_at_once_send_a_lost_message_again_once(life: Life) -> None:
    jobs = [life.create() for _ in range(10)]
    life.publish()
    for job in jobs:
        life.age_publish(job, 20)
    look = partial(lifecycle.publish_lost, queue=Queue.BULK, queue_is_empty=True, lost_seconds=15)
    sent = [message for messages in at_once(life.engine, [look] * 4) for message in messages]
    sent += lost(life, empty=True)
    assert sorted(ids(sent)) == sorted(jobs)
    assert {life.row(job)["publish_no"] for job in jobs} == {2}


def test_what_was_sent_again_between_looking_and_locking_is_left_alone(life: Life) -> None:
    job = a_job.published(life)
    life.age_publish(job, 20)
    look = partial(lifecycle.publish_lost, queue=Queue.BULK, queue_is_empty=True, lost_seconds=15)
    assert overtaken(life.engine, look, lambda: life.do(look)) == []
    assert life.row(job)["publish_no"] == 2


def test_a_message_that_is_just_being_claimed_is_not_lost(life: Life) -> None:
    job = a_job.published(life)
    life.age_publish(job, 20)
    claim, messages = overlap(
        life.engine,
        partial(lifecycle.claim, job=job, worker="w", lease_seconds=60),
        partial(lifecycle.publish_lost, queue=Queue.BULK, queue_is_empty=True, lost_seconds=15),
        may_wait=False,
    )
    assert claim is not None
    assert messages == []


# --- withdraw


def test_what_redis_did_not_take_waits_again_and_goes_out_under_the_next_number(life: Life) -> None:
    job = life.create()
    messages = life.publish()
    assert life.do(lifecycle.withdraw, messages) == 1
    assert (life.row(job)["publish_seq"], life.row(job)["status"]) == (None, "created")
    assert life.do(lifecycle.count_published, Queue.BULK) == 0
    (again,) = life.publish()
    assert (again.job, again.number) == (job, 2)


def test_only_messages_that_are_still_out_can_be_withdrawn(life: Life) -> None:
    claimed, cancelled, sent_again, waiting = (life.create() for _ in range(4))
    messages = life.publish()
    life.take(claimed)
    life.do(lifecycle.cancel, life.owner, [cancelled])
    life.age_publish(sent_again, 20)
    assert ids(lost(life, empty=True)) == [sent_again]
    before = [life.picture(job) for job in (claimed, cancelled, sent_again)]
    unknown = Published(uuid4(), life.owner, 1, 1)
    assert life.do(lifecycle.withdraw, [*messages, unknown]) == 1
    assert [life.picture(job) for job in (claimed, cancelled, sent_again)] == before
    assert ids(life.publish()) == [waiting]
    assert life.do(lifecycle.withdraw, []) == 0


def test_a_message_that_arrived_after_all_can_be_claimed_although_it_was_withdrawn(life: Life) -> None:
    job = life.create()
    life.do(lifecycle.withdraw, life.publish())
    assert life.take(job) == 1
    assert life.publish() == []


def test_a_withdrawal_leaves_alone_what_is_just_being_claimed(life: Life) -> None:
    job = life.create()
    messages = life.publish()
    claim, withdrawn = overlap(
        life.engine,
        partial(lifecycle.claim, job=job, worker="w", lease_seconds=60),
        partial(lifecycle.withdraw, messages=messages),
    )
    assert claim is not None
    assert withdrawn == 0
    assert life.row(job)["publish_seq"] == messages[0].place


def test_withdrawals_lock_in_the_order_of_the_ids(life: Life) -> None:
    low, high = sorted([life.create(), life.create()])
    first = life.publish(room=1)
    messages = [*life.publish(), *first]
    life.age_publish(low, 0)  # moves its row behind the other one in the table
    free, count = is_free_while_waiting(life.engine, low, high, partial(lifecycle.withdraw, messages=messages))
    assert (free, count) == (True, 2)


# --- rescue


def test_a_lease_that_still_runs_is_left_alone(life: Life) -> None:
    job = a_job.processing(life)
    before = life.picture(job)
    assert life.do(lifecycle.rescue, life.settings) == []
    assert life.picture(job) == before


@pytest.mark.parametrize(
    "state", [a_job.created, a_job.published, a_job.backing_off, a_job.completed, a_job.failed, a_job.cancelled]
)
def test_what_does_not_run_needs_no_rescue(life: Life, state: State) -> None:
    job = state(life)
    before = life.picture(job)
    assert life.do(lifecycle.rescue, life.settings) == []
    assert life.picture(job) == before


def test_a_job_lost_off_the_device_comes_back_at_once_and_free_of_charge(life: Life) -> None:
    job = a_job.expired(life)
    assert life.do(lifecycle.rescue, life.settings) == [(job, "created")]
    row = life.row(job)
    assert (row["status"], row["failures"], row["attempt"]) == ("created", 0, 1)
    assert (row["worker_id"], row["lease_until"], row["publish_seq"]) == (None, None, None)
    assert life.last_event(job) == ("rescued", 1, {"code": "worker_lost", "counts": False})
    assert ids(life.publish()) == [job]
    assert life.take(job) == 2


def test_a_job_lost_on_the_device_counts_and_backs_off(life: Life) -> None:
    job = a_job.processing(life)
    life.do(lifecycle.renew, [(job, 1, True)], lease_seconds=60)
    life.expire(job)
    settings = life.settings.model_copy(update={"backoff_seconds": 100.0, "backoff_max_seconds": 100.0})
    assert life.do(lifecycle.rescue, settings) == [(job, "created")]
    row = life.row(job)
    assert (row["failures"], row["on_device"]) == (1, False)
    assert 50 <= life.pause(job) <= 150
    assert life.last_event(job) == ("rescued", 1, {"code": "worker_lost", "counts": True})
    assert life.publish() == []


def test_a_job_that_takes_its_worker_down_each_time_ends_failed(life: Life) -> None:
    job = life.create()
    statuses = []
    for _ in range(life.settings.max_failures):
        life.make_due(job)
        attempt = life.take(job)
        life.do(lifecycle.renew, [(job, attempt, True)], lease_seconds=60)
        life.expire(job)
        statuses += life.do(lifecycle.rescue, life.settings)
    assert [status for _, status in statuses] == ["created", "created", "failed"]
    row = life.row(job)
    assert (row["error_code"], row["failures"], row["attempt"]) == ("worker_lost", 3, 3)
    assert row["error"] == "the worker that had this job was lost (tried 3 times)"
    assert life.last_event(job) == ("failed", 3, {"code": "worker_lost", "failures": 3})


def test_a_job_that_takes_its_worker_down_before_the_device_ends_failed_too(life: Life) -> None:
    settings = life.settings.model_copy(update={"max_uncounted_attempts": 4, "max_failures": 2})
    job = life.create()
    failures = []
    for _ in range(5):
        life.make_due(job)
        life.take(job)
        life.expire(job)
        life.do(lifecycle.rescue, settings)
        failures.append(life.row(job)["failures"])
    assert failures == [0, 0, 0, 1, 2]
    assert life.row(job)["status"] == "failed"


def test_failures_of_every_kind_add_up(life: Life) -> None:
    job = life.create()
    life.do(lifecycle.release, job, life.take(job), TROUBLE, life.settings)
    life.make_due(job)
    life.do(lifecycle.release, job, life.take(job), DRAIN, life.settings)
    attempt = life.take(job)
    life.do(lifecycle.renew, [(job, attempt, True)], lease_seconds=60)
    life.expire(job)
    life.do(lifecycle.rescue, life.settings)
    life.make_due(job)
    assert life.row(job)["failures"] == 2
    assert life.do(lifecycle.release, job, life.take(job), TROUBLE, life.settings) == "failed"


@pytest.mark.parametrize("wish", [lifecycle.cancel, lifecycle.delete])
def test_a_lost_job_that_nobody_wants_any_more_ends_as_cancelled(life: Life, wish: Callable[..., object]) -> None:
    job = a_job.processing(life)
    life.do(lifecycle.renew, [(job, 1, True)], lease_seconds=60)
    life.do(wish, life.owner, [job])
    life.expire(job)
    assert life.do(lifecycle.rescue, life.settings) == [(job, "failed")]
    row = life.row(job)
    assert (row["error_code"], row["failures"]) == ("cancelled", 0)
    assert life.last_event(job) == ("failed", 1, {"code": "cancelled"})


def test_those_that_are_lost_longest_are_rescued_first(life: Life) -> None:
    jobs = [a_job.processing(life) for _ in range(4)]
    for job in reversed(jobs):
        life.expire(job)
    rescued = [job for job, _ in life.do(lifecycle.rescue, life.settings, limit=3)]
    assert rescued == [jobs[3], jobs[2], jobs[1]]
    assert [job for job, _ in life.do(lifecycle.rescue, life.settings, limit=3)] == [jobs[0]]


def test_two_dispatchers_at_once_rescue_a_job_once(life: Life) -> None:
    jobs = [a_job.expired(life) for _ in range(12)]
    answers = at_once(life.engine, [partial(lifecycle.rescue, settings=life.settings, limit=8)] * 4)
    rescued = [job for answer in answers for job, _ in answer]
    rescued += [job for job, _ in life.do(lifecycle.rescue, life.settings)]
    assert sorted(rescued) == sorted(jobs)
    assert all(life.events(job)[-1] == ("rescued", 1) and len(life.events(job)) == 3 for job in jobs)


def test_a_second_rescuer_passes_by_what_the_first_one_holds_without_waiting(life: Life) -> None:
    job = a_job.expired(life)
    rescue = partial(lifecycle.rescue, settings=life.settings)
    assert overlap(life.engine, rescue, rescue, may_wait=False) == ([(job, "created")], [])


def test_an_attempt_that_was_late_but_not_yet_rescued_keeps_its_result(life: Life) -> None:
    job = a_job.expired(life)
    life.do(lifecycle.complete, job, 1, RESULT)
    assert life.do(lifecycle.rescue, life.settings) == []
    assert life.row(job)["status"] == "completed"


def test_rescuing_rings_the_bell(life: Life) -> None:
    a_job.expired(life)
    bell = Doorbell(life.settings)
    bell.listen()
    life.do(lifecycle.rescue, life.settings)
    assert bell.wait(60)
    bell.close()
