"""The only publisher: keeps a window of messages in Redis, finds lost ones, rescues jobs of dead workers, ends batches.

A loop of its own, never a queued job, so that it works exactly when the queue does not. Any number may run at once.
Postgres says what is to be done; Redis is told, and whatever it forgets is told again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from celery import Celery
from sqlalchemy import Engine

from common import lifecycle
from common.broker import QueueLengths, make_app, send
from common.contract import Queue
from common.database import Doorbell, make_engine, transaction
from common.errors import Transient, Unavailable
from common.lifecycle import Published
from common.prompt_deny_file import PromptDenyFile
from common.settings import Settings
from common.telemetry import get_logger
from common.workers import live_slots
from producer import manifest_intake, webhooks

log = get_logger(__name__)

_BACKLOG_SECONDS: Final = 0.05
"""First pause while a full window leaves jobs waiting: room appears without anybody ringing. It doubles up to the poll
interval while none appears, so that a fleet without workers costs nothing."""
_CANCELLED_AT_ONCE: Final = 1000
_COMPANIONS: Final[Mapping[str, Callable[[Settings, threading.Event], None]]] = {
    "webhooks": webhooks.run,
    "manifests": manifest_intake.run,
}
"""What else any number of these processes may do at once, each in a thread of its own."""


def run(settings: Settings, stop: threading.Event) -> None:
    """Dispatch until `stop` is set. Raises what a companion raised: its supervisor then starts the process anew.

    Raises Rejected (prompt_rules_invalid) before that.
    """
    PromptDenyFile(settings.prompt_deny_file)  # whoever reads manifests needs it: at start, and not at the first
    dispatcher = Dispatcher(settings)
    log.info("dispatcher.started", window_floor=settings.publish_window_floor)
    try:
        with ThreadPoolExecutor(len(_COMPANIONS)) as pool:
            companions = [pool.submit(_accompany, settings, stop, loop) for loop in _COMPANIONS.values()]
            try:
                while not stop.is_set():
                    dispatcher.step(stop)
            finally:
                stop.set()
        for companion in companions:
            companion.result()
    finally:
        dispatcher.close()
        log.info("dispatcher.stopped")


def _accompany(settings: Settings, stop: threading.Event, loop: Callable[[Settings, threading.Event], None]) -> None:
    try:
        loop(settings, stop)
    except Exception:
        stop.set()  # nobody would notice that webhooks are not delivered any more
        raise


class Dispatcher:
    """One dispatcher. What it remembers is only for fairness and speed; it may be killed at any line."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine = make_engine(settings, pool_size=2, application="fillfleet dispatcher")
        self._app: Celery = make_app(settings)
        self._lengths = QueueLengths(settings)
        self._turns = {queue: lifecycle.Turns() for queue in Queue}
        self._doorbell = Doorbell(settings)
        self._connected_since: float | None = None
        self._next_sweep = 0.0
        self._pause = settings.dispatcher_poll_seconds

    def step(self, stop: threading.Event) -> None:
        """Make one pass and wait for the next reason to make one; an outage is waited out."""
        try:
            self._doorbell.listen()
            self._pause = self._next_pause(*self._pass())
            if not stop.is_set():
                self._doorbell.wait(self._pause)
        except (Unavailable, Transient) as error:
            if isinstance(error, Unavailable):
                self._connected_since = None
            log.warning("dispatcher.outage", code=error.code)
            stop.wait(min(1.0, self._settings.dispatcher_poll_seconds))

    def close(self) -> None:
        """Close all connections."""
        self._doorbell.close()
        self._lengths.close()
        self._app.close()
        self._engine.dispose()

    def _next_pause(self, published: int, is_full: bool) -> float:
        if published:
            return _BACKLOG_SECONDS  # also where there was room: a bound on hosts may have left some for the next pass
        if not is_full:
            return self._settings.dispatcher_poll_seconds
        return min(2 * self._pause, self._settings.dispatcher_poll_seconds)

    def _pass(self) -> tuple[int, bool]:
        """Publish what is due and, once in a poll interval, sweep; returns how much, and whether a window is full."""
        now = time.monotonic()
        if self._connected_since is None:
            self._connected_since = now
        if now >= self._next_sweep:
            self._next_sweep = now + self._settings.dispatcher_poll_seconds
            self._rescue(now)
            self._sweep_batches()
            self._send_lost_again()
        cancelled = self._cancel_rows()
        passes = [self._publish(queue) for queue in Queue]
        published = sum(published for published, _ in passes)
        return published + cancelled, cancelled == _CANCELLED_AT_ONCE or any(is_full for _, is_full in passes)

    def _publish(self, queue: Queue) -> tuple[int, bool]:
        settings = self._settings
        with transaction(self._engine) as connection:
            slots = live_slots(connection, seen_within_seconds=settings.lease_seconds)
            window = max(settings.publish_window_floor, 2 * slots)
            room = window - lifecycle.count_published(connection, queue)
            if queue is Queue.BULK and room < min(lifecycle.RUN, window):
                return 0, True  # a run of one batch shall find room as a whole, or batches would alternate job by job
            messages = lifecycle.publish_waiting(
                connection, queue, self._turns[queue], room=room, host_limit=settings.source_host_max_jobs
            )
        if messages:
            self._send(queue, messages)
        return len(messages), len(messages) >= room

    def _send(self, queue: Queue, messages: list[Published]) -> None:
        # After the commit: a worker must find the row as published. A dispatcher that dies in between leaves a
        # message that counts as lost, and is sent by the next sweep.
        try:
            send(self._app, queue, [(message.job, message.number) for message in messages])
        except Transient:
            with transaction(self._engine) as connection:
                lifecycle.withdraw(connection, messages)
            raise
        log.info("dispatcher.published", queue=queue.value, count=len(messages))

    def _cancel_rows(self) -> int:
        """End some rows of cancelled batches, in passes of their own: others are not to wait for a million of them."""
        with transaction(self._engine) as connection:
            return lifecycle.end_cancelled_rows(connection, limit=_CANCELLED_AT_ONCE)

    def _sweep_batches(self) -> None:
        with transaction(self._engine) as connection:
            # Before lost messages are looked for: those of a paused batch are not lost.
            lifecycle.withdraw_held_rows(connection)
        with transaction(self._engine) as connection:
            lifecycle.forget_rested_hosts(connection)
            ended = lifecycle.end_batches(connection)
        for batch in ended:
            log.info("dispatcher.batch_ended", batch=batch.hex)

    def _send_lost_again(self) -> None:
        lengths = self._lengths.read()
        for queue in Queue:
            with transaction(self._engine) as connection:
                lost = lifecycle.publish_lost(
                    connection,
                    queue,
                    queue_is_empty=lengths[queue] == 0,
                    lost_seconds=self._settings.publish_lost_seconds,
                )
            if lost:
                log.warning("dispatcher.lost_messages", queue=queue.value, count=len(lost))
                self._send(queue, lost)

    def _rescue(self, now: float) -> None:
        # A lease length of grace after our own outage: until then the workers may have had no way to renew.
        if self._connected_since is None or now - self._connected_since < self._settings.lease_seconds:
            return
        asked = time.monotonic()
        with transaction(self._engine) as connection:  # asks first whether the server answers
            answered = time.monotonic()
            if answered - asked > self._settings.heartbeat_seconds:
                # It stood still, for the workers as well: their renewals may stand in line behind this very rescue.
                self._connected_since = answered
                return
            rescued = lifecycle.rescue(connection, self._settings)
        for job, status in rescued:
            log.warning("dispatcher.rescued", job=job.hex, status=status.value)
