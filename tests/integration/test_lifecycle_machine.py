"""Long random lives: every row and event equals a plain Python model's; and a storm of everything at the same time."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Connection, select

from common import lifecycle
from common.contract import Queue, Status
from common.errors import LeaseLost, Rejected
from common.lifecycle import Published
from common.tables import job_events, jobs
from tests.support.history import told_by
from tests.support.life import BROKEN, DRAIN, RESULT, TROUBLE, Life, outcome, publishing, remove_all
from tests.support.model import Batch, Job

MAX_UNCOUNTED = 3
SECONDS = 6.0
"""How long to look for a life that breaks the rules; the last ten lives come on top."""
JOBS = st.integers(0, 7)
LEAST = 50
"""Things that each thread of a storm does at least."""
RUN = 4
"""Rows of one batch in a row."""
OWNERS = st.integers(0, 1)
SOME = st.lists(JOBS, min_size=1, max_size=3)
ATTEMPTS = st.sampled_from([0, 0, 0, -1, 1])
"""How far a worker's attempt is from the job's: mostly right, else an old one or one that was never given."""


def any_job(fits: Callable[[Job], bool]) -> Callable[[Any], bool]:
    """Return the condition that there is a job for a rule to do something with."""
    return lambda lives: any(fits(job) for job in lives.jobs)


class Lives(RuleBasedStateMachine):
    """Five jobs of two owners and a batch of three rows under every function, in any order, as time passes."""

    def __init__(self, life: Life) -> None:
        super().__init__()
        remove_all(life.engine)
        # Time passes only where a rule says so.
        slow = {"backoff_seconds": 1000.0, "backoff_max_seconds": 1000.0, "lease_seconds": 1000.0}
        counts = {"max_failures": 2, "max_uncounted_attempts": MAX_UNCOUNTED}
        self.life = Life(life.engine, life.settings.model_copy(update=slow | counts))
        self.owners = sorted([self.life.owner, self.life.new_owner()])
        created = [("created", 0)]
        self.jobs = [
            Job(self.life.create(owner), owner, max_failures=2, events=[*created])
            for owner in [*self.owners, *2 * self.owners[:1], self.owners[1]]
        ]
        self.batch = Batch(self.life.receive(3, self.owners[0]))
        self.rows = [
            Job(job, self.owners[0], max_failures=2, batch=self.batch) for job in self.life.rows_of(self.batch.id)
        ]
        self.jobs += self.rows
        self.by_id = {job.id: job for job in self.jobs}
        self.sent: list[Published] = []
        self.places: list[int] = []
        self.turn = 0
        self.turns: dict[object, int] = {}
        """The last turn of each owner and each line, or how many turns there had been when it first waited."""

    @rule(room=st.integers(1, 4))
    @precondition(any_job(lambda job: job.status == "created"))
    def publish(self, room: int) -> None:
        expected = self._by_turns(room)
        messages = self.life.publish(room=room)
        assert [message.job for message in messages] == expected
        self._note_sent(messages)

    @rule(old=st.lists(JOBS, max_size=3), empty=st.booleans())
    @precondition(any_job(lambda job: job.is_out))
    def messages_grow_old_and_the_dispatcher_looks(self, old: list[int], empty: bool) -> None:
        for job in {which: self.jobs[which] for which in old}.values():
            if job.is_out:
                self.life.age_publish(job.id, 3600)
                job.old_message = True
        overtaken = max((job.place or 0 for job in self.jobs if job.status == "processing"), default=0)
        lost = {job.place or 0: job for job in self.jobs if job.is_out and job.old_message}
        expected = [lost[place].id for place in sorted(lost) if empty or place < overtaken]
        messages = self.life.do(lifecycle.publish_lost, Queue.BULK, queue_is_empty=empty, lost_seconds=600)
        assert [message.job for message in messages] == expected
        self._note_sent(messages)

    @rule()
    @precondition(lambda lives: lives.sent)
    def withdraw(self) -> None:
        named = [(self.by_id[message.job], message.place) for message in self.sent]
        out = [job for job, place in named if job.is_out and job.place == place]
        assert self.life.do(lifecycle.withdraw, self.sent) == len(out)
        for job in out:
            job.place = None

    @rule(which=JOBS)
    @precondition(any_job(lambda job: job.status == "created"))
    def claim(self, which: int) -> None:
        """Also what a message does that was sent twice, withdrawn, or is older than the job's last life."""
        job = self.jobs[which]
        claim = self.life.claim(job.id, lease_seconds=1000)
        assert (claim is not None) == job.claim()
        if claim is not None:
            assert (claim.attempt, claim.pins) == (job.attempt, job.pins)

    @rule(which=JOBS, off=ATTEMPTS, on_device=st.booleans())
    @precondition(any_job(lambda job: job.status == "processing"))
    def renew(self, which: int, off: int, on_device: bool) -> None:
        job = self.jobs[which]
        runs = job.runs_as(job.attempt + off)
        renewals = self.life.do(lifecycle.renew, [(job.id, job.attempt + off, on_device)], lease_seconds=1000)
        assert [renewal.cancel_requested for renewal in renewals] == ([job.marked] if runs else [])
        if runs:
            job.on_device, job.expired = on_device, False

    @rule(which=JOBS, off=ATTEMPTS, what=st.sampled_from(["image", "mask_image"]))
    @precondition(any_job(lambda job: job.status == "processing"))
    def pin(self, which: int, off: int, what: str) -> None:
        job, pins = self.jobs[which], {what: str(off)}
        if self._writes(job, off, lambda attempt: self.life.do(lifecycle.pin, job.id, attempt, pins)):
            job.pins |= pins

    @rule(which=JOBS, off=ATTEMPTS)
    @precondition(any_job(lambda job: job.status == "processing"))
    def complete(self, which: int, off: int) -> None:
        job = self.jobs[which]
        if self._writes(job, off, lambda attempt: self.life.do(lifecycle.complete, job.id, attempt, RESULT)):
            job.end("completed")

    @rule(which=JOBS, off=ATTEMPTS)
    @precondition(any_job(lambda job: job.status == "processing"))
    def fail(self, which: int, off: int) -> None:
        job = self.jobs[which]
        if self._writes(job, off, lambda attempt: self.life.do(lifecycle.fail, job.id, attempt, BROKEN)):
            job.end("failed", BROKEN.message)

    @rule(which=JOBS, off=ATTEMPTS, counts=st.booleans())
    @precondition(any_job(lambda job: job.status == "processing"))
    def release(self, which: int, off: int, counts: bool) -> None:
        job, why, settings = self.jobs[which], TROUBLE if counts else DRAIN, self.life.settings
        if self._writes(job, off, lambda attempt: self.life.do(lifecycle.release, job.id, attempt, why, settings)):
            job.give_back("released", counts=counts)

    @rule(silent=st.lists(JOBS, max_size=3))
    @precondition(any_job(lambda job: job.status == "processing"))
    def workers_fall_silent_and_the_dispatcher_looks(self, silent: list[int]) -> None:
        for job in {which: self.jobs[which] for which in silent}.values():
            if job.status == "processing":
                self.life.expire(job.id)
                job.expired = True
        lost = {job.id: job for job in self.jobs if job.expired}
        rescued = dict(self.life.do(lifecycle.rescue, self.life.settings))
        for job in lost.values():
            job.give_back("rescued", counts=job.on_device or job.attempt >= MAX_UNCOUNTED)
        assert rescued == {job.id: job.status for job in lost.values()}

    @rule(which=JOBS)
    @precondition(any_job(lambda job: job.status == "processing"))
    def its_worker_falls_silent(self, which: int) -> None:
        """It may wake up again before the dispatcher looks."""
        job = self.jobs[which]
        if job.status == "processing":
            self.life.expire(job.id)
            job.expired = True

    @rule(wanted=SOME, owner=OWNERS)
    @precondition(any_job(lambda job: not job.deleted))
    def cancel(self, wanted: list[int], owner: int) -> None:
        self._wish(lifecycle.cancel, Job.cancel, wanted, owner)

    @rule(wanted=SOME, owner=OWNERS)
    @precondition(any_job(lambda job: job.status == "failed"))
    def retry(self, wanted: list[int], owner: int) -> None:
        self._wish(lifecycle.retry, Job.retry, wanted, owner)

    @rule(which=JOBS, owner=OWNERS, unless=st.integers(0, 3))
    @precondition(any_job(lambda job: not job.deleted))
    def delete(self, which: int, owner: int, unless: int) -> None:
        if unless == 0:  # more often, and nothing would be left to look at
            self._wish(lifecycle.delete, Job.delete, [which], owner)

    @rule(which=JOBS)
    @precondition(any_job(lambda job: not job.due))
    def its_backoff_ends(self, which: int) -> None:
        job = self.jobs[which]
        if job.status == "created":
            self.life.make_due(job.id)
            job.due = True

    @rule(what=st.sampled_from(["open", "open", "pause", "resume", "resume", "cancel"]), owner=st.integers(0, 3))
    def its_owner_wants_of_the_batch(self, what: str, owner: int) -> None:
        if what == "cancel" and owner == 1:  # more often, and nothing would be left to look at
            return
        wishes: dict[str, tuple[Callable[..., object], Callable[[], bool]]] = {
            "open": (lifecycle.open_batch, self.batch.open),
            "pause": (lifecycle.pause_batch, self.batch.pause),
            "resume": (lifecycle.resume_batch, self.batch.resume),
            "cancel": (lifecycle.cancel_batch, self.batch.cancel),
        }
        wish, meant = wishes[what]
        may = owner != 3 and meant()
        try:
            self.life.do(wish, self.owners[owner == 3], self.batch.id)
        except Rejected:
            assert not may
        else:
            assert may

    @rule()
    @precondition(lambda lives: lives.batch.state == "cancelled")
    def the_dispatcher_ends_cancelled_rows(self) -> None:
        ends = [row for row in self.rows if not self.batch.ended and not row.marked and row.cancel()]
        assert self.life.do(lifecycle.end_cancelled_rows) == len(ends)

    @rule()
    def the_dispatcher_ends_batches(self) -> None:
        ended = self.batch.end(sum(row.status in {"created", "processing"} for row in self.rows))
        assert self.life.do(lifecycle.end_batches) == ([self.batch.id] if ended else [])

    @rule()
    @precondition(lambda lives: any(row.is_out and row.held for row in lives.rows))
    def the_dispatcher_withdraws_held_rows(self) -> None:
        held = [row for row in self.rows if row.is_out and row.held]
        assert self.life.do(lifecycle.withdraw_held_rows) == len(held)
        for row in held:
            row.place = None

    @rule(limit=st.integers(1, 3), after=st.sampled_from([None, 0, 1]))
    @precondition(any_job(lambda job: job.batch is not None and job.status == "failed"))
    def retry_rows(self, limit: int, after: int | None) -> None:
        later = self.rows if after is None else self.rows[after + 1 :]
        wanted = [row for row in later if row.status == "failed" and not row.deleted][:limit]
        start = None if after is None else self.rows[after].id
        if self.batch.state == "cancelled" and not self.batch.ended:
            with pytest.raises(Rejected, match="still being cancelled"):
                self.life.do(lifecycle.retry_rows, self.owners[0], self.batch.id, after=start, limit=limit)
            return
        retried = self.life.do(lifecycle.retry_rows, self.owners[0], self.batch.id, after=start, limit=limit)
        assert retried == [row.id for row in wanted]
        for row in wanted:
            row.retry()

    @invariant()
    def the_batch_is_the_models(self) -> None:
        statuses = Counter(row.status for row in self.rows)
        assert asdict(self.life.counts(self.batch.id)) == {
            **{status.value: statuses[status.value] for status in Status},
            "cancelled": sum((row.status, row.error) == ("failed", "cancelled") for row in self.rows),
        }
        assert self.life.state(self.batch.id) == (self.batch.state, self.batch.ended)
        assert [hook["event"] for hook in self.life.webhooks(self.batch.id)] == self.batch.webhooks
        assert not self.batch.ended or not {"created", "processing"} & {*statuses}
        assert self.batch.ended or self.batch.state != "done"

    @invariant()
    def rows_and_events_are_the_models(self) -> None:
        with self.life.engine.begin() as connection:
            rows = {row["id"]: dict(row) for row in connection.execute(select(jobs)).mappings()}
            events: dict[UUID, list[tuple[str, int]]] = {job: [] for job in rows}
            for row in connection.execute(select(job_events).order_by(job_events.c.id)):
                events[row.job_id].append((row.event, row.attempt))
        assert rows.keys() == self.by_id.keys()
        for job in self.jobs:
            assert events[job.id] == job.events
            assert _facts(rows[job.id]) == _model_facts(job)
            told = told_by(events[job.id] if job.batch is None else [("created", 0), *events[job.id]])
            assert (told.status, told.attempt, told.deleted) == (job.status, job.attempt, job.deleted)
        assert self.places == sorted(set(self.places)), "a place was given twice, or out of order"

    def _writes(self, job: Job, off: int, write: Callable[[int], object]) -> bool:
        """Let a worker write; return whether it may, having seen that it could if and only if it may."""
        may = job.runs_as(job.attempt + off)
        assert (outcome(lambda: write(job.attempt + off)) is not LeaseLost) == may
        return may

    def _wish(
        self, wish: Callable[..., list[UUID]], meant: Callable[[Job], bool], wanted: list[int], owner: int
    ) -> None:
        wanted_jobs = [self.jobs[which] for which in wanted]
        answered = self.life.do(wish, self.owners[owner], [job.id for job in wanted_jobs])
        mine = {job.id: job for job in wanted_jobs if job.owner == self.owners[owner]}
        assert sorted(answered) == sorted(job.id for job in mine.values() if meant(job))

    def _by_turns(self, room: int) -> list[UUID]:
        """Choose one job after the other by the rule's words, and remember whose turns these were."""
        with self.life.engine.begin() as connection:
            times = {row.id: row.available_at for row in connection.execute(select(jobs.c.id, jobs.c.available_at))}
        waiting = sorted((job for job in self.jobs if job.waits), key=lambda job: (times[job.id], job.id))
        flying = [job for job in self.jobs if job.is_out or job.status == "processing"]
        of_owner = Counter(job.owner for job in flying)
        of_line = Counter(job.line for job in flying)
        present: set[object] = {name for job in waiting if job.batch is None for name in (job.owner, job.line)}
        if self.batch.state == "open":
            present |= {self.rows[0].owner, self.rows[0].line}
        for name in present:
            self.turns.setdefault(name, self.turn)
        turns_before = dict(self.turns)
        run: Counter[object] = Counter()
        chosen: list[UUID] = []
        while waiting and len(chosen) < room:
            owner = min((job.owner for job in waiting), key=lambda one: (of_owner[one], self.turns[one], one))
            mine = [job for job in waiting if job.owner == owner]
            job = min(mine, key=lambda job: (of_line[job.line], turns_before[job.line], job.batch is not None))
            waiting.remove(job)
            chosen.append(job.id)
            of_owner[owner] += 1
            run[job.line] += 1
            self.turn += 1
            self.turns[owner] = self.turns[job.line] = self.turn
            if run[job.line] % RUN == 0:  # within a run a line keeps its place
                of_line[job.line] += RUN
                turns_before[job.line] = self.turn
        return chosen

    def _note_sent(self, messages: list[Published]) -> None:
        for message in messages:
            job = self.by_id[message.job]
            job.publish(message.place)
            assert message.number == job.number
            self.places.append(message.place)
        self.sent = messages


