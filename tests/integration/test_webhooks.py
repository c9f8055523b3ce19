"""A webhook reaches its receiver at least once, signed, whatever fails between; and it reaches nobody inside."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, insert, select, text
from standardwebhooks import Webhook as PublicLibrary
from structlog.testing import capture_logs

from common.ids import new_id
from common.post import Poster
from common.settings import Settings
from common.tables import webhooks
from common.webhook_signature import WebhookSignature
from infra.embedded.servers import EmbeddedServers
from producer.webhooks import OWNER_SLOTS, SLOTS, Turns, deliver_due, run
from tests.support.life import Life
from tests.support.receiver import HOST, Receiver, Request, running_receiver

BODY = {"type": "batch.done", "data": {"name": "Füchse", "completed": 3}}


@dataclass
class Hooks:
    """The rows of a test, and a deliverer for them."""

    life: Life
    settings: Settings

    def add(self, url: str, owner: UUID | None = None) -> UUID:
        """Write a webhook that is due, as whoever ends a batch does."""
        hook = new_id()
        row = {"id": hook, "owner_id": owner or self.life.owner, "event": "batch.done", "url": url, "body": BODY}
        with self.life.engine.begin() as connection:
            connection.execute(insert(webhooks).values(**row))
        return hook

    def deliver(self, limit: int = 100, **settings: Any) -> int:
        """Try what is due."""
        chosen = self.settings.model_copy(update=settings)
        return deliver_due(self.life.engine, chosen, Poster(chosen), limit)

    def row(self, hook: UUID) -> Mapping[str, Any]:
        """Return the row, and the seconds until it is due by the database's clock."""
        wait = text("extract(epoch FROM due_at - now())::float AS wait")
        with self.life.engine.begin() as connection:
            return dict(connection.execute(select(webhooks, wait).where(webhooks.c.id == hook)).mappings().one())

    def make_due(self) -> None:
        """Let so much time pass that every pause and every claim is over."""
        with self.life.engine.begin() as connection:
            connection.execute(text("UPDATE webhooks SET due_at = now() - interval '1 second'"))


