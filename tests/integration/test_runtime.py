"""What a worker process holds, put together as in production: its probe of our servers, and a model that hangs."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.settings import Settings
from tests.support.fleet import SLEEPING, Fleet
from tests.support.sleeping_model import SleepingModel
from worker.runtime import Runtime


class Hangs(SleepingModel):
    """A model whose download hangs until the test is over."""

    over = threading.Event()

    def __init__(self, settings: Settings) -> None:
        self.over.wait(120)
        super().__init__(settings)


def test_a_bucket_that_is_gone_pauses_claiming_although_the_store_answers(fleet: Fleet, settings: Settings) -> None:
    image = f"s3://no-such-bucket/inputs/{fleet.owner.hex}/a.png"
    first, second = (fleet.submit(image=image) for _ in range(2))
    runtime = Runtime(settings.model_copy(update={"test_model_class": SLEEPING, "s3_bucket": "no-such-bucket"}))
    runtime.start()
    with ThreadPoolExecutor(1) as pool:
        runtime.run(first)
        assert fleet.events(first) == ["created", "claimed", "released"]
        assert fleet.row(first)["failures"] == 0
        waiting = pool.submit(runtime.run, second)
        time.sleep(1.0)
        assert fleet.events(second) == ["created"], "it says of every object that it is not there, and takes none"
        runtime.drain()
        waiting.result(60)
    runtime.close()
    assert fleet.events(second) == ["created"]


def test_a_model_that_does_not_load_in_time_ends_the_start(settings: Settings) -> None:
    stand_in = f"{Hangs.__module__}:{Hangs.__name__}"
    runtime = Runtime(settings.model_copy(update={"test_model_class": stand_in, "model_load_seconds": 0.5}))
    with pytest.raises(TimeoutError, match="MODEL_LOAD_SECONDS"):
        runtime.start()
    Hangs.over.set()
    runtime.close()