def _facts(row: Mapping[str, Any]) -> dict[str, object]:
    return {
        "status": row["status"],
        "attempt": row["attempt"],
        "failures": row["failures"],
        "place": row["publish_seq"],
        "number": row["publish_no"],
        "on_device": row["on_device"],
        "marked": row["cancel_requested_at"] is not None,
        "deleted": row["deleted_at"] is not None,
        "pins": row["pins"],
        "error": row["error"] and ("tried" if "(tried" in row["error"] else row["error"]),
        "has a lease": row["lease_until"] is not None,
        "has ended": row["ended_at"] is not None,
        "has a result": row["result"] is not None,
    }


def _model_facts(job: Job) -> dict[str, object]:
    return {
        "status": job.status,
        "attempt": job.attempt,
        "failures": job.failures,
        "place": job.place,
        "number": job.number,
        "on_device": job.on_device,
        "marked": job.marked,
        "deleted": job.deleted,
        "pins": job.pins,
        "error": job.error,
        "has a lease": job.status == "processing",
        "has ended": job.status in {"completed", "failed"},
        "has a result": job.status == "completed",
    }


def test_whatever_happens_in_whatever_order_jobs_live_by_the_rules(module_life: Life) -> None:
    class OnThisDatabase(Lives):
        def __init__(self) -> None:
            super().__init__(module_life)

    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        run_state_machine_as_test(
            OnThisDatabase,
            settings=hypothesis_settings(
                max_examples=10,
                stateful_step_count=50,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


class Storm:
    """Threads that do everything to the same few jobs, with right and wrong attempts, until the time is over."""

    def __init__(self, life: Life, jobs_: list[UUID], seconds: float) -> None:
        self.life = life
        self.jobs = jobs_
        self.until = time.monotonic() + seconds
        self.sent: list[Published] = []

    def rage(self, seed: int) -> int:
        """Do one thing after the other; return how many. Raises what the database raised: a deadlock above all."""
        dice = random.Random(seed)  # noqa: S311 - a storm, not a secret
        done = 0
        # On a machine that stands still for a part of the time it goes on until something has happened.
        while (now := time.monotonic()) < self.until or (done < LEAST and now < self.until + 60):
            outcome(lambda: self.life.do(self._one_thing, dice))
            done += 1
        return done

    def _one_thing(self, connection: Connection, dice: random.Random) -> None:
        life, some = self.life, dice.sample(self.jobs, dice.randint(1, 5))
        job, attempt = some[0], self._attempt(connection, some[0]) - dice.choice([0, 0, 0, 1])
        held = [(one, self._attempt(connection, one), dice.random() < 0.5) for one in some]
        lost = {"queue_is_empty": dice.random() < 0.5, "lost_seconds": 0.01}
        things: list[Callable[[], object]] = [
            lambda: lifecycle.cancel(connection, life.owner, some),
            lambda: lifecycle.retry(connection, life.owner, some),
            lambda: lifecycle.delete(connection, life.owner, some[:1]) if dice.random() < 0.02 else None,
            lambda: self.sent.extend(publishing(5)(connection)),
            lambda: self.sent.extend(lifecycle.publish_lost(connection, Queue.BULK, **lost)),  # type: ignore[arg-type]
            lambda: lifecycle.withdraw(connection, dice.sample(self.sent, min(4, len(self.sent)))),
            lambda: lifecycle.rescue(connection, life.settings, limit=4),
            lambda: lifecycle.renew(connection, held, lease_seconds=dice.choice([0.01, 60])),
            lambda: lifecycle.complete(connection, job, attempt, RESULT),
            lambda: lifecycle.fail(connection, job, attempt, BROKEN),
            lambda: lifecycle.release(connection, job, attempt, dice.choice([DRAIN, TROUBLE]), life.settings),
        ]
        claims: list[Callable[[], object]] = [
            lambda: lifecycle.claim(connection, job, worker="w", lease_seconds=dice.choice([0.01, 60]))
        ]
        dice.choice(things + 5 * claims)()

    @staticmethod
    def _attempt(connection: Connection, job: UUID) -> int:
        return int(connection.execute(select(jobs.c.attempt).where(jobs.c.id == job)).scalar_one())


def test_a_storm_of_everything_at_once_ends_without_a_deadlock_and_with_true_histories(life: Life) -> None:
    fast = {"backoff_seconds": 0.01, "backoff_max_seconds": 0.02, "max_failures": 20}
    stormy = Life(life.engine, life.settings.model_copy(update=fast))
    some = [stormy.create() for _ in range(10)]
    random.Random(1).shuffle(some)  # noqa: S311
    storm = Storm(stormy, some, seconds=3)
    with ThreadPoolExecutor(8) as pool:
        done = sum(pool.map(storm.rage, range(8)))
    assert done >= 8 * LEAST
    assert len({message.place for message in storm.sent}) == len(storm.sent), "a place was given twice"
    ends = 0
    for job in some:
        row, told = stormy.row(job), told_by(stormy.events(job))
        assert (told.status, told.attempt) == (row["status"], row["attempt"])
        assert told.deleted == (row["deleted_at"] is not None)
        ends += sum(event in {"completed", "failed"} for event, _ in stormy.events(job))
    assert ends > len(some), "it was no storm"
