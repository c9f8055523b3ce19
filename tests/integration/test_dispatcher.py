"""The dispatcher publishes what is due, keeps its window, sends lost messages again, and outlives Redis."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import insert, text, update

from common import lifecycle
from common.broker import QUEUE_NAMES, make_app, send
from common.contract import Queue
from common.errors import Transient
from common.ids import new_id
from common.settings import Settings
from common.tables import jobs, owners
from infra.embedded.servers import EmbeddedServers
from producer.dispatcher import Dispatcher, run
from tests.support.fleet import Fleet

SOURCE: dict[str, Any] = {"image": "https://example.com/a.png", "mask_image": "https://example.com/b.png"}


@pytest.fixture
def broker(settings: Settings) -> Iterator[Redis]:
    """A client of the test's Redis database."""
    client = Redis.from_url(settings.redis_url.get_secret_value(), decode_responses=True)
    yield client
    client.close()


@pytest.fixture
def dispatcher(settings: Settings) -> Iterator[Dispatcher]:
    """A dispatcher that the test steps by hand."""
    dispatcher = Dispatcher(settings)
    yield dispatcher
    dispatcher.close()


def step_until(dispatcher: Dispatcher, true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Step until something is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never became so"
        dispatcher.step(threading.Event())


def length(broker: Redis, queue: Queue) -> int:
    return int(broker.llen(QUEUE_NAMES[queue]))


def test_a_new_job_is_published_at_once_and_names_only_itself(fleet: Fleet, settings: Settings, broker: Redis) -> None:
    patient = settings.model_copy(update={"dispatcher_poll_seconds": 3600.0})
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(patient, stop))
    thread.start()
    time.sleep(0.5)
    job = fleet.submit(queue=Queue.INTERACTIVE, **SOURCE)
    fleet.until(lambda: length(broker, Queue.INTERACTIVE) == 1, "it is in Redis well before the next poll")
    message = str(broker.lindex(QUEUE_NAMES[Queue.INTERACTIVE], 0))
    assert f'"id": "{job.hex}.1"' in message
    assert "example.com" not in message
    stop.set()
    fleet.submit(**SOURCE)  # rings the bell, so that the thread sees `stop`
    thread.join(60)
    assert not thread.is_alive()


def test_redis_never_holds_more_than_the_window(fleet: Fleet, dispatcher: Dispatcher, broker: Redis) -> None:
    for _ in range(40):
        fleet.submit(**SOURCE)
    for _ in range(3):
        dispatcher.step(threading.Event())
    assert length(broker, Queue.BULK) == 32


def test_a_full_bulk_window_does_not_hold_up_interactive_jobs(
    fleet: Fleet, dispatcher: Dispatcher, broker: Redis
) -> None:
    for _ in range(40):
        fleet.submit(**SOURCE)
    dispatcher.step(threading.Event())
    fleet.submit(queue=Queue.INTERACTIVE, **SOURCE)
    dispatcher.step(threading.Event())
    assert length(broker, Queue.INTERACTIVE) == 1


def test_owners_take_turns(fleet: Fleet, settings: Settings, broker: Redis) -> None:
    first, second = fleet.owner, new_id()
    crowd = [fleet.submit(queue=Queue.INTERACTIVE, **SOURCE) for _ in range(20)]
    with fleet.engine.begin() as connection:
        connection.execute(insert(owners).values(id=second, name="second"))
    fleet.owner = second
    single = fleet.submit(queue=Queue.INTERACTIVE, **SOURCE)
    fleet.owner = first
    dispatcher = Dispatcher(settings)
    dispatcher.step(threading.Event())
    dispatcher.close()
    places = {job: fleet.row(job)["publish_seq"] for job in [single, *crowd]}
    messages = [str(text) for text in broker.lrange(QUEUE_NAMES[Queue.INTERACTIVE], 0, -1)]
    order = [next(job for job in places if job.hex in text) for text in reversed(messages)]
    assert order.index(single) <= 1, "behind one job of the other owner at most"


def test_a_flushed_redis_gets_its_messages_again_under_a_new_number(
    fleet: Fleet, dispatcher: Dispatcher, broker: Redis
) -> None:
    job = fleet.submit(**SOURCE)
    dispatcher.step(threading.Event())
    broker.flushdb()
    time.sleep(1.1)  # PUBLISH_LOST_SECONDS
    step_until(dispatcher, lambda: length(broker, Queue.BULK) == 1)
    assert f'"id": "{job.hex}.2"' in str(broker.lindex(QUEUE_NAMES[Queue.BULK], 0))


