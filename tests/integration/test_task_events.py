"""What Flower is told: the start and the end of every task, also where many end at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from celery import Celery

from common.broker import make_app
from tests.support.fleet import Fleet

JOBS = 40


@contextmanager
def listening(app: Celery, heard: Counter[tuple[str, str]]) -> Iterator[None]:
    """Count the events of each task by (task id, event) meanwhile, as Flower would hear them."""

    def hear(event: dict[str, Any]) -> None:
        if "uuid" in event:
            heard[(event["uuid"], event["type"])] += 1

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": hear})
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None, "wakeup": False})
        thread.start()
        try:
            yield
        finally:
            receiver.should_stop = True
            thread.join()


def test_the_start_and_the_end_of_every_task_is_told(fleet: Fleet) -> None:
    heard: Counter[tuple[str, str]] = Counter()
    fleet.start("dispatcher")
    with listening(make_app(fleet.settings), heard):
        fleet.start_sleeping_worker(step_seconds=0.001)
        jobs = [fleet.submit(num_inference_steps=1) for _ in range(JOBS)]
        fleet.until(fleet.all_over, "all jobs are over")
        told = {(f"{job.hex}.1", event) for job in jobs for event in ("task-started", "task-succeeded")}
        with suppress(AssertionError):  # the next line says better what is missing
            fleet.until(lambda: told <= set(heard), "every event has come")
    assert Counter(event for _, event in told - set(heard)) == Counter()
