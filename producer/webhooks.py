"""Delivers webhooks: signed, at least once, with pauses between tries, by any number of dispatchers at once.

The row in `webhooks` is the truth: whoever ends a batch writes it in the same transaction, and here it is posted until
the receiver takes it. Nothing is posted inside a transaction, and no log names a URL: knowing one may be all it takes
to post there.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Engine, and_, func, null, select, update

from common.database import make_engine, transaction
from common.errors import Rejected, Transient, Unavailable
from common.post import Answer, Poster, check_post_url
from common.settings import Settings
from common.tables import webhooks
from common.telemetry import get_logger
from common.urls import BadUrl, shown
from common.webhook_signature import signed_headers

log = get_logger(__name__)

MAX_URL_CHARACTERS: Final = 2048
SLOTS: Final = 4
"""Deliveries of one process at once: a slow receiver holds up one of them."""
OWNER_SLOTS: Final = SLOTS // 2
"""What one owner may have of them: its dead receiver delays nobody else."""
_RECORDING_SECONDS: Final = 30.0
"""How long a claim outlives the post itself: time to write down what came of it."""
_PENDING: Final = and_(webhooks.c.delivered_at.is_(None), webhooks.c.failed_at.is_(None))
_DUE: Final = and_(_PENDING, webhooks.c.due_at <= func.now())


def check_webhook_url(url: str, settings: Settings) -> None:
    """Raise Rejected (webhooks_off, webhook_url_invalid) where nothing could ever be delivered to `url`.

    Looks at the form alone: addresses are checked at every delivery.
    """
    if settings.webhook_secret is None:
        raise Rejected("webhooks_off", "webhook_url: webhooks are off here: the operator sets WEBHOOK_SECRET")
    try:
        if len(url) > MAX_URL_CHARACTERS:
            raise BadUrl(f"is {len(url)} characters long; at most {MAX_URL_CHARACTERS} are allowed")
        check_post_url(url)
    except BadUrl as error:
        raise Rejected("webhook_url_invalid", f"webhook_url: {shown(url)} {error}") from None


def run(settings: Settings, stop: threading.Event) -> None:
    """Deliver until `stop` is set, waiting out what Postgres may do; returns at once where webhooks are off."""
    if settings.webhook_secret is None:
        log.info("webhooks.off", hint="set WEBHOOK_SECRET to have them delivered")
        return
    engine = make_engine(settings, pool_size=SLOTS + 1, application="fillfleet webhooks")
    try:
        with ThreadPoolExecutor(SLOTS, thread_name_prefix="webhook") as pool:
            poster, turns, busy = Poster(settings), Turns(), set[Future[None]]()
            while not stop.is_set():
                busy = {slot for slot in busy if not slot.done()}
                if _is_any_due(engine):
                    free = SLOTS - len(busy)
                    busy |= {pool.submit(_serve, engine, settings, poster, turns, stop) for _ in range(free)}
                stop.wait(settings.dispatcher_poll_seconds)
    finally:
        engine.dispose()


@dataclass(frozen=True)
class Webhook:
    """One row, claimed for one try."""

    id: UUID
    owner: UUID
    event: str
    url: str
    body: Any
    attempt: int


class Turns:
    """The webhooks that this process is posting, so that no owner has more than OWNER_SLOTS of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._posting: Counter[UUID] = Counter()

    @contextmanager
    def claim(self, engine: Engine, settings: Settings) -> Iterator[Webhook | None]:
        """Claim one due webhook for the length of the block, or None where none is due. Raises Unavailable."""
        with self._lock:
            webhook = _claim(engine, settings, [owner for owner, n in self._posting.items() if n >= OWNER_SLOTS])
            if webhook is not None:
                self._posting[webhook.owner] += 1
        try:
            yield webhook
        finally:
            if webhook is not None:
                with self._lock:
                    self._posting[webhook.owner] -= 1
                    self._posting += Counter()  # forgets those at zero


def deliver_due(engine: Engine, settings: Settings, poster: Poster, limit: int, turns: Turns | None = None) -> int:
    """Try at most `limit` due webhooks, one after the other, and return how many were tried: 0 where webhooks are off.

    Raises Unavailable; a try whose outcome could not be written down is repeated later, under the same webhook-id.
    """
    if settings.webhook_secret is None:
        return 0
    secret = settings.webhook_secret.get_secret_value()
    turns = turns or Turns()
    for tried in range(limit):
        with turns.claim(engine, settings) as webhook:
            if webhook is None:
                return tried
            _record(engine, settings, webhook, _try(settings, secret, poster, webhook))
    return limit


def _is_any_due(engine: Engine) -> bool:
    try:
        with transaction(engine) as connection:
            return connection.execute(select(webhooks.c.id).where(_DUE).limit(1)).first() is not None
    except Unavailable as error:
        log.warning("webhooks.outage", code=error.code)
        return False