@pytest.fixture
def hooks(module_life: Life) -> Iterator[Hooks]:
    """An owner without webhooks; receivers on loopback are allowed by name."""
    settings = module_life.settings.model_copy(update={"fetch_allow_hosts": (HOST,), "webhook_seconds": 20.0})
    yield Hooks(Life(module_life.engine, settings), settings)
    with module_life.engine.begin() as connection:
        connection.execute(delete(webhooks))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that takes everything."""
    with running_receiver() as receiver:
        yield receiver


def answers(status: int, **headers: str) -> Callable[[Request], None]:
    return lambda request: request.answer(status, **headers)


@contextmanager
def delivering(settings: Settings) -> Iterator[None]:
    """Let the dispatcher's thread deliver."""
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(settings, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


# --- what arrives


def test_a_webhook_arrives_once_and_the_public_library_says_that_it_is_ours(hooks: Hooks, receiver: Receiver) -> None:
    hook = hooks.add(receiver.url)
    assert hooks.deliver() == 1
    (came,) = receiver.deliveries
    assert came.id == str(hook)
    assert came.headers["content-type"] == "application/json"
    secret = hooks.settings.webhook_secret
    assert secret is not None
    assert PublicLibrary(secret.get_secret_value()).verify(came.body, came.headers) == BODY
    row = hooks.row(hook)
    assert (row["attempts"], row["failed_at"], row["last_error"]) == (1, None, None)
    assert row["delivered_at"] is not None
    hooks.make_due()
    assert hooks.deliver() == 0


def test_the_operator_may_choose_the_vendors_signature(hooks: Hooks, receiver: Receiver) -> None:
    hooks.add(receiver.url)
    hooks.deliver(webhook_signature=WebhookSignature.VENDOR)
    (came,) = receiver.deliveries
    secret = hooks.settings.webhook_secret
    assert secret is not None
    key = secret.get_secret_value().removeprefix("whsec_").encode()
    signed = f"{came.id}.{came.headers['webhook-timestamp']}.".encode() + came.body
    assert came.headers["webhook-signature"] == f"v3,{hmac.new(key, signed, hashlib.sha256).hexdigest()}"


def test_any_2xx_means_taken(hooks: Hooks) -> None:
    with running_receiver(answers(204)) as receiver:
        hook = hooks.add(receiver.url)
        hooks.deliver()
    assert hooks.row(hook)["delivered_at"] is not None


# --- where it may go


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"])
def test_an_inner_address_is_never_connected_to_and_not_tried_again(
    hooks: Hooks, receiver: Receiver, host: str
) -> None:
    hook = hooks.add(receiver.url.replace(HOST, host))
    assert hooks.deliver(fetch_allow_hosts=()) == 1
    assert receiver.connections == 0
    row = hooks.row(hook)
    assert row["failed_at"] is not None
    assert row["last_error"].startswith("this address is not allowed; give a public http(s) URL")
    hooks.make_due()
    assert hooks.deliver() == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(hooks: Hooks, receiver: Receiver, status: int) -> None:
    with running_receiver(answers(status, Location=receiver.url)) as moved:
        hook = hooks.add(moved.url)
        hooks.deliver()
    assert receiver.connections == 0
    row = hooks.row(hook)
    assert row["delivered_at"] is None
    assert f"HTTP {status}: redirects are not followed, so name the final URL" in row["last_error"]


def test_no_log_and_no_error_says_where_a_webhook_goes(hooks: Hooks) -> None:
    with running_receiver(answers(500)) as receiver, capture_logs() as logs:
        url = receiver.url
        hooks_of_a_kind = [hooks.add(f"{url}/services/hunter2?token=hunter2") for _ in range(2)]
        hooks.deliver(1)
        hooks.deliver(1, fetch_allow_hosts=())
    assert {line["event"] for line in logs} == {"webhook.retried_later", "webhook.failed"}
    for said in (str(logs), *(hooks.row(hook)["last_error"] for hook in hooks_of_a_kind)):
        assert "hunter2" not in said
        assert HOST not in said


# --- tries


def test_500s_are_tried_again_under_the_same_id_with_growing_pauses_and_then_no_more(hooks: Hooks) -> None:
    with running_receiver(answers(500)) as receiver:
        hook = hooks.add(receiver.url)
        waits = []
        for _ in range(4):
            assert hooks.deliver(webhook_max_attempts=4, webhook_backoff_seconds=500.0) == 1
            assert hooks.deliver() == 0, "it is not due again at once"
            waits.append(hooks.row(hook)["wait"])
            hooks.make_due()
        assert hooks.deliver() == 0, "that was the last try"
    assert {came.id for came in receiver.deliveries} == {str(hook)}
    assert len(receiver.deliveries) == 4
    for wait, least, most in zip(waits[:3], (250, 500, 1000), (750, 1500, 3000), strict=True):
        assert least - 60 < wait <= most
    row = hooks.row(hook)
    assert row["failed_at"] is not None
    assert row["last_error"] == "the receiver answered HTTP 500"


def test_a_pause_is_never_longer_than_the_longest(hooks: Hooks) -> None:
    with running_receiver(answers(503)) as receiver:
        hook = hooks.add(receiver.url)
        hooks.deliver(webhook_backoff_seconds=400.0, webhook_backoff_max_seconds=400.0)
        hooks.make_due()
        hooks.deliver(webhook_backoff_seconds=400.0, webhook_backoff_max_seconds=400.0)
    assert 200 - 60 < hooks.row(hook)["wait"] <= 600


def test_a_receiver_that_asks_for_a_longer_pause_gets_it(hooks: Hooks) -> None:
    with running_receiver(answers(429, Retry_After="1000")) as receiver:
        hook = hooks.add(receiver.url)
        hooks.deliver()
    assert 1000 - 60 < hooks.row(hook)["wait"] <= 1000


def test_a_receiver_that_is_gone_for_good_is_left_alone(hooks: Hooks) -> None:
    with running_receiver(answers(410)) as receiver:
        hook = hooks.add(receiver.url)
        hooks.deliver()
        hooks.make_due()
        assert hooks.deliver() == 0
    assert hooks.row(hook)["failed_at"] is not None


def test_a_receiver_that_is_back_gets_what_it_missed(hooks: Hooks) -> None:
    with running_receiver() as receiver:
        url = receiver.url
    hook = hooks.add(url)
    hooks.deliver()
    assert hooks.row(hook)["last_error"] == "the connection could not be made or broke off"
    with running_receiver() as receiver:
        with hooks.life.engine.begin() as connection:
            connection.execute(text("UPDATE webhooks SET url = :url"), {"url": receiver.url})  # its port is a new one
        hooks.make_due()
        hooks.deliver()
    assert hooks.row(hook)["delivered_at"] is not None
    assert hooks.row(hook)["last_error"] is None


def endless_headers(request: Request) -> None:
    request.send_response_only(200)
    request.flush_headers()
    for _ in range(1200):  # a minute, unless the sender leaves
        request.wfile.write(b"X-More: yes\r\n")
        time.sleep(0.05)


def test_an_answer_that_drips_is_cut_off_in_time(hooks: Hooks) -> None:
    with running_receiver(endless_headers) as receiver:
        hook = hooks.add(receiver.url)
        started = time.monotonic()
        hooks.deliver(webhook_seconds=0.4)
        assert time.monotonic() - started < 20
    assert hooks.row(hook)["last_error"] == "no answer within the time allowed"


def endless_body(request: Request) -> None:
    request.send_response(200)
    request.end_headers()
    while True:  # until the sender leaves
        request.wfile.write(b"x" * 65536)


def test_an_endless_body_after_a_200_is_not_read(hooks: Hooks) -> None:
    with running_receiver(endless_body) as receiver:
        hook = hooks.add(receiver.url)
        started = time.monotonic()
        hooks.deliver(webhook_seconds=60.0)
        assert time.monotonic() - started < 20
    assert hooks.row(hook)["delivered_at"] is not None


# --- many deliverers, and those that die


def test_three_deliverers_at_once_deliver_each_of_twenty_once(hooks: Hooks) -> None:
    all_at_it = threading.Barrier(3)
    numbers = itertools.count()

    def together(request: Request) -> None:
        if next(numbers) < all_at_it.parties:
            all_at_it.wait(60)
        request.answer()

    with running_receiver(together) as receiver:
        made = {str(hooks.add(receiver.url)) for _ in range(20)}
        with ThreadPoolExecutor(3) as pool:
            shares = list(pool.map(lambda _: hooks.deliver(webhook_seconds=60.0), range(3)))
    assert sorted(came.id for came in receiver.deliveries) == sorted(made)
    assert sum(shares) == 20
    assert all(shares), "one of them did nothing"


def test_a_webhook_that_is_being_posted_is_nobody_elses_and_locks_nothing(hooks: Hooks) -> None:
    meanwhile: list[object] = []

    def look(request: Request) -> None:
        meanwhile.append(hooks.deliver())
        with hooks.life.engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '500ms'"))
            meanwhile.append(connection.execute(text("UPDATE webhooks SET event = event")).rowcount)
        request.answer()

    with running_receiver(look) as receiver:
        hooks.add(receiver.url)
        hooks.deliver()
    assert meanwhile == [0, 1]


def test_what_a_killed_deliverer_had_claimed_is_delivered_under_the_same_id(hooks: Hooks, receiver: Receiver) -> None:
    hook = hooks.add(receiver.url)
    with Turns().claim(hooks.life.engine, hooks.settings) as claimed:
        assert claimed is not None  # and here its process is killed
    assert hooks.deliver() == 0, "its claim still holds"
    assert hooks.row(hook)["wait"] < 60
    hooks.make_due()
    assert hooks.deliver() == 1
    assert [came.id for came in receiver.deliveries] == [str(hook)]


def test_a_deliverer_that_dies_at_every_try_does_not_try_for_ever(hooks: Hooks, receiver: Receiver) -> None:
    hook = hooks.add(receiver.url)
    for _ in range(hooks.settings.webhook_max_attempts):
        with Turns().claim(hooks.life.engine, hooks.settings) as claimed:
            assert claimed is not None
        hooks.make_due()
    hooks.deliver()
    assert receiver.connections == 0
    assert hooks.row(hook)["failed_at"] is not None


def test_a_try_that_outlived_its_claim_takes_nothing_back(hooks: Hooks) -> None:
    def overtaken(request: Request) -> None:
        if len(slow.deliveries) > 1:
            request.answer(200)
            return
        hooks.make_due()  # so long did this answer take
        hooks.deliver()
        request.answer(410)

    with running_receiver(overtaken) as slow:
        hook = hooks.add(slow.url)
        hooks.deliver()
    row = hooks.row(hook)
    assert row["delivered_at"] is not None
    assert (row["failed_at"], row["last_error"], row["attempts"]) == (None, None, 2)


# --- the dispatcher's thread


def test_the_dispatcher_delivers_what_becomes_due_and_one_slow_receiver_delays_nobody_else(
    hooks: Hooks, receiver: Receiver
) -> None:
    let_go = threading.Event()

    def hang(request: Request) -> None:
        let_go.wait(100)
        request.answer()

    patient = hooks.settings.model_copy(update={"webhook_seconds": 60.0})
    with running_receiver(hang) as slow, delivering(patient):
        stuck = [hooks.add(slow.url) for _ in range(2 * SLOTS)]
        slow.wait_for(OWNER_SLOTS)
        others = {str(hooks.add(receiver.url, hooks.life.new_owner())) for _ in range(SLOTS)}
        assert {came.id for came in receiver.wait_for(SLOTS, seconds=40.0)} == others
        assert len(slow.deliveries) == OWNER_SLOTS, "one owner took more than its share"
        let_go.set()
        slow.wait_for(len(stuck))
    assert all(hooks.row(hook)["delivered_at"] for hook in stuck)


def test_an_outage_of_postgres_is_waited_out(hooks: Hooks, receiver: Receiver, servers: EmbeddedServers) -> None:
    with delivering(hooks.settings):
        hooks.add(receiver.url)
        receiver.wait_for(1)
        servers.postgres.kill()
        try:
            time.sleep(2 * hooks.settings.dispatcher_poll_seconds)
        finally:
            servers.postgres.start()
        hooks.add(receiver.url)
        receiver.wait_for(2)


def test_without_a_secret_nothing_is_sent_and_nothing_is_lost(hooks: Hooks, receiver: Receiver) -> None:
    hook = hooks.add(receiver.url)
    off = hooks.settings.model_copy(update={"webhook_secret": None})
    run(off, threading.Event())  # returns although nobody stops it
    assert hooks.deliver(webhook_secret=None) == 0
    assert hooks.row(hook)["attempts"] == 0
    assert hooks.deliver() == 1
    assert receiver.deliveries[0].id == str(hook)
