"""What an owner asks for: create, cancel, retry and delete, against every state, other owners, and one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from common import lifecycle
from common.contract import MODEL, FillRequest, Queue
from common.database import Doorbell
from common.errors import LeaseLost
from common.lifecycle import Release
from tests.support import life as a_job
from tests.support.interleaving import at_once, is_free_while_waiting, overlap
from tests.support.life import BROKEN, DRAIN, REQUEST, RESULT, Life

State = Callable[[Life], UUID]


@pytest.fixture
def bell(life: Life) -> Iterator[Doorbell]:
    doorbell = Doorbell(life.settings)
    doorbell.listen()
    yield doorbell
    doorbell.close()


# --- create


def test_a_new_job_waits_with_its_request_and_an_event(life: Life) -> None:
    request = FillRequest.model_validate(
        {"image": "https://e.com/ä.png", "seed": 9_999_999_999, "loras": ({"path": "a/b", "scale": 0.5},)},
        strict=False,
    )
    job = life.do(lifecycle.create, life.owner, request, queue=Queue.INTERACTIVE, model=MODEL)
    row = life.row(job)
    assert (row["status"], row["attempt"], row["failures"], row["queue"]) == ("created", 0, 0, "interactive")
    assert (row["publish_seq"], row["publish_no"], row["model"]) == (None, 0, MODEL)
    assert life.pause(job) == 0
    assert life.events(job) == [("created", 0)]
    claim = life.claim(job)
    assert claim is not None
    assert claim.request == request


def test_creating_rings_the_dispatchers_bell_at_commit_and_not_before(life: Life, bell: Doorbell) -> None:
    with life.engine.begin() as connection:
        lifecycle.create(connection, life.owner, REQUEST, queue=Queue.BULK, model=MODEL)
        assert not bell.wait(0.2)
    assert bell.wait(60)


def test_a_job_without_a_drawn_seed_is_refused(life: Life) -> None:
    with pytest.raises(ValueError, match="with_seed"):
        life.do(lifecycle.create, life.owner, FillRequest(image="https://e.com/a.png"), queue=Queue.BULK, model=MODEL)


def test_a_job_of_nobody_is_refused(life: Life) -> None:
    with pytest.raises(IntegrityError):
        life.create(uuid4())


# --- cancel


@pytest.mark.parametrize("state", [a_job.created, a_job.published, a_job.backing_off])
def test_cancelling_what_waits_ends_it_at_once(life: Life, state: State) -> None:
    job = state(life)
    attempt = life.row(job)["attempt"]
    assert life.do(lifecycle.cancel, life.owner, [job]) == [job]
    row = life.row(job)
    assert (row["status"], row["error_code"], row["error"]) == ("failed", "cancelled", "cancelled")
    assert (row["publish_seq"], row["attempt"]) == (None, attempt)
    assert row["ended_at"] is not None
    assert life.last_event(job) == ("failed", attempt, {"code": "cancelled"})
    assert life.claim(job) is None, "the message that is still out finds nothing to do"
    assert life.publish() == []


@pytest.mark.parametrize("state", [a_job.processing, a_job.expired])
def test_cancelling_what_runs_marks_it_and_leaves_the_end_to_its_worker(life: Life, state: State) -> None:
    job = state(life)
    assert life.do(lifecycle.cancel, life.owner, [job]) == [job]
    row = life.row(job)
    assert (row["status"], row["attempt"]) == ("processing", 1)
    assert row["cancel_requested_at"] is not None
    assert life.events(job)[-1] == ("cancel_requested", 1)


def test_cancelling_twice_says_so_once_and_still_names_the_job(life: Life) -> None:
    job = a_job.marked(life)
    before = life.picture(job)
    assert life.do(lifecycle.cancel, life.owner, [job]) == [job]
    assert life.picture(job) == before


@pytest.mark.parametrize(
    "state", [a_job.completed, a_job.failed, a_job.cancelled, a_job.deleted, a_job.deleted_while_running]
)
def test_cancelling_what_is_over_or_gone_changes_nothing(life: Life, state: State) -> None:
    job = state(life)
    before = life.picture(job)
    assert life.do(lifecycle.cancel, life.owner, [job]) == []
    assert life.picture(job) == before


def test_cancelling_many_touches_each_according_to_its_state(life: Life) -> None:
    waiting, running, over, other = (
        a_job.created(life), a_job.processing(life), a_job.completed(life), life.create(life.new_owner())
    )  # fmt: skip
    cancelled = life.do(lifecycle.cancel, life.owner, [running, waiting, over, other, uuid4(), waiting])
    assert sorted(cancelled) == sorted([waiting, running])
    assert life.row(other)["status"] == "created"
    assert life.events(waiting) == [("created", 0), ("failed", 0)]


def test_one_cancel_may_name_more_jobs_than_a_statement_has_parameters(life: Life) -> None:
    job = life.create()
    assert life.do(lifecycle.cancel, life.owner, [*(uuid4() for _ in range(70_000)), job]) == [job]
    assert life.do(lifecycle.cancel, life.owner, []) == []


@pytest.mark.parametrize("giver", ["its worker", "the dispatcher"])
def test_a_cancel_never_slips_past_a_job_that_is_being_given_back(life: Life, giver: str) -> None:
    job = a_job.expired(life)

    def give_back(connection: Connection) -> None:
        if giver == "its worker":
            lifecycle.release(connection, job, 1, DRAIN, life.settings)
        else:
            lifecycle.rescue(connection, life.settings)

    _, cancelled = overlap(life.engine, give_back, lambda c: lifecycle.cancel(c, life.owner, [job]))
    assert cancelled == [job]
    assert (life.row(job)["status"], life.row(job)["error"]) == ("failed", "cancelled")


def test_a_cancel_during_a_claim_marks_the_job_and_a_claim_during_a_cancel_gets_nothing(life: Life) -> None:
    claimed_first, cancelled_first = a_job.published(life), a_job.published(life)
    claim, cancelled = overlap(
        life.engine,
        lambda c: lifecycle.claim(c, claimed_first, worker="w", lease_seconds=60),
        lambda c: lifecycle.cancel(c, life.owner, [claimed_first]),
    )
    assert claim is not None
    assert cancelled == [claimed_first]
    assert life.events(claimed_first) == [("created", 0), ("claimed", 1), ("cancel_requested", 1)]
    cancelled, claim = overlap(
        life.engine,
        lambda c: lifecycle.cancel(c, life.owner, [cancelled_first]),
        lambda c: lifecycle.claim(c, cancelled_first, worker="w", lease_seconds=60),
    )
    assert (cancelled, claim) == ([cancelled_first], None)
    assert life.events(cancelled_first) == [("created", 0), ("failed", 0)]


def test_a_cancel_that_comes_while_a_job_ends_is_too_late(life: Life) -> None:
    done, broken = a_job.processing(life), a_job.processing(life)
    cancel = partial(lifecycle.cancel, owner=life.owner)
    _, late = overlap(life.engine, lambda c: lifecycle.complete(c, done, 1, RESULT), lambda c: cancel(c, wanted=[done]))
    assert (late, life.row(done)["status"]) == ([], "completed")
    _, late = overlap(life.engine, lambda c: lifecycle.fail(c, broken, 1, BROKEN), lambda c: cancel(c, wanted=[broken]))
    assert (late, life.row(broken)["error_code"]) == ([], BROKEN.code)


def test_eight_cancels_at_once_end_a_waiting_job_once(life: Life) -> None:
    job = life.create()
    answers = at_once(life.engine, [lambda c: lifecycle.cancel(c, life.owner, [job])] * 8)
    assert sorted(map(len, answers)) == [0] * 7 + [1]
    assert life.events(job) == [("created", 0), ("failed", 0)]


# --- retry


@pytest.mark.parametrize("state", [a_job.failed, a_job.cancelled])
def test_retrying_a_failed_job_gives_it_a_fresh_life_under_its_old_attempt(life: Life, state: State) -> None:
    job = state(life)
    attempt = life.row(job)["attempt"]
    assert life.do(lifecycle.retry, life.owner, [job]) == [job]
    row = life.row(job)
    assert (row["status"], row["attempt"], row["failures"], row["pins"]) == ("created", attempt, 0, {})
    for column in ("error", "error_code", "ended_at", "cancel_requested_at", "result", "publish_seq", "lease_until"):
        assert row[column] is None, column
    assert life.events(job)[-1] == ("retried", attempt)
    assert [message.job for message in life.publish()] == [job]
    assert life.take(job) == attempt + 1


@pytest.mark.parametrize(
    "state",
    [
        a_job.created, a_job.published, a_job.backing_off, a_job.processing, a_job.marked, a_job.completed,
        a_job.deleted, a_job.deleted_while_running,
    ],
)  # fmt: skip
def test_only_failed_jobs_can_be_retried(life: Life, state: State) -> None:
    job = state(life)
    before = life.picture(job)
    assert life.do(lifecycle.retry, life.owner, [job]) == []
    assert life.picture(job) == before


def test_a_failed_job_that_was_deleted_cannot_be_retried(life: Life) -> None:
    job = a_job.failed(life)
    life.do(lifecycle.delete, life.owner, [job])
    assert life.do(lifecycle.retry, life.owner, [job]) == []


def test_a_retry_forgets_the_failures_so_the_job_has_all_its_tries_again(life: Life) -> None:
    job = a_job.created(life)
    why = Release("fetch_timeout", "late", counts=True, delay_seconds=0)
    for _ in range(2):
        for expected in ["created"] * (life.settings.max_failures - 1) + ["failed"]:
            attempt = life.take(job)
            assert life.do(lifecycle.release, job, attempt, why, life.settings) == expected
        life.do(lifecycle.retry, life.owner, [job])
    assert life.row(job)["attempt"] == 2 * life.settings.max_failures


def test_the_attempt_before_a_retry_can_write_nothing_after_it(life: Life) -> None:
    job = a_job.processing(life)
    life.do(lifecycle.fail, job, 1, BROKEN)
    life.do(lifecycle.retry, life.owner, [job])
    for _ in ("while it waits", "while the next attempt runs"):
        before = life.picture(job)
        with pytest.raises(LeaseLost):
            life.do(lifecycle.complete, job, 1, RESULT)
        assert life.do(lifecycle.renew, [(job, 1, True)], lease_seconds=60) == []
        assert life.picture(job) == before
        life.claim(job)


def test_retrying_rings_the_bell_and_retrying_nothing_does_not(life: Life, bell: Doorbell) -> None:
    job = a_job.cancelled(life)
    bell.close()
    bell.listen()  # anew, so that what rang until now, and may not have come yet, is not heard
    life.do(lifecycle.retry, life.owner, [uuid4()])
    assert not bell.wait(0.2)
    life.do(lifecycle.retry, life.owner, [job])
    assert bell.wait(60)


def test_eight_retries_at_once_are_one(life: Life) -> None:
    job = a_job.failed(life)
    answers = at_once(life.engine, [lambda c: lifecycle.retry(c, life.owner, [job])] * 8)
    assert sorted(map(len, answers)) == [0] * 7 + [1]
    assert life.events(job).count(("retried", 1)) == 1


# --- delete


@pytest.mark.parametrize("state", [a_job.created, a_job.published, a_job.backing_off])
def test_deleting_what_waits_cancels_and_hides_it(life: Life, state: State) -> None:
    job = state(life)
    assert life.do(lifecycle.delete, life.owner, [job]) == [job]
    row = life.row(job)
    assert (row["status"], row["error"]) == ("failed", "cancelled")
    assert row["deleted_at"] is not None
    assert [event for event, _ in life.events(job)[-2:]] == ["failed", "deleted"]


def test_deleting_what_runs_hides_it_and_its_worker_gives_it_up(life: Life) -> None:
    job = a_job.processing(life)
    assert life.do(lifecycle.delete, life.owner, [job]) == [job]
    assert life.row(job)["deleted_at"] is not None
    (renewal,) = life.do(lifecycle.renew, [(job, 1, False)], lease_seconds=60)
    assert renewal.cancel_requested
    assert life.do(lifecycle.release, job, 1, DRAIN, life.settings) == "failed"
    assert [event for event, _ in life.events(job)] == ["created", "claimed", "cancel_requested", "deleted", "failed"]


@pytest.mark.parametrize("state", [a_job.completed, a_job.failed, a_job.cancelled])
def test_deleting_what_is_over_hides_it_and_keeps_its_end(life: Life, state: State) -> None:
    job = state(life)
    before = life.row(job)
    assert life.do(lifecycle.delete, life.owner, [job]) == [job]
    after = life.row(job)
    assert after["deleted_at"] is not None
    assert {**after, "deleted_at": None} == dict(before)


def test_what_is_deleted_cannot_be_deleted_again(life: Life) -> None:
    job = a_job.deleted(life)
    before = life.picture(job)
    assert life.do(lifecycle.delete, life.owner, [job, uuid4()]) == []
    assert life.picture(job) == before


def test_eight_deletes_at_once_are_one(life: Life) -> None:
    job = life.create()
    answers = at_once(life.engine, [lambda c: lifecycle.delete(c, life.owner, [job])] * 8)
    assert sorted(map(len, answers)) == [0] * 7 + [1]
    assert life.events(job) == [("created", 0), ("failed", 0), ("deleted", 0)]


@pytest.mark.parametrize("comes_back", ["retry", "release"])
def test_a_delete_still_ends_a_job_that_is_just_coming_back(life: Life, comes_back: str) -> None:
    job = a_job.failed(life) if comes_back == "retry" else a_job.processing(life)

    def come_back(connection: Connection) -> None:
        if comes_back == "retry":
            lifecycle.retry(connection, life.owner, [job])
        else:
            lifecycle.release(connection, job, 1, DRAIN, life.settings)

    _, gone = overlap(life.engine, come_back, lambda c: lifecycle.delete(c, life.owner, [job]))
    assert gone == [job]
    assert (life.row(job)["status"], life.row(job)["error"]) == ("failed", "cancelled")
    assert life.claim(job) is None


def test_a_retry_during_a_delete_comes_too_late(life: Life) -> None:
    job = a_job.failed(life)
    _, retried = overlap(
        life.engine,
        lambda c: lifecycle.delete(c, life.owner, [job]),
        lambda c: lifecycle.retry(c, life.owner, [job]),
    )
    assert (retried, life.row(job)["status"]) == ([], "failed")


# --- whose jobs, and in which order


@pytest.mark.parametrize("wish", [lifecycle.cancel, lifecycle.retry, lifecycle.delete])
@pytest.mark.parametrize("state", [a_job.created, a_job.processing, a_job.completed, a_job.failed])
def test_nobody_can_touch_another_owners_job(life: Life, wish: Callable[..., list[UUID]], state: State) -> None:
    job = state(life)
    before = life.picture(job)
    assert life.do(wish, life.new_owner(), [job]) == []
    assert life.picture(job) == before


@pytest.mark.parametrize("wish", [lifecycle.cancel, lifecycle.delete, lifecycle.retry])
def test_many_jobs_are_locked_in_the_order_of_their_ids(life: Life, wish: Callable[..., list[UUID]]) -> None:
    """Else two wishes for the same jobs in another order would each wait for the other."""
    low, high = sorted([life.create(), life.create()])
    if wish is lifecycle.retry:
        life.do(lifecycle.cancel, life.owner, [high])
        life.do(lifecycle.cancel, life.owner, [low])
    else:
        life.publish(room=1)  # moves the older row behind the other one in the table
    free, answer = is_free_while_waiting(life.engine, low, high, lambda c: wish(c, life.owner, [high, low]))
    assert (free, answer) == (True, [low, high])