def _serve(engine: Engine, settings: Settings, poster: Poster, turns: Turns, stop: threading.Event) -> None:
    """Deliver until nothing is due any more."""
    try:
        while not stop.is_set() and deliver_due(engine, settings, poster, 1, turns):
            pass
    except Unavailable as error:
        log.warning("webhooks.outage", code=error.code)
    except Exception:
        # One webhook that meets a bug must not end all others'; its claim runs out and its tries are counted.
        log.exception("webhooks.broken")


def _claim(engine: Engine, settings: Settings, full_owners: list[UUID]) -> Webhook | None:
    """Take the webhook that is due for longest, raising its attempt: nobody else gets it before the claim runs out."""
    next_due = (
        select(webhooks.c.id)
        .where(_DUE, webhooks.c.owner_id.not_in(full_owners))
        .order_by(webhooks.c.due_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    claim = (
        update(webhooks)
        .where(webhooks.c.id == next_due.scalar_subquery())
        .values(
            attempts=webhooks.c.attempts + 1,
            due_at=func.now() + timedelta(seconds=settings.webhook_seconds + _RECORDING_SECONDS),
        )
        .returning(
            webhooks.c.id, webhooks.c.owner_id, webhooks.c.event, webhooks.c.url, webhooks.c.body, webhooks.c.attempts
        )
    )
    with transaction(engine) as connection:
        row = connection.execute(claim).first()
    return None if row is None else Webhook(*row)


class _Verdict(Enum):
    DELIVERED = auto()
    AGAIN = auto()
    NEVER = auto()


@dataclass(frozen=True)
class _Outcome:
    verdict: _Verdict
    error: str | None = None
    pause_seconds: float = 0.0
    """How long the receiver asked to be left alone."""


def _try(settings: Settings, secret: str, poster: Poster, webhook: Webhook) -> _Outcome:
    if webhook.attempt > settings.webhook_max_attempts:  # the last try never came to its end
        return _Outcome(_Verdict.NEVER, "the sender broke off during the last try")
    body = json.dumps(webhook.body, separators=(",", ":")).encode()
    headers = signed_headers(
        secret,
        settings.webhook_signature,
        webhook_id=str(webhook.id),
        timestamp=int(time.time()),
        body=body,
    )
    headers["Content-Type"] = "application/json"
    try:
        return _judged(poster.post(webhook.url, body, headers, seconds=settings.webhook_seconds))
    except Rejected as error:
        return _Outcome(_Verdict.NEVER, error.message)
    except Transient as error:
        return _Outcome(_Verdict.AGAIN, error.message)


def _judged(answer: Answer) -> _Outcome:
    if 200 <= answer.status < 300:
        return _Outcome(_Verdict.DELIVERED)
    said = f"the receiver answered HTTP {answer.status}"
    if answer.status == 410:
        return _Outcome(_Verdict.NEVER, f"{said}: it wants no more of these")
    if 300 <= answer.status < 400:
        said += ": redirects are not followed, so name the final URL"
    return _Outcome(_Verdict.AGAIN, said, answer.retry_after_seconds or 0.0)


def _record(engine: Engine, settings: Settings, webhook: Webhook, outcome: _Outcome) -> None:
    is_last = outcome.verdict is _Verdict.NEVER or webhook.attempt >= settings.webhook_max_attempts
    # That it was delivered is true whoever else has claimed it since; that it was not is for the latest claim to say.
    mine = and_(webhooks.c.id == webhook.id, webhooks.c.delivered_at.is_(None))
    if outcome.verdict is _Verdict.DELIVERED:
        change = update(webhooks).where(mine).values(delivered_at=func.now(), failed_at=null(), last_error=null())
    else:
        pause = timedelta(seconds=max(_backoff_seconds(webhook.attempt, settings), outcome.pause_seconds))
        when = {"failed_at": func.now()} if is_last else {"due_at": func.now() + pause}
        fenced = and_(mine, _PENDING, webhooks.c.attempts == webhook.attempt)
        change = update(webhooks).where(fenced).values(last_error=outcome.error, **when)
    with transaction(engine) as connection:
        connection.execute(change)
    said = {"webhook": webhook.id.hex, "event_type": webhook.event, "attempt": webhook.attempt}
    if outcome.verdict is _Verdict.DELIVERED:
        log.info("webhook.delivered", **said)
    else:
        log.warning("webhook.failed" if is_last else "webhook.retried_later", error=outcome.error, **said)


def _backoff_seconds(attempt: int, settings: Settings) -> float:
    pause = min(settings.webhook_backoff_max_seconds, settings.webhook_backoff_seconds * 2.0 ** (attempt - 1))
    return pause * random.uniform(0.5, 1.5)  # noqa: S311 - keeps a thousand from coming back in the same second
