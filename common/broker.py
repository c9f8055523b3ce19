"""Celery on Redis as a doorbell: the one app, its two queues, and the sending of a job's message.

A message carries the job's id and nothing else, so an injected one can do no more than name a job. The transport
options must be the same in producers, workers and Flower, which is why they stand here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

from celery import Celery
from kombu.entity import Queue as KombuQueue
from kombu.exceptions import KombuError
from redis import Redis
from redis.exceptions import RedisError

from common.contract import Queue
from common.errors import Transient
from common.settings import Settings

FILL_TASK: Final = "fill"
QUEUE_NAMES: Final = {Queue.INTERACTIVE: "fill.interactive", Queue.BULK: "fill.bulk"}
"""In the order in which workers look."""

_BATCH: Final = 500


def make_app(settings: Settings) -> Celery:
    """Return the Celery app. Why each option is as it is: docs/decisions/0005-celery-settings.md."""
    app = Celery("fillfleet", broker=settings.redis_url.get_secret_value(), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        broker_connection_max_retries=None,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "visibility_timeout": settings.broker_visibility_seconds,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "queue_order_strategy": "priority",
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
        },
        enable_utc=True,
        result_backend=None,
        task_acks_late=True,
        task_create_missing_queues=False,
        task_default_queue=QUEUE_NAMES[Queue.BULK],
        task_ignore_result=True,
        # Celery sends to a direct queue over the default exchange, whose route is the queue's name: a FLUSHALL takes
        # bindings away, but none that a message needs.
        task_queues=[KombuQueue(name, routing_key=name) for name in QUEUE_NAMES.values()],
        task_reject_on_worker_lost=True,
        task_send_sent_event=False,
        task_serializer="json",
        timezone="UTC",
        worker_hijack_root_logger=False,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
    )
    return app


def task_id(job: UUID, publish_no: int) -> str:
    """Return the Celery id of a job's n-th message: Flower leads back to the job, and a revoked id never blocks."""
    return f"{job.hex}.{publish_no}"


def send(app: Celery, queue: Queue, messages: Iterable[tuple[UUID, int]]) -> None:
    """Send one message for each (job, publish number). Raises Transient where Redis does not take them.

    After an error some of them may have been delivered: the claim makes doubles harmless.
    """
    name = QUEUE_NAMES[queue]
    waiting = list(messages)
    try:
        with app.producer_pool.acquire(block=True, timeout=10) as producer:
            for start in range(0, len(waiting), _BATCH):
                with producer.batch(_BATCH):
                    for job, number in waiting[start : start + _BATCH]:
                        app.send_task(
                            FILL_TASK,
                            args=[job.hex],
                            task_id=task_id(job, number),
                            queue=name,
                            producer=producer,
                            retry=False,
                        )
    except (KombuError, RedisError, OSError) as error:  # a batch that breaks off is no OperationalError of kombu's
        raise Transient("broker_unavailable", "Redis does not take messages") from error


class QueueLengths:
    """How many messages lie in Redis, by queue."""

    def __init__(self, settings: Settings) -> None:
        self._redis: Any = Redis.from_url(
            settings.redis_url.get_secret_value(), socket_timeout=5, socket_connect_timeout=5
        )

    def read(self) -> dict[Queue, int]:
        """Return the length of each queue. Raises Transient where Redis does not answer."""
        try:
            return {queue: int(self._redis.llen(name)) for queue, name in QUEUE_NAMES.items()}
        except RedisError as error:
            raise Transient("broker_unavailable", "Redis does not answer") from error

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()
