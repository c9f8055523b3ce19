"""Celery's events of tasks, from which Flower learns what runs and how it ended: sent at once, so that none is lost.

Celery gathers them for a moment, and empties what it gathered after sending it, without a lock against those who add to
it: of a pool of threads, an event that comes while others are being sent is lost, and Flower shows the job as running
for ever. Sent one by one they go through a lock. A step of the consumer, whose dispatcher is a new one after each loss
of Redis.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps


class SendEventsAtOnce(bootsteps.StartStopStep):  # type: ignore[misc]
    """Makes the consumer's event dispatcher gather nothing."""

    requires = ("celery.worker.consumer.events:Events",)

    def start(self, parent: Any) -> None:
        """Called by Celery with the consumer, after it has made its event dispatcher."""
        parent.event_dispatcher.buffer_group = frozenset()
