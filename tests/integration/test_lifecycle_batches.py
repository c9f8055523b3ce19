"""Batches: rows in and out byte for byte, every change of state against every other, ends, counts, hosts at rest."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from common import lifecycle
from common.contract import Queue
from common.database import Doorbell, transaction
from common.errors import Rejected, Unavailable
from common.lifecycle import AdapterPin, Counts, NewBatch, Reject, Release
from common.tables import batch_rejects
from tests.support.history import told_by
from tests.support.interleaving import at_once, overlap
from tests.support.life import BROKEN, DRAIN, REQUEST, RESULT, TROUBLE, Life, new_row, outcome, publishing

Wish = Callable[[Connection, UUID, UUID], object]
HOST = "slow.example.com"
HOSTILE = [
    "tab\there",
    "line\nfeed",
    "carriage\r\nreturn",
    "back\\slash",
    "\\N",
    "\\.",
    "\\\\N\\n",
    "a\\",
    "\"double\" and 'single'",
    "Größe 🦊 日本語 \u2028 \u0085 \ufeff",
    "\x01\x08\x0b\x0c\x1b\x7f",
    "{}",
    " spaces ",
    "$1 %s {0} :name",
    "\\u0041 \\x41 \\101",
]


# --- rows come in


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_a_row_says_comes_back_byte_for_byte(life: Life, hostile: str) -> None:
    request = REQUEST.model_copy(update={"prompt": hostile, "image": f"https://e.com/{hostile}/a"})
    extra = {hostile: hostile, "nested": {"list": [hostile, 1, 2.5, None, True]}}
    plain = new_row(2, custom_id="plain", request=request)
    batch = life.open([new_row(1, custom_id=hostile, request=request, host=hostile, extra=extra), plain])
    row, after = (life.row(job) for job in life.rows_of(batch))
    assert (row["custom_id"], row["source_host"], row["extra"]) == (hostile, hostile, extra)
    assert (row["row_no"], row["row_hash"], row["batch_id"]) == (1, (1).to_bytes(16, "big"), batch)
    assert (row["status"], row["queue"], row["attempt"], row["publish_no"]) == ("created", "bulk", 0, 0)
    assert (after["custom_id"], after["extra"], after["source_host"]) == ("plain", None, "")
    claim = life.claim(row["id"])
    assert claim is not None
    assert (claim.request, claim.batch, claim.owner) == (request, batch, life.owner)
    with life.engine.begin() as connection:
        assert lifecycle.find_rows(connection, batch, [], [hostile])[1].keys() == {hostile}


@pytest.mark.parametrize(
    ("told", "stored"),
    [
        ("a\x00b", "a\ufffdb"),
        ("half \ud83d of a pair", "half ? of a pair"),
        (float("nan"), None),
        ([float("inf"), {"x\x00": "\x00"}], [None, {"x\ufffd": "\ufffd"}]),
        ("\\u0000", "\\u0000"),
    ],
)
def test_no_passed_through_column_keeps_a_row_or_its_chunk_out(life: Life, told: object, stored: object) -> None:
    batch = life.open([new_row(1, extra={"note": told, "other": "Größe\t\\"}), new_row(2)])
    assert [life.row(job)["extra"] for job in life.rows_of(batch)] == [{"note": stored, "other": "Größe\t\\"}, None]


def test_rows_are_in_the_batch_once_by_custom_id_or_by_number(life: Life) -> None:
    batch = life.receive([new_row(1), new_row(2, custom_id="a")])
    for again in (new_row(1), new_row(3, custom_id="a")):
        with pytest.raises(IntegrityError):
            life.add_rows(batch, [new_row(9), again])
    life.add_rows(batch, [new_row(3), new_row(1, custom_id="b"), new_row(4, custom_id="B")])
    other = life.receive([new_row(1), new_row(2, custom_id="a")])
    assert (life.counts(batch).created, life.counts(other).created) == (5, 2)


def test_rows_are_found_by_number_only_where_they_have_no_custom_id(life: Life) -> None:
    batch = life.receive([new_row(1), new_row(2, custom_id="two"), new_row(3, custom_id="3")])
    by_number, by_id = life.do(lifecycle.find_rows, batch, [1, 2, 4], ["3", "1", "none"])
    assert {number: known.number for number, known in by_number.items()} == {1: 1}
    assert {name: (known.number, known.row_hash) for name, known in by_id.items()} == {
        "3": (3, (3).to_bytes(16, "big"))
    }
    assert life.do(lifecycle.find_rows, batch, [], []) == ({}, {})
    assert life.do(lifecycle.find_rows, uuid4(), [1], ["3"]) == ({}, {})


def test_a_chunk_that_fails_leaves_nothing_behind(life: Life) -> None:
    batch = life.receive(2)
    before = life.batch(batch)

    def fail_at_the_end(connection: Connection) -> None:
        lifecycle.lock_batch(connection, life.owner, batch)
        lifecycle.insert_rows(connection, life.owner, batch, [new_row(3)])
        lifecycle.replace_rejects(connection, batch, [Reject(4, None, "line 4", "size", "x", "is no size")], [])
        lifecycle.advance(connection, batch, upto=4, digest="d", more_rejected=1, extra_columns=[])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        life.do(fail_at_the_end)
    assert (life.batch(batch), life.counts(batch).total) == (before, 2)


def test_a_database_that_goes_away_in_the_middle_of_a_chunk_is_unavailable(life: Life) -> None:
    batch = life.receive()

    def lose_the_connection() -> None:
        with transaction(life.engine) as connection:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            with life.engine.begin() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            lifecycle.insert_rows(connection, life.owner, batch, [new_row(1)])

    with pytest.raises(Unavailable):
        lose_the_connection()
    life.add_rows(batch, 1)
    assert life.counts(batch).created == 1


def test_a_cursor_never_goes_back_and_bad_rows_are_counted_once(life: Life) -> None:
    batch = life.receive()

    def judge(connection: Connection, rejects: list[Reject], judged: list[int], upto: int) -> int:
        more = lifecycle.replace_rejects(connection, batch, rejects, judged)
        lifecycle.advance(connection, batch, upto=upto, digest=str(upto), more_rejected=more, extra_columns=["n"])
        return more

    bad = [Reject(number, None, f"line {number}", "size", "\t\\N", "is no size") for number in (1, 2)]
    assert life.do(judge, bad, [], 5) == 2
    assert life.do(judge, bad[1:], [1, 2, 3], 3) == -1
    row = life.batch(batch)
    assert (row["row_cursor"], row["rejected"], row["extra_columns"]) == (5, 1, ["n"])


# --- the states


def in_state(life: Life, state: str) -> UUID:
    """Make a batch of three rows that is in this state; `cancelling` and `cancelled` differ in whether it has ended."""
    if state == "receiving":
        return life.receive(3)
    batch = life.open(3)
    if state == "paused":
        life.do(lifecycle.pause_batch, life.owner, batch)
    elif state in {"cancelling", "cancelled"}:
        life.do(lifecycle.cancel_batch, life.owner, batch)
        if state == "cancelled":
            life.do(lifecycle.end_cancelled_rows)
            life.do(lifecycle.end_batches)
    elif state == "done":
        for job in life.rows_of(batch):
            life.finish(job)
        life.do(lifecycle.end_batches)
    return batch


STATES = ["receiving", "open", "paused", "cancelling", "cancelled", "done"]
AFTER: dict[str, dict[str, str | None]] = {
    "open": {"receiving": "open"},
    "pause": {"open": "paused", "receiving": None, "cancelling": None, "cancelled": None, "done": None},
    "resume": {"paused": "open", "receiving": None, "cancelling": None, "cancelled": None, "done": None},
    "cancel": {"receiving": "cancelling", "open": "cancelling", "paused": "cancelling"},
    "end": {},
}
"""By wish and state: the state afterwards; None where it is refused; the same state where nothing is said."""
WISHES: dict[str, Wish] = {
    "open": lifecycle.open_batch,
    "pause": lifecycle.pause_batch,
    "resume": lifecycle.resume_batch,
    "cancel": lifecycle.cancel_batch,
    "end": lambda connection, owner, batch: lifecycle.end_batches(connection),
}


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("state", STATES)
def test_each_wish_does_to_each_state_what_it_may(life: Life, wish: str, state: str) -> None:
    batch = in_state(life, state)
    before, counts, hooks = life.batch(batch), life.counts(batch), life.webhooks(batch)
    after = AFTER[wish].get(state, state)
    if after is None:
        with pytest.raises(Rejected) as refused:
            life.do(WISHES[wish], life.owner, batch)
        assert refused.value.code == "batch_state"
        assert before["name"] in refused.value.message
    else:
        life.do(WISHES[wish], life.owner, batch)
    ended = (after is None and before["ended_at"] is not None) or after in {"cancelled", "done"}
    assert life.state(batch) == (before["state"] if after is None else after.replace("ling", "led"), ended)
    assert (life.counts(batch), life.webhooks(batch)) == (counts, hooks)
    if after in {state, None}:
        assert life.batch(batch) == before


@pytest.mark.parametrize("wish", [name for name in WISHES if name != "end"])
def test_nobody_can_touch_another_owners_batch(life: Life, wish: str) -> None:
    batch, stranger = in_state(life, "open"), life.new_owner()
    before = life.batch(batch)
    for owner, named in ((stranger, batch), (life.owner, uuid4())):
        with pytest.raises(Rejected, match="no such batch") as refused:
            life.do(WISHES[wish], owner, named)
        assert refused.value.code == "batch_not_found"
    with pytest.raises(Rejected, match="no such batch"):
        life.do(lifecycle.retry_rows, stranger, batch)
    assert life.batch(batch) == before


@pytest.mark.parametrize("state", STATES)
def test_rows_run_only_while_their_batch_is_open(life: Life, state: str) -> None:
    batch = in_state(life, state)
    some = life.rows_of(batch)
    claims = [life.claim(job) for job in some]
    assert [claim is not None for claim in claims] == [state == "open"] * 3
    other = in_state(life, state)
    assert [message.job for message in life.publish()] == (life.rows_of(other) if state == "open" else [])


def test_a_paused_batch_goes_on_where_it_was_and_what_ran_is_finished(life: Life) -> None:
    batch = life.open(3)
    first, second, third = (message.job for message in life.publish())
    attempt = life.take(first)
    life.do(lifecycle.pause_batch, life.owner, batch)
    life.do(lifecycle.complete, first, attempt, RESULT)
    assert life.claim(second) is None
    assert life.do(lifecycle.withdraw_held_rows) == 2
    assert life.counts(batch) == Counts(created=2, completed=1)
    life.do(lifecycle.resume_batch, life.owner, batch)
    assert [message.job for message in life.publish()] == [second, third]
    assert [message.number for message in life.publish()] == []
    assert life.row(second)["publish_no"] == 2


def test_a_paused_batch_of_which_nothing_is_left_ends_when_it_goes_on(life: Life) -> None:
    batch = life.open(1)
    attempt = life.take(life.rows_of(batch)[0])
    life.do(lifecycle.pause_batch, life.owner, batch)
    life.do(lifecycle.complete, life.rows_of(batch)[0], attempt, RESULT)
    assert life.do(lifecycle.end_batches) == []
    life.do(lifecycle.resume_batch, life.owner, batch)
    assert life.do(lifecycle.end_batches) == [batch]
    assert life.state(batch) == ("done", True)


@pytest.mark.parametrize("wish", ["open", "resume", "cancel"])
def test_a_change_that_gives_the_dispatcher_work_rings_its_bell(life: Life, wish: str) -> None:
    batch = in_state(life, {"open": "receiving", "resume": "paused", "cancel": "open"}[wish])
    bell = Doorbell(life.settings)
    bell.listen()
    life.do(WISHES[wish], life.owner, batch)
    assert bell.wait(60)
    bell.close()


# --- strict, discard


def test_of_a_strict_batch_with_bad_rows_nothing_runs_and_only_the_bad_rows_are_kept(life: Life) -> None:
    batch = life.receive([new_row(1), new_row(2, custom_id="a")], strict=True)
    other = life.receive(2, strict=True)

    def reject(connection: Connection) -> None:
        bad = [Reject(3, "c", "line 3", "size", "9*9", "is too small")]
        more = lifecycle.replace_rejects(connection, batch, bad, [])
        lifecycle.advance(connection, batch, upto=3, digest="", more_rejected=more, extra_columns=[])
        lifecycle.pin_adapters(connection, batch, {"a/b": AdapterPin("00")})

    life.do(reject)
    assert life.do(lifecycle.open_batch, life.owner, batch) == "cancelled"
    assert life.do(lifecycle.open_batch, life.owner, other) == "open"
    assert (life.rows_of(batch), life.counts(batch), life.do(lifecycle.adapter_pins, batch)) == ([], Counts(), {})
    row = life.batch(batch)
    assert (life.state(batch), row["discarded_at"]) == (("cancelled", True), row["ended_at"])
    assert row["error"].startswith("1 bad row in a strict batch")
    with life.engine.begin() as connection:
        kept = connection.execute(batch_rejects.select().where(batch_rejects.c.batch_id == batch)).one()
    assert (kept.row_no, kept.custom_id, kept.value) == (3, "c", "9*9")
    (hook,) = life.webhooks(batch)
    assert hook["event"] == "batch.cancelled"
    assert (hook["batch"]["rejected"], hook["batch"]["rows"], hook["batch"]["error"]) == (1, 0, row["error"])
    again = life.do(lifecycle.create_batch, life.owner, NewBatch(row["name"]))  # its name is free
    with pytest.raises(IntegrityError):
        life.do(lifecycle.create_batch, life.owner, NewBatch(row["name"]))
    life.do(lifecycle.create_batch, life.new_owner(), NewBatch(row["name"]))
    assert life.do(lifecycle.end_batches) == []
    assert life.state(again) == ("receiving", False)


# --- cancelling


def test_a_cancelled_batch_ends_when_its_last_row_has(life: Life) -> None:
    batch = life.open(5)
    waiting, out, running, given_back, done = life.rows_of(batch)
    life.finish(done)
    for job in (running, given_back):
        life.take(job)
    with life.engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET publish_seq = 1 WHERE id = :job"), {"job": out})
    life.do(lifecycle.cancel_batch, life.owner, batch)
    assert life.do(lifecycle.end_batches) == []
    assert life.do(lifecycle.end_cancelled_rows) == 4
    assert life.do(lifecycle.end_cancelled_rows) == 0
    assert life.do(lifecycle.end_batches) == []
    assert life.state(batch) == ("cancelled", False)
    assert life.counts(batch) == Counts(processing=2, completed=1, failed=2, cancelled=2)
    assert life.do(lifecycle.release, given_back, 1, DRAIN, life.settings) == "failed"
    life.do(lifecycle.complete, running, 1, RESULT)
    assert life.do(lifecycle.end_batches) == [batch]
    assert life.counts(batch) == Counts(completed=2, failed=3, cancelled=3)
    (hook,) = life.webhooks(batch)
    assert (hook["event"], hook["batch"]["cancelled"], hook["batch"]["completed"]) == ("batch.cancelled", 3, 2)
    assert [life.row(job)["error_code"] for job in (waiting, out, given_back)] == ["cancelled"] * 3


def test_a_row_that_was_claimed_while_its_batch_was_cancelled_is_found_later(life: Life) -> None:
    """The claim looked at the batch right before."""
    batch = life.open(1)
    (job,) = life.rows_of(batch)

    def cancel_and_end(connection: Connection) -> int:
        lifecycle.cancel_batch(connection, life.owner, batch)
        return lifecycle.end_cancelled_rows(connection)

    claim, found = overlap(
        life.engine,
        partial(lifecycle.claim, job=job, worker="w", lease_seconds=60),
        cancel_and_end,
        may_wait=False,
    )
    assert claim is not None
    assert found == 0
    assert life.do(lifecycle.end_batches) == []
    assert life.do(lifecycle.end_cancelled_rows) == 1
    assert life.row(job)["cancel_requested_at"] is not None


def test_cancelled_rows_end_in_chunks_over_all_batches_and_owners(life: Life) -> None:
    stranger = life.new_owner()
    cancelled = [life.open(3), life.open(4, stranger), life.receive(2)]
    kept = life.open(2)
    for batch, owner in zip(cancelled, (life.owner, stranger, life.owner), strict=True):
        life.do(lifecycle.cancel_batch, owner, batch)
    found = [life.do(lifecycle.end_cancelled_rows, limit=5) for _ in range(3)]
    assert found == [5, 4, 0]
    assert [life.counts(batch).cancelled for batch in [*cancelled, kept]] == [3, 4, 2, 0]
    assert sorted(life.do(lifecycle.end_batches)) == sorted(cancelled)


def test_the_end_of_cancelled_rows_passes_by_what_others_hold_and_holds_up_nobody(life: Life) -> None:
    batch = life.open(4)
    life.do(lifecycle.cancel_batch, life.owner, batch)
    end = lifecycle.end_cancelled_rows
    assert overlap(life.engine, end, end, may_wait=False) == (4, 0)
    running = life.open(2)
    for job in life.rows_of(running):
        life.take(job)
    life.do(lifecycle.cancel_batch, life.owner, running)
    held = [(job, 1, False) for job in life.rows_of(running)]
    renewals, found = overlap(life.engine, lambda c: lifecycle.renew(c, held, lease_seconds=60), end, may_wait=False)
    assert (len(renewals), found) == (2, 0)
    assert life.do(end) == 2


# --- ends and retries


def test_a_batch_ends_once_with_one_webhook_that_has_its_counts(life: Life) -> None:
    batch = life.open(4)
    done, broken, given_up, unwanted = life.rows_of(batch)
    life.finish(done)
    life.do(lifecycle.fail, broken, life.take(broken), BROKEN)
    once = life.settings.model_copy(update={"max_failures": 1})
    life.do(lifecycle.release, given_up, life.take(given_up), TROUBLE, once)
    assert life.do(lifecycle.end_batches) == []
    life.do(lifecycle.cancel, life.owner, [unwanted])
    answers = at_once(life.engine, [lifecycle.end_batches] * 6)
    assert sorted(answers) == [[]] * 5 + [[batch]]
    assert life.do(lifecycle.end_batches) == []
    assert life.state(batch) == ("done", True)
    (hook,) = life.webhooks(batch)
    assert hook == {
        "event": "batch.done",
        "batch": {
            "id": batch.hex,
            "name": life.batch(batch)["name"],
            "state": "done",
            "rows": 4,
            "completed": 1,
            "failed": 3,
            "cancelled": 1,
            "rejected": 0,
            "error": "",
        },
    }
    assert [life.row(job)["retryable"] for job in (done, broken, given_up, unwanted)] == [None, False, True, True]


def test_an_empty_batch_is_done_as_soon_as_it_is_open(life: Life) -> None:
    batch = life.receive()
    assert life.do(lifecycle.end_batches) == []
    life.do(lifecycle.open_batch, life.owner, batch)
    assert life.do(lifecycle.end_batches) == [batch]
    assert len(life.webhooks(batch)) == 1


def test_without_an_address_nobody_is_told(life: Life) -> None:
    batch = life.do(lifecycle.create_batch, life.owner, NewBatch("quiet"))
    life.do(lifecycle.open_batch, life.owner, batch)
    assert life.do(lifecycle.end_batches) == [batch]
    assert life.webhooks(batch) == []


@pytest.mark.parametrize("state", ["done", "cancelled"])
@pytest.mark.parametrize("how", ["the batch", "one row"])
def test_a_retry_opens_a_batch_that_was_over_and_it_ends_again(life: Life, state: str, how: str) -> None:
    batch = in_state(life, "cancelled") if state == "cancelled" else life.open(3)
    first, *_ = some = life.rows_of(batch)
    if state == "done":
        for job in some:
            life.do(lifecycle.fail, job, life.take(job), BROKEN)
        life.do(lifecycle.end_batches)
    if how == "the batch":
        assert life.do(lifecycle.retry_rows, life.owner, batch, limit=2) == some[:2]
        assert life.do(lifecycle.retry_rows, life.owner, batch, after=some[1], limit=2) == some[2:]
    else:
        assert life.do(lifecycle.retry, life.owner, [first]) == [first]
    retried = some if how == "the batch" else [first]
    assert life.state(batch) == ("open", False)
    cancelled = 3 - len(retried) if state == "cancelled" else 0
    assert life.counts(batch) == Counts(created=len(retried), failed=3 - len(retried), cancelled=cancelled)
    assert life.do(lifecycle.end_batches) == []
    for job in retried:
        life.finish(job)
    assert life.do(lifecycle.end_batches) == [batch]
    assert life.state(batch) == ("done", True)
    hooks = life.webhooks(batch)
    assert [hook["event"] for hook in hooks] == [f"batch.{state}", "batch.done"]
    assert [hook["batch"]["completed"] for hook in hooks] == [0, len(retried)]


def test_retrying_a_batch_leaves_deleted_and_other_rows_alone(life: Life) -> None:
    batch = life.open(4)
    done, broken, hidden, _waiting = life.rows_of(batch)
    life.finish(done)
    life.do(lifecycle.cancel, life.owner, [broken, hidden])
    life.do(lifecycle.delete, life.owner, [hidden])
    assert life.do(lifecycle.retry_rows, life.owner, batch) == [broken]
    assert life.do(lifecycle.retry_rows, life.owner, batch) == []
    assert life.counts(batch) == Counts(created=2, completed=1, failed=1, cancelled=1)


def test_a_row_that_is_retried_while_its_batch_is_being_cancelled_is_cancelled_again(life: Life) -> None:
    batch = life.open(2)
    first, second = life.rows_of(batch)
    life.do(lifecycle.cancel, life.owner, [first])
    life.take(second)
    life.do(lifecycle.cancel_batch, life.owner, batch)
    with pytest.raises(Rejected, match="still being cancelled"):
        life.do(lifecycle.retry_rows, life.owner, batch)
    assert life.do(lifecycle.retry, life.owner, [first]) == [first]
    assert life.state(batch) == ("cancelled", False)
    assert life.claim(first) is None
    assert life.do(lifecycle.end_cancelled_rows) == 2
    assert life.row(first)["error"] == "cancelled"


def test_a_batch_that_was_cancelled_before_all_rows_were_in_receives_again_when_retried(life: Life) -> None:
    """Else a strict batch would run although nobody has seen all its rows."""
    batch = life.receive(2, strict=True)
    life.do(lifecycle.cancel_batch, life.owner, batch)
    life.do(lifecycle.end_cancelled_rows)
    assert life.do(lifecycle.end_batches) == [batch]
    assert len(life.do(lifecycle.retry_rows, life.owner, batch)) == 2
    assert life.state(batch) == ("receiving", False)
    assert life.publish() == []
    life.do(lifecycle.open_batch, life.owner, batch)
    assert len(life.publish()) == 2


# --- two at once


def test_of_a_cancel_and_an_open_at_once_the_cancel_wins(life: Life) -> None:
    open_first, cancel_first = life.receive(1), life.receive(1)
    overlap(
        life.engine,
        lambda c: lifecycle.open_batch(c, life.owner, open_first),
        lambda c: lifecycle.cancel_batch(c, life.owner, open_first),
    )
    _, opened = overlap(
        life.engine,
        lambda c: lifecycle.cancel_batch(c, life.owner, cancel_first),
        lambda c: lifecycle.open_batch(c, life.owner, cancel_first),
    )
    assert opened == "cancelled"
    assert [life.batch(batch)["state"] for batch in (open_first, cancel_first)] == ["cancelled"] * 2
    both = life.receive(1)
    wishes: list[Callable[[Connection], object]] = [
        partial(lifecycle.open_batch, owner=life.owner, batch=both),
        partial(lifecycle.cancel_batch, owner=life.owner, batch=both),
    ]
    at_once(life.engine, wishes)
    assert life.batch(both)["state"] == "cancelled"
    assert life.publish() == []


@pytest.mark.parametrize("first", ["end", "retry"])
def test_an_end_and_a_retry_at_once_never_leave_a_row_in_a_batch_that_is_over(life: Life, first: str) -> None:
    batch = life.open(1)
    life.do(lifecycle.cancel, life.owner, life.rows_of(batch))
    retry = partial(lifecycle.retry, owner=life.owner, wanted=life.rows_of(batch))
    if first == "end":
        ended, retried = overlap(life.engine, lifecycle.end_batches, retry)
    else:
        retried, ended = overlap(life.engine, retry, lifecycle.end_batches, may_wait=False)
    assert (ended, len(retried)) == ([batch] if first == "end" else [], 1)
    assert life.state(batch) == ("open", False)
    assert life.counts(batch) == Counts(created=1)
    assert len(life.webhooks(batch)) == len(ended)


@pytest.mark.parametrize("again", range(3))
def test_ends_and_retries_at_once_tell_of_each_end_once(life: Life, again: int) -> None:
    batch = life.open(2)
    life.do(lifecycle.cancel, life.owner, life.rows_of(batch))
    retry = partial(lifecycle.retry_rows, owner=life.owner, batch=batch)
    single = partial(lifecycle.retry, owner=life.owner, wanted=life.rows_of(batch)[1:])
    answers = at_once(life.engine, [lifecycle.end_batches, retry, lifecycle.end_batches, single, lifecycle.end_batches])
    ends = [answer for answer in answers[::2] if answer]
    assert len(ends) <= 1
    assert (len(life.webhooks(batch)), life.state(batch)) == (len(ends), ("open", False))
    assert life.counts(batch) == Counts(created=2)


def test_rows_that_come_while_a_batch_ends_are_not_left_behind(life: Life) -> None:
    batch = life.open(0)

    def more_rows(connection: Connection) -> str:
        state = lifecycle.lock_batch(connection, life.owner, batch).state
        lifecycle.insert_rows(connection, life.owner, batch, [new_row(1)])
        lifecycle.reopen(connection, [batch])
        return str(state)

    assert overlap(life.engine, lifecycle.end_batches, more_rows) == ([batch], "done")
    assert life.state(batch) == ("open", False)
    life.finish(life.rows_of(batch)[0])
    other = life.receive(0)

    def rows_and_open(connection: Connection) -> None:
        lifecycle.lock_batch(connection, life.owner, other)
        lifecycle.insert_rows(connection, life.owner, other, [new_row(1)])
        lifecycle.open_batch(connection, life.owner, other)

    assert overlap(life.engine, rows_and_open, lifecycle.end_batches, may_wait=False) == (None, [batch])
    assert life.state(other) == ("open", False)
    assert life.do(lifecycle.end_batches) == []


def test_a_batch_does_not_end_between_the_moves_of_its_last_row(life: Life) -> None:
    batch = life.open(1)
    (job,) = life.rows_of(batch)
    steps: list[Callable[[Connection], object]] = [
        partial(lifecycle.claim, job=job, worker="w", lease_seconds=60),
        partial(lifecycle.release, job=job, attempt=1, why=DRAIN, settings=life.settings),
        partial(lifecycle.claim, job=job, worker="w", lease_seconds=60),
        partial(lifecycle.complete, job=job, attempt=2, result=RESULT),
    ]
    for step in steps:
        assert overlap(life.engine, step, lifecycle.end_batches, may_wait=False)[1] == []
        assert life.counts(batch).total == 1
    assert life.do(lifecycle.end_batches) == [batch]


@pytest.mark.parametrize("first", ["claim", "pause"])
def test_a_claim_and_a_pause_at_once_do_not_wait_for_one_another(life: Life, first: str) -> None:
    batch = life.open(1)
    (job,) = life.rows_of(batch)
    claim = partial(lifecycle.claim, job=job, worker="w", lease_seconds=60)
    pause = partial(lifecycle.pause_batch, owner=life.owner, batch=batch)
    if first == "claim":
        claimed, _ = overlap(life.engine, claim, pause, may_wait=False)
    else:
        _, claimed = overlap(life.engine, pause, claim, may_wait=False)
    assert claimed is not None, "it looked before the pause was there"
    life.do(lifecycle.complete, job, 1, RESULT)
    assert life.state(batch) == ("paused", False)


@pytest.mark.parametrize("again", range(3))
def test_retries_of_a_batch_and_of_its_rows_at_once_have_no_deadlock(life: Life, again: int) -> None:
    batches = [life.open(20), life.open(20)]
    some = [job for batch in batches for job in life.rows_of(batch)]
    life.do(lifecycle.cancel, life.owner, some)
    life.do(lifecycle.end_batches)
    shuffled = random.Random(again).sample(some, len(some))  # noqa: S311
    calls: list[Callable[[Connection], Any]] = [
        *(partial(lifecycle.retry_rows, owner=life.owner, batch=batch) for batch in batches),
        *(partial(lifecycle.retry, owner=life.owner, wanted=some) for some in (shuffled, some[::-1], some[10:30])),
        lifecycle.end_batches,
    ]
    at_once(life.engine, calls)
    assert [life.counts(batch) for batch in batches] == [Counts(created=20)] * 2
    assert [life.state(batch) for batch in batches] == [("open", False)] * 2


def test_a_retry_of_one_row_waits_for_its_batch_before_it_takes_the_row(life: Life) -> None:
    """Whoever retries the whole batch has the batch and wants the row: the other way round, each waits for ever."""
    batch = life.open(1)
    (job,) = life.rows_of(batch)
    life.do(lifecycle.cancel, life.owner, [job])

    def whole(connection: Connection) -> list[UUID]:
        lifecycle.lock_batch(connection, life.owner, batch)
        time.sleep(0.1)  # long enough for the other one to come to the row
        return lifecycle.retry_rows(connection, life.owner, batch)

    single = partial(lifecycle.retry, owner=life.owner, wanted=[job])
    answers = at_once(life.engine, [whole, single])
    assert sorted(map(len, answers)) == [0, 1]


def test_rescues_of_rows_of_several_batches_at_once_have_no_deadlock(life: Life) -> None:
    batches = [life.open(10) for _ in range(4)]
    some = [job for batch in batches for job in life.rows_of(batch)]
    random.Random(3).shuffle(some)  # noqa: S311
    for job in some:
        life.take(job)
        life.expire(job)
    answers = at_once(life.engine, [partial(lifecycle.rescue, settings=life.settings, limit=13)] * 4)
    rescued = [job for answer in answers for job, _ in answer]
    rescued += [job for job, _ in life.do(lifecycle.rescue, life.settings)]
    assert sorted(rescued) == sorted(some)
    assert [life.counts(batch) for batch in batches] == [Counts(created=10)] * 4


# --- messages of batches that are not open


@pytest.mark.parametrize("wish", ["pause", "cancel"])
def test_messages_of_a_batch_that_was_stopped_are_withdrawn_and_do_not_count_as_lost(life: Life, wish: str) -> None:
    stopped, open_ = life.open(3), life.open(1)
    single = life.create()
    messages = life.publish()
    assert len(messages) == 5
    life.do(WISHES[wish], life.owner, stopped)
    for message in messages:
        life.age_publish(message.job, 100)
    assert life.do(lifecycle.withdraw_held_rows, limit=2) == 2
    assert life.do(lifecycle.withdraw_held_rows, limit=2) == 1
    assert life.do(lifecycle.withdraw_held_rows) == 0
    assert life.do(lifecycle.count_published, Queue.BULK) == 2
    lost = life.do(lifecycle.publish_lost, Queue.BULK, queue_is_empty=True, lost_seconds=15)
    assert {message.job for message in lost} == {single, *life.rows_of(open_)}
    assert all(life.claim(job) is None for job in life.rows_of(stopped))


def test_a_withdrawal_of_held_rows_waits_for_nobody_and_takes_no_claimed_row_back(life: Life) -> None:
    batch = life.open(2)
    messages = life.publish()
    claim = partial(lifecycle.claim, job=messages[0].job, worker="w", lease_seconds=60)
    pause = partial(lifecycle.pause_batch, owner=life.owner, batch=batch)
    claimed, _ = overlap(life.engine, claim, pause, may_wait=False)
    assert claimed is not None
    withdraw = lifecycle.withdraw_held_rows
    assert overlap(life.engine, withdraw, withdraw, may_wait=False) == (1, 0)
    assert life.row(messages[0].job)["publish_seq"] == messages[0].place
    assert life.counts(batch) == Counts(created=1, processing=1)


# --- adapters, hosts at rest


def test_an_adapter_is_pinned_by_whoever_comes_first_and_for_good(life: Life) -> None:
    batch, other = life.open(1), life.open(1)
    first, second = AdapterPin("aa", "r1"), AdapterPin("bb")
    pin = partial(lifecycle.pin_adapters, batch=batch)
    answers = overlap(
        life.engine, lambda c: pin(c, pins={"x/y": first}), lambda c: pin(c, pins={"x/y": second, "z": second})
    )
    assert answers == ({"x/y": first}, {"x/y": first, "z": second})
    assert life.do(lifecycle.adapter_pins, other) == {}
    assert life.do(lifecycle.pin_adapters, batch, {}) == answers[1]
    assert len(at_once(life.engine, [lambda c: pin(c, pins={"b": first, "a": second})] * 6)) == 6


def busy(seconds: float) -> Release:
    """What a worker says of a job whose host answered 429."""
    return Release("fetch_busy", "429", counts=False, delay_seconds=0, host=HOST, host_pause_seconds=seconds)


def test_a_host_that_asked_for_rest_is_left_alone_until_then_and_only_it(life: Life) -> None:
    rows = [new_row(number, host=HOST if number % 2 else "") for number in range(1, 7)]
    batch, other = life.open(rows), life.open([new_row(1, host="other.example.com"), new_row(2, host=HOST)])
    some = life.rows_of(batch)
    life.do(lifecycle.release, some[0], life.take(some[0]), busy(600), life.settings)
    assert life.do(lifecycle.paused_hosts) == [HOST]
    expected = {*some[1::2], life.rows_of(other)[0]}
    assert {message.job for message in life.publish()} == expected
    life.do(lifecycle.pause_host, HOST, 5.0)
    life.do(lifecycle.forget_rested_hosts)
    assert life.publish() == [], "a shorter rest changes nothing"
    with life.engine.begin() as connection:
        connection.execute(text("UPDATE source_hosts SET not_before = now() - interval '1 second'"))
    assert life.do(lifecycle.paused_hosts) == []
    assert {message.job for message in life.publish()} == {*some[::2], life.rows_of(other)[1]}
    life.do(lifecycle.forget_rested_hosts)
    with life.engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM source_hosts")).scalar_one() == 0


@pytest.mark.parametrize("end", ["its last try", "unwanted"])
def test_a_host_rests_also_when_the_job_that_heard_of_it_is_over(life: Life, end: str) -> None:
    batch = life.open([new_row(1, host=HOST)])
    (job,) = life.rows_of(batch)
    attempt = life.take(job)
    if end == "unwanted":
        life.do(lifecycle.cancel, life.owner, [job])
    why = Release("fetch_busy", "429", counts=True, host=HOST, host_pause_seconds=60)
    once = life.settings.model_copy(update={"max_failures": 1})
    assert life.do(lifecycle.release, job, attempt, why, once) == "failed"
    assert life.do(lifecycle.paused_hosts) == [HOST]


def test_a_bound_for_hosts_holds_over_all_batches_and_dispatchers(life: Life) -> None:
    batches = [life.open([new_row(number, host=HOST) for number in range(1, 6)]) for _ in range(3)]
    own = life.open([new_row(number) for number in range(1, 6)])
    sent = [life.publish(room=8, host_limit=4) for _ in range(4)]
    of_host = [message.job for messages in sent for message in messages if message.job not in life.rows_of(own)]
    assert (len(of_host), sum(map(len, sent))) == (4, 9)
    life.take(of_host[0])
    assert life.publish(host_limit=4) == [], "what runs is still in flight"
    life.do(lifecycle.complete, of_host[0], 1, RESULT)
    assert len(life.publish(host_limit=4)) == 1
    assert sum(life.counts(batch).total for batch in batches) == 15


# --- a storm


class Storm:
    """Threads that do everything to a few rows of two batches until the time is over."""

    def __init__(self, life: Life, seconds: float) -> None:
        self.life = life
        self.batches = [life.open(6), life.open(6)]
        self.rows = {batch: life.rows_of(batch) for batch in self.batches}
        self.until = time.monotonic() + seconds
        self.done: Counter[str] = Counter()
        self.ended: list[UUID] = []

    def rage(self, seed: int) -> None:
        """Do one thing after the other. Raises what the database raised: a deadlock above all."""
        dice = random.Random(seed)  # noqa: S311
        while (now := time.monotonic()) < self.until or (len(self.ended) < 2 and now < self.until + 60):
            name = outcome(lambda: self.life.do(self._one_thing, dice))
            self.done[str(name)] += 1

    def _one_thing(self, connection: Connection, dice: random.Random) -> str:
        life, batch = self.life, dice.choice(self.batches)
        every = [job for rows in self.rows.values() for job in rows]
        some = dice.sample(every, dice.randint(1, 5))
        job = dice.choice(self.rows[batch])
        attempt = connection.execute(text("SELECT attempt FROM jobs WHERE id = :job"), {"job": job}).scalar_one()
        common: dict[str, Callable[[], object]] = {
            "claim": lambda: lifecycle.claim(connection, job, worker="w", lease_seconds=dice.choice([0.01, 60])),
            "complete": lambda: lifecycle.complete(connection, job, attempt, RESULT),
            "fail": lambda: lifecycle.fail(connection, job, attempt, BROKEN),
            "release": lambda: lifecycle.release(
                connection, job, attempt, dice.choice([DRAIN, busy(0.01)]), life.settings
            ),
        }
        rare: dict[str, Callable[[], object]] = {
            "renew": lambda: lifecycle.renew(connection, [(one, attempt, False) for one in some], lease_seconds=60),
            "cancel rows": lambda: lifecycle.cancel(connection, life.owner, some),
            "retry": lambda: lifecycle.retry(connection, life.owner, some),
            "publish": lambda: publishing(5, host_limit=2)(connection),
            "rescue": lambda: lifecycle.rescue(connection, life.settings, limit=5),
            "pause": lambda: lifecycle.pause_batch(connection, life.owner, batch),
            "resume": lambda: lifecycle.resume_batch(connection, life.owner, batch),
            "cancel": lambda: lifecycle.cancel_batch(connection, life.owner, batch) if dice.random() < 0.3 else None,
            "end cancelled": lambda: lifecycle.end_cancelled_rows(connection, limit=5),
            "withdraw": lambda: lifecycle.withdraw_held_rows(connection, limit=5),
            "end": lambda: self.ended.extend(lifecycle.end_batches(connection)),
            "retry rows": lambda: lifecycle.retry_rows(connection, life.owner, batch, limit=5),
            "forget": lambda: lifecycle.forget_rested_hosts(connection),
        }
        kind = dice.choice([common, common, rare])
        name = dice.choice(list(kind))
        try:
            kind[name]()
        except Rejected:
            return "refused"
        return name


def test_counts_are_true_after_a_storm_of_everything_and_each_end_is_told_once(life: Life) -> None:
    fast = {"backoff_seconds": 0.01, "backoff_max_seconds": 0.02, "max_failures": 20}
    storm = Storm(Life(life.engine, life.settings.model_copy(update=fast)), seconds=2)
    stormy = storm.life
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(storm.rage, range(8)))
    ends = 0
    for batch, rows in storm.rows.items():
        counts = stormy.counts(batch)
        assert counts.total == len(rows)
        state, ended = stormy.state(batch)
        assert not ended or counts.left == 0
        assert (state == "done") <= ended
        ends += len(stormy.webhooks(batch))
        for job in rows:
            row, told = stormy.row(job), told_by([("created", 0), *stormy.events(job)])
            assert (told.status, told.attempt) == (row["status"], row["attempt"])
    assert ends == len(storm.ended) > 1, "it was no storm, or an end was told twice or never"
