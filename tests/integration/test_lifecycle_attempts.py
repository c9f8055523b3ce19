"""What a worker does with its attempt, against every state, every wrong attempt, and somebody else at the same time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Protocol
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection

from common import lifecycle
from common.database import Doorbell
from common.errors import LeaseLost, Rejected
from common.lifecycle import Release
from common.settings import Settings
from tests.support import life as a_job
from tests.support.interleaving import at_once, is_free_while_waiting, overlap
from tests.support.life import BROKEN, DRAIN, RESULT, TROUBLE, Life

State = Callable[[Life], UUID]


class Write(Protocol):
    """Something that only the running attempt may write."""

    def __call__(self, connection: Connection, job: UUID, attempt: int, settings: Settings) -> object: ...


WRITES: dict[str, Write] = {
    "complete": lambda connection, job, attempt, settings: lifecycle.complete(connection, job, attempt, RESULT),
    "fail": lambda connection, job, attempt, settings: lifecycle.fail(connection, job, attempt, BROKEN),
    "release": lambda connection, job, attempt, settings: lifecycle.release(connection, job, attempt, DRAIN, settings),
    "counted release": lambda connection, job, attempt, settings: lifecycle.release(
        connection, job, attempt, TROUBLE, settings
    ),
    "pin": lambda connection, job, attempt, settings: lifecycle.pin(connection, job, attempt, {"image": "00"}),
}
ENDS = [name for name in WRITES if name != "pin"]
"""The writes after which the attempt is over."""


# --- claim


@pytest.mark.parametrize("state", [a_job.created, a_job.published])
def test_a_claim_gives_the_job_to_one_worker_for_the_length_of_a_lease(life: Life, state: State) -> None:
    job = state(life)
    claim = life.claim(job, worker="w7", lease_seconds=30)
    assert claim is not None
    assert (claim.job, claim.owner, claim.attempt, claim.request) == (job, life.owner, 1, a_job.REQUEST)
    assert claim.pins == {}
    row = life.row(job)
    assert (row["status"], row["attempt"], row["worker_id"], row["on_device"]) == ("processing", 1, "w7", False)
    assert row["lease_until"] - row["started_at"] == timedelta(seconds=30)
    assert claim.started_at == row["started_at"] >= claim.created_at
    assert life.last_event(job) == ("claimed", 1, {"worker": "w7"})


@pytest.mark.parametrize(
    "state",
    [
        a_job.backing_off, a_job.processing, a_job.marked, a_job.expired, a_job.completed, a_job.failed,
        a_job.cancelled, a_job.deleted, a_job.deleted_while_running,
    ],
)  # fmt: skip
def test_a_job_that_does_not_wait_or_is_not_due_cannot_be_claimed(life: Life, state: State) -> None:
    job = state(life)
    before = life.picture(job)
    assert life.claim(job) is None
    assert life.picture(job) == before


def test_a_message_that_names_no_job_claims_nothing(life: Life) -> None:
    assert life.claim(uuid4()) is None


def test_a_job_can_be_claimed_when_its_backoff_is_over(life: Life) -> None:
    job = a_job.backing_off(life)
    life.make_due(job)
    assert life.take(job) == 2


def test_eight_deliveries_of_one_message_are_one_claim(life: Life) -> None:
    job = a_job.published(life)
    claims = at_once(life.engine, [partial(lifecycle.claim, job=job, worker="w", lease_seconds=60)] * 8)
    assert len([claim for claim in claims if claim is not None]) == 1
    assert life.events(job) == [("created", 0), ("claimed", 1)]


def test_a_claim_that_is_rolled_back_leaves_the_job_to_the_next(life: Life) -> None:
    job = a_job.published(life)
    before = life.picture(job)
    with life.engine.connect() as connection:
        connection.begin()
        assert lifecycle.claim(connection, job, worker="w1", lease_seconds=60)
        connection.rollback()
    assert life.picture(job) == before
    assert life.take(job) == 1


# --- renew


def test_renewing_lengthens_each_lease_and_says_what_is_on_the_device(life: Life) -> None:
    first, second = a_job.processing(life), a_job.processing(life)
    renewals = life.do(lifecycle.renew, [(first, 1, True), (second, 1, False)], lease_seconds=900)
    assert sorted((r.job, r.attempt, r.cancel_requested) for r in renewals) == [(first, 1, False), (second, 1, False)]
    assert [life.row(job)["on_device"] for job in (first, second)] == [True, False]
    assert all(life.age(job, "lease_until") < -800 for job in (first, second))
    life.do(lifecycle.renew, [(first, 1, False)], lease_seconds=900)
    assert not life.row(first)["on_device"]


def test_renewing_tells_a_worker_that_its_job_was_cancelled(life: Life) -> None:
    job = a_job.marked(life)
    (renewal,) = life.do(lifecycle.renew, [(job, 1, True)], lease_seconds=60)
    assert renewal.cancel_requested


@pytest.mark.parametrize(
    "state",
    [a_job.created, a_job.published, a_job.backing_off, a_job.completed, a_job.failed, a_job.cancelled, a_job.deleted],
)
def test_a_lease_on_what_does_not_run_is_missing_from_the_answer(life: Life, state: State) -> None:
    job = state(life)
    alive = a_job.processing(life)
    before = life.picture(job)
    attempt = before[0]["attempt"]
    renewals = life.do(lifecycle.renew, [(job, attempt, True), (alive, 1, False), (uuid4(), 1, True)], lease_seconds=9)
    assert [renewal.job for renewal in renewals] == [alive]
    assert life.picture(job) == before


@pytest.mark.parametrize("attempt", [0, 2])
def test_a_lease_of_another_attempt_is_missing_from_the_answer(life: Life, attempt: int) -> None:
    job = a_job.processing(life)
    before = life.picture(job)
    assert life.do(lifecycle.renew, [(job, attempt, True)], lease_seconds=900) == []
    assert life.picture(job) == before


def test_an_old_attempt_on_the_device_does_not_put_the_new_one_there(life: Life) -> None:
    """One worker can hold both: the lost one, still computing, and the one that it claimed afterwards."""
    job = a_job.expired(life)
    life.do(lifecycle.rescue, life.settings)
    assert life.take(job) == 2
    renewals = life.do(lifecycle.renew, [(job, 1, True), (job, 2, False)], lease_seconds=60)
    assert [(renewal.job, renewal.attempt) for renewal in renewals] == [(job, 2)]
    assert not life.row(job)["on_device"]


def test_holding_nothing_renews_nothing(life: Life) -> None:
    assert life.do(lifecycle.renew, [], lease_seconds=60) == []


def test_an_expired_lease_that_nobody_rescued_can_still_be_renewed(life: Life) -> None:
    job = a_job.expired(life)
    assert len(life.do(lifecycle.renew, [(job, 1, False)], lease_seconds=60)) == 1
    assert life.do(lifecycle.rescue, life.settings) == []


def test_leases_are_renewed_in_the_order_of_the_ids(life: Life) -> None:
    low, high = sorted([a_job.processing(life), a_job.processing(life)])
    life.do(lifecycle.renew, [(low, 1, False)], lease_seconds=60)  # moves its row behind the other one in the table
    free, renewals = is_free_while_waiting(
        life.engine,
        low,
        high,
        lambda c: lifecycle.renew(c, [(high, 1, False), (low, 1, False)], lease_seconds=60),
    )
    assert (free, len(renewals)) == (True, 2)


# --- the fence: nothing is written for another state or another attempt


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(
    "state",
    [
        a_job.created, a_job.published, a_job.backing_off, a_job.completed, a_job.failed, a_job.cancelled,
        a_job.deleted,
    ],
)  # fmt: skip
def test_nothing_can_be_written_for_a_job_that_does_not_run(life: Life, state: State, write: str) -> None:
    job = state(life)
    before = life.picture(job)
    with pytest.raises(LeaseLost):
        life.do(WRITES[write], job, before[0]["attempt"], life.settings)
    assert life.picture(job) == before


@pytest.mark.parametrize("write", WRITES)
def test_nothing_can_be_written_by_an_attempt_that_is_not_the_jobs(life: Life, write: str) -> None:
    job = a_job.expired(life)
    life.do(lifecycle.rescue, life.settings)
    assert life.take(job) == 2
    before = life.picture(job)
    for attempt in (0, 1, 3):
        with pytest.raises(LeaseLost):
            life.do(WRITES[write], job, attempt, life.settings)
    with pytest.raises(LeaseLost):
        life.do(WRITES[write], uuid4(), 2, life.settings)
    assert life.picture(job) == before


# --- pin, complete, fail


def test_pins_add_up_and_reach_the_next_attempt(life: Life) -> None:
    job = a_job.processing(life)
    life.do(lifecycle.pin, job, 1, {"image": "aa"})
    life.do(lifecycle.pin, job, 1, {"mask_image": "bb"})
    life.do(lifecycle.release, job, 1, DRAIN, life.settings)
    claim = life.claim(job)
    assert claim is not None
    assert claim.pins == {"image": "aa", "mask_image": "bb"}


@pytest.mark.parametrize("state", [a_job.processing, a_job.expired, a_job.marked, a_job.deleted_while_running])
def test_a_running_job_can_be_completed_even_when_late_or_unwanted(life: Life, state: State) -> None:
    job = state(life)
    life.do(lifecycle.renew, [(job, 1, True)], lease_seconds=60)
    life.do(lifecycle.complete, job, 1, RESULT)
    row = life.row(job)
    assert (row["status"], row["result"], row["error"]) == ("completed", RESULT, None)
    assert (row["lease_until"], row["on_device"], row["publish_seq"], row["worker_id"]) == (None, False, None, "w1")
    assert abs(life.age(job, "ended_at")) < 60
    assert life.last_event(job) == ("completed", 1, {})


def test_a_job_fails_with_code_and_message_and_without_a_counted_failure(life: Life) -> None:
    job = a_job.processing(life)
    life.do(lifecycle.fail, job, 1, BROKEN)
    row = life.row(job)
    assert (row["status"], row["error_code"], row["error"]) == ("failed", BROKEN.code, BROKEN.message)
    assert (row["failures"], row["lease_until"], row["result"], row["publish_seq"]) == (0, None, None, None)
    assert life.last_event(job) == ("failed", 1, {"code": BROKEN.code})


@pytest.mark.parametrize(
    ("message", "stored"),
    [
        ("", ""),
        ("key 'a\x00b' is unknown", "key 'a\ufffdb' is unknown"),
        ("half \ud83d of a pair", "half ? of a pair"),
        ("x" * 3000, "x" * 1999 + "…"),
        ("Größe 🦊", "Größe 🦊"),
    ],
)
def test_no_message_of_a_strangers_file_keeps_a_job_from_ending(life: Life, message: str, stored: str) -> None:
    failed, given_up = a_job.processing(life), a_job.processing(life)
    life.do(lifecycle.fail, failed, 1, Rejected("lora_unreadable", message))
    assert life.row(failed)["error"] == stored
    once = life.settings.model_copy(update={"max_failures": 1})
    life.do(lifecycle.release, given_up, 1, Release("fetch_failed", message, counts=True), once)
    assert life.row(given_up)["error"] == f"{stored} (tried once)"


# --- release


def test_a_free_release_puts_the_job_back_at_once_and_counts_nothing(life: Life) -> None:
    job = a_job.processing(life)
    life.do(lifecycle.renew, [(job, 1, True)], lease_seconds=60)
    assert life.do(lifecycle.release, job, 1, DRAIN, life.settings) == "created"
    row = life.row(job)
    assert (row["status"], row["attempt"], row["failures"]) == ("created", 1, 0)
    assert (row["worker_id"], row["lease_until"], row["on_device"], row["publish_seq"]) == (None, None, False, None)
    assert life.pause(job) == 0
    assert life.last_event(job) == ("released", 1, {"code": "draining", "counts": False})
    assert [message.job for message in life.publish()] == [job]


def test_a_hundred_free_releases_never_fail_a_job(life: Life) -> None:
    job = a_job.created(life)
    for _ in range(100):
        assert life.do(lifecycle.release, job, life.take(job), DRAIN, life.settings) == "created"
    assert (life.row(job)["attempt"], life.row(job)["failures"]) == (100, 0)


def test_a_counted_release_waits_twice_as_long_each_time_up_to_a_bound_and_with_jitter(life: Life) -> None:
    settings = life.settings.model_copy(
        update={"max_failures": 20, "backoff_seconds": 10.0, "backoff_max_seconds": 60.0}
    )
    waits: dict[int, list[float]] = {}
    for _ in range(6):
        job = life.create()
        for failures in range(1, 6):
            life.make_due(job)
            assert life.do(lifecycle.release, job, life.take(job), TROUBLE, settings) == "created"
            assert life.row(job)["failures"] == failures
            waits.setdefault(failures, []).append(life.pause(job))
    for failures, pause in ((1, 10), (2, 20), (3, 40), (4, 60), (5, 60)):
        assert all(pause * 0.5 <= wait <= pause * 1.5 for wait in waits[failures]), (pause, waits[failures])
        assert max(waits[failures]) - min(waits[failures]) > pause * 0.01


@pytest.mark.parametrize("counts", [True, False])
def test_a_release_may_say_itself_how_long_to_wait(life: Life, counts: bool) -> None:
    job = a_job.processing(life)
    why = Release("s3_unavailable", "the bucket does not answer", counts=counts, delay_seconds=500)
    life.do(lifecycle.release, job, 1, why, life.settings)
    assert life.pause(job) == 500
    assert life.row(job)["failures"] == int(counts)
    assert life.claim(job) is None
    assert life.publish() == []


@pytest.mark.parametrize(("max_failures", "tried"), [(1, "once"), (2, "2 times"), (3, "3 times")])
def test_the_last_counted_release_fails_the_job_with_the_reason_and_the_tries(
    life: Life, max_failures: int, tried: str
) -> None:
    settings = life.settings.model_copy(update={"max_failures": max_failures})
    job = a_job.created(life)
    for failures in range(1, max_failures + 1):
        life.make_due(job)
        status = life.do(lifecycle.release, job, life.take(job), TROUBLE, settings)
        assert status == ("failed" if failures == max_failures else "created")
    row = life.row(job)
    assert (row["error_code"], row["error"]) == ("fetch_timeout", f"image: did not arrive in time (tried {tried})")
    assert (row["failures"], row["lease_until"], row["on_device"]) == (max_failures, None, False)
    detail = {"code": "fetch_timeout", "failures": max_failures}
    assert life.last_event(job) == ("failed", max_failures, detail)


@pytest.mark.parametrize("why", [DRAIN, TROUBLE])
def test_releasing_a_cancelled_job_ends_it_as_cancelled(life: Life, why: Release) -> None:
    job = a_job.marked(life)
    assert life.do(lifecycle.release, job, 1, why, life.settings) == "failed"
    row = life.row(job)
    assert (row["error_code"], row["error"], row["failures"]) == ("cancelled", "cancelled", 0)
    assert life.last_event(job) == ("failed", 1, {"code": "cancelled"})


def test_releasing_rings_the_dispatchers_bell(life: Life) -> None:
    job = a_job.processing(life)
    bell = Doorbell(life.settings)
    bell.listen()
    life.do(lifecycle.release, job, 1, DRAIN, life.settings)
    assert bell.wait(60)
    bell.close()


# --- two at once


@pytest.mark.parametrize("second", ENDS)
@pytest.mark.parametrize("first", [*ENDS, "rescue"])
def test_of_two_ends_at_once_the_first_stands_and_the_second_has_lost_its_lease(
    life: Life, first: str, second: str
) -> None:
    job = a_job.expired(life)

    def end_first(connection: Connection) -> object:
        if first == "rescue":
            return lifecycle.rescue(connection, life.settings)
        return WRITES[first](connection, job, 1, life.settings)

    _, lost = overlap(life.engine, end_first, lambda c: WRITES[second](c, job, 1, life.settings))
    assert lost is LeaseLost
    assert len(life.events(job)) == 3


@pytest.mark.parametrize("first", ENDS)
def test_a_rescue_passes_by_a_job_that_is_just_being_ended(life: Life, first: str) -> None:
    job = a_job.expired(life)
    _, rescued = overlap(
        life.engine,
        lambda c: WRITES[first](c, job, 1, life.settings),
        lambda c: lifecycle.rescue(c, life.settings),
        may_wait=False,
    )
    assert rescued == []
    assert len(life.events(job)) == 3


def test_a_renewal_and_a_rescue_at_once_never_both_win(life: Life) -> None:
    renewed, rescued = a_job.expired(life), a_job.processing(life)
    answer, passed_by = overlap(
        life.engine,
        lambda c: lifecycle.renew(c, [(renewed, 1, True)], lease_seconds=60),
        lambda c: lifecycle.rescue(c, life.settings),
    )
    assert (len(answer), passed_by) == (1, [])
    life.expire(rescued)
    taken, answer = overlap(
        life.engine,
        lambda c: lifecycle.rescue(c, life.settings),
        lambda c: lifecycle.renew(c, [(rescued, 1, True)], lease_seconds=60),
    )
    assert (taken, answer) == ([(rescued, "created")], [])
    assert not life.row(rescued)["on_device"]


def test_a_cancel_that_comes_first_is_seen_by_the_release_that_waited_for_it(life: Life) -> None:
    job = a_job.processing(life)
    _, status = overlap(
        life.engine,
        lambda c: lifecycle.cancel(c, life.owner, [job]),
        lambda c: lifecycle.release(c, job, 1, DRAIN, life.settings),
    )
    assert status == "failed"
    assert life.row(job)["error"] == "cancelled"


def test_a_claim_waits_for_a_release_and_then_gets_the_next_attempt(life: Life) -> None:
    """A second delivery of the message can arrive at the very moment at which the first one's worker drains."""
    job = a_job.processing(life)
    _, claim = overlap(
        life.engine,
        lambda c: lifecycle.release(c, job, 1, DRAIN, life.settings),
        lambda c: lifecycle.claim(c, job, worker="w2", lease_seconds=60),
    )
    # It saw the job as running and looks no further, or it saw the release: never the old attempt again.
    assert claim is None or claim.attempt == 2
    assert life.row(job)["attempt"] == (1 if claim is None else 2)


@pytest.mark.parametrize("again", range(5))
def test_of_many_ends_at_once_exactly_one_is_written(life: Life, again: int) -> None:
    job = a_job.expired(life)
    ends = [partial(WRITES[name], job=job, attempt=1, settings=life.settings) for name in [*ENDS, *ENDS[:3]]]
    *written, rescued = at_once(life.engine, [*ends, partial(lifecycle.rescue, settings=life.settings)])
    assert len(written) - written.count(LeaseLost) + len(rescued) == 1
    assert len(life.events(job)) == 3