def test_a_single_lost_message_is_found_when_a_later_one_is_claimed(
    fleet: Fleet, dispatcher: Dispatcher, broker: Redis
) -> None:
    lost, later, waiting = (fleet.submit(**SOURCE) for _ in range(3))
    with fleet.engine.begin() as connection:  # publishes in this order
        for job in (lost, later, waiting):
            connection.execute(update(jobs).where(jobs.c.id == job).values(available_at=jobs.c.created_at))
    dispatcher.step(threading.Event())
    name = QUEUE_NAMES[Queue.BULK]
    by_place = sorted((lost, later, waiting), key=lambda job: int(fleet.row(job)["publish_seq"]))
    gone = next(str(text) for text in broker.lrange(name, 0, -1) if by_place[0].hex in str(text))
    broker.lrem(name, 1, gone)
    with fleet.engine.begin() as connection:
        assert lifecycle.claim(connection, by_place[1], worker="w", lease_seconds=60)
    time.sleep(1.1)
    for _ in range(3):
        dispatcher.step(threading.Event())
    assert fleet.row(by_place[0])["publish_no"] == 2
    assert fleet.row(by_place[2])["publish_no"] == 1, "it may still be in the queue: nothing later was claimed"


def test_jobs_submitted_while_redis_is_down_are_published_when_it_is_back(
    fleet: Fleet, servers: EmbeddedServers, dispatcher: Dispatcher, broker: Redis
) -> None:
    servers.redis.kill()
    job = fleet.submit(**SOURCE)
    dispatcher.step(threading.Event())
    assert fleet.row(job)["publish_seq"] is None, "what Redis did not take waits again"
    servers.redis.start()
    step_until(dispatcher, lambda: length(broker, Queue.BULK) == 1)


def test_redis_that_dies_under_a_batch_of_messages_is_trouble_that_passes(
    servers: EmbeddedServers, settings: Settings
) -> None:
    app = make_app(settings)
    try:
        send(app, Queue.BULK, [(new_id(), 1)])  # so that a connection stands, which breaks off in the middle
        servers.redis.kill()
        try:
            with pytest.raises(Transient, match="does not take messages"):
                send(app, Queue.BULK, [(new_id(), 1), (new_id(), 1)])
        finally:
            servers.redis.start()
        send(app, Queue.BULK, [(new_id(), 1)])
    finally:
        app.close()


def test_no_job_is_rescued_before_the_dispatcher_was_connected_for_a_lease_length(
    fleet: Fleet, settings: Settings
) -> None:
    dispatcher = Dispatcher(settings.model_copy(update={"lease_seconds": 3.0}))
    job = fleet.submit(**SOURCE)
    with fleet.engine.begin() as connection:
        assert lifecycle.claim(connection, job, worker="dead", lease_seconds=0.01)
    began = time.monotonic()
    step_until(dispatcher, lambda: fleet.row(job)["status"] == "created")
    assert time.monotonic() - began >= 3.0
    dispatcher.close()


@contextmanager
def standing_still(pids: Sequence[int], seconds: float) -> Iterator[list[float]]:
    """Stop processes for so long; when they went on (by the monotonic clock) is then in the list that is yielded."""
    went_on: list[float] = []

    def go_on() -> None:
        went_on.append(time.monotonic())
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    timer = threading.Timer(seconds, go_on)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    timer.start()
    try:
        yield went_on
    finally:
        timer.join()


def test_a_database_that_stood_still_lets_the_workers_renew_before_anybody_is_rescued(
    fleet: Fleet, settings: Settings
) -> None:
    lease_seconds = 1.5
    dispatcher = Dispatcher(settings.model_copy(update={"lease_seconds": lease_seconds}))
    warm_up = time.monotonic() + lease_seconds + 0.5
    step_until(dispatcher, lambda: time.monotonic() > warm_up)
    job = fleet.submit(**SOURCE)
    with fleet.engine.begin() as connection:
        assert lifecycle.claim(connection, job, worker="slow", lease_seconds=0.01)
        backends = text("SELECT pid FROM pg_stat_activity WHERE application_name = 'fillfleet dispatcher'")
        pids = list(connection.execute(backends).scalars())
    time.sleep(0.5)  # a poll interval, and more: the next step sweeps
    # Far longer than a heartbeat, since we may stand still ourselves before our question is out.
    with standing_still(pids, 5.0) as went_on:
        dispatcher.step(threading.Event())
        assert fleet.row(job)["status"] == "processing"
    step_until(dispatcher, lambda: fleet.row(job)["status"] == "created")
    assert time.monotonic() - went_on[0] > lease_seconds
    dispatcher.close()


def test_an_idle_dispatcher_asks_the_database_only_once_in_a_poll_interval(fleet: Fleet, settings: Settings) -> None:
    slow = settings.model_copy(update={"dispatcher_poll_seconds": 0.5})
    dispatcher = Dispatcher(slow)
    dispatcher.step(threading.Event())
    began, steps = time.monotonic(), 0
    while time.monotonic() - began < 2.0:
        dispatcher.step(threading.Event())
        steps += 1
    dispatcher.close()
    assert steps <= 5
