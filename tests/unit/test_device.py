"""The device runs one job at a time, chooses by adapters within bounds, and lets go of waiting jobs at a drain."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from common.errors import Cancelled, Draining, LeaseLost
from common.ids import new_id
from common.settings import Environment, Settings
from worker.device import Device, Filled
from worker.fill import compute
from worker.lease import Lease
from worker.work import Adapter, DeviceBroken, Tick, Work

SECONDS = 60.0
"""A limit for what hangs, not for a machine that has much to do."""


class GatedModel:
    """A model whose fills wait for the test to let them through, one by one."""

    def __init__(self) -> None:
        self.version = {"model": "gated"}
        self.resident: frozenset[str] = frozenset()
        self.started: list[str] = []
        self.gate = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.at_once = 0
        self.most_at_once = 0
        self.prepared_on: set[str] = set()
        self.developed_on: set[str] = set()

    def check_adapter(self, path: Path, what: str) -> None:
        """Accept every file."""

    def prepare(self, work: Work) -> Work:
        """Note which thread prepares."""
        self.prepared_on.add(threading.current_thread().name)
        return work

    def develop(self, made: list[Image.Image]) -> list[Image.Image]:
        """Note which thread develops."""
        self.developed_on.add(threading.current_thread().name)
        return made

    def run(self, prepared: Work, tick: Tick) -> list[Image.Image]:
        """Wait for the gate, ticking."""
        work = prepared
        self.started.append(work.prompt)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.entered.release()
        try:
            while not self.gate.acquire(timeout=0.02):
                if work.prompt != "hangs":
                    tick("step")
            tick("decode")
            if work.prompt == "broken":
                raise DeviceBroken("sticky")
            if work.prompt == "times out":
                raise TimeoutError("the model's own")
            if work.adapters:
                self.resident = frozenset(adapter.sha256 for adapter in work.adapters)
            return [Image.new("RGB", (work.width, work.height)) for _ in work.seeds]
        finally:
            self.at_once -= 1


def work(prompt: str, *shas: str) -> Work:
    image = Image.new("RGB", (16, 16))
    adapters = tuple(Adapter(sha, sha, Path("/nowhere"), 1, 1.0) for sha in shas)
    return Work(image, Image.new("L", (16, 16)), 16, 16, prompt, 1, 30.0, (1,), adapters)


def lease() -> Lease:
    return Lease(new_id(), 1, lambda: None)


class Bench:
    """A device with a gated model that is loaded."""

    def __init__(self, max_overtakes: int = 8, overtake_seconds: float = 60.0) -> None:
        self.model = GatedModel()
        self.broken = threading.Event()
        settings = Settings(
            fillfleet_env=Environment.DEVELOPMENT,
            device_max_overtakes=max_overtakes,
            device_overtake_seconds=overtake_seconds,
        )
        self.device = Device(settings, on_broken=self.broken.set)
        self.device.start(lambda: self.model).result(SECONDS)

    def submit(self, prompt: str, *shas: str, held: Lease | None = None) -> Future[Filled]:
        return self.device.submit(work(prompt, *shas), held or lease())

    def occupy(self) -> Future[Filled]:
        """Put a job on the device and return once it is there."""
        future = self.submit("first")
        assert self.model.entered.acquire(timeout=SECONDS)
        return future

    def let_through(self, count: int) -> None:
        for _ in range(count):
            self.model.gate.release()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.let_through(100)
    bench.device.stop(SECONDS)


def test_one_job_runs_at_a_time(bench: Bench) -> None:
    futures = [bench.submit(str(number)) for number in range(5)]
    bench.let_through(5)
    assert all(len(future.result(SECONDS).images) == 1 for future in futures)
    assert bench.model.most_at_once == 1
    assert bench.model.started == ["0", "1", "2", "3", "4"]


def test_only_compute_is_on_the_devices_thread(bench: Bench) -> None:
    held = lease()
    with ThreadPoolExecutor(1, thread_name_prefix="job") as threads:
        bench.let_through(1)
        threads.submit(lambda: compute(work("one"), held, bench.device).images).result(SECONDS)
    assert (bench.model.prepared_on, bench.model.developed_on) == ({"job_0"}, {"job_0"})


def test_the_areas_of_one_job_are_filled_one_right_after_the_other(bench: Bench) -> None:
    first, held = bench.occupy(), lease()
    areas = bench.device.submit(work("left"), held, work("right"))
    bench.submit("another job")
    bench.let_through(2)
    first.result(SECONDS)
    for _ in range(2):
        assert bench.model.entered.acquire(timeout=SECONDS)
    assert held.on_device, "in the second area as in the first"
    bench.let_through(2)
    assert len(areas.result(SECONDS).images) == 2
    assert bench.model.started[:3] == ["first", "left", "right"]
    assert not held.on_device


def test_a_job_that_is_cancelled_in_its_second_area_leaves_the_device(bench: Bench) -> None:
    held = lease()
    areas = bench.device.submit(work("left"), held, work("right"))
    bench.let_through(1)
    for _ in range(2):
        assert bench.model.entered.acquire(timeout=SECONDS)
    held.cancel()
    with pytest.raises(Cancelled):
        areas.result(SECONDS)
    assert not held.on_device


def test_threads_that_compute_in_python_give_way_to_the_device_within_a_millisecond() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)  # Python's own
    bench = Bench()
    try:
        assert sys.getswitchinterval() <= 0.001
    finally:
        bench.device.stop(SECONDS)
        sys.setswitchinterval(before)


def test_a_job_whose_adapters_are_in_place_goes_before_one_whose_are_not(bench: Bench) -> None:
    bench.model.resident = frozenset({"a"})
    first = bench.occupy()
    futures = [bench.submit("needs b", "b"), bench.submit("needs a", "a"), bench.submit("plain")]
    bench.let_through(4)
    for future in [first, *futures]:
        future.result(SECONDS)
    assert bench.model.started == ["first", "needs a", "plain", "needs b"]


def test_nobody_is_overtaken_more_often_than_the_bound() -> None:
    bench = Bench(max_overtakes=2)
    bench.model.resident = frozenset({"a"})
    first = bench.occupy()
    futures = [bench.submit("needs b", "b"), *(bench.submit(f"a{number}", "a") for number in range(5))]
    bench.let_through(7)
    for future in [first, *futures]:
        future.result(SECONDS)
    assert bench.model.started.index("needs b") == 3
    bench.device.stop(SECONDS)


def test_nobody_is_overtaken_any_more_who_has_waited_long_enough() -> None:
    bench = Bench(max_overtakes=100, overtake_seconds=0.0)  # any wait is long enough
    bench.model.resident = frozenset({"a"})
    first = bench.occupy()
    futures = [bench.submit("needs b", "b"), *(bench.submit(f"a{number}", "a") for number in range(5))]
    bench.let_through(7)
    for future in [first, *futures]:
        future.result(SECONDS)
    assert bench.model.started[:2] == ["first", "needs b"]
    bench.device.stop(SECONDS)


def test_a_cancelled_job_leaves_the_device_at_its_next_step(bench: Bench) -> None:
    held = lease()
    future = bench.submit("long", held=held)
    assert bench.model.entered.acquire(timeout=SECONDS)
    assert held.on_device
    held.cancel()
    with pytest.raises(Cancelled):
        future.result(SECONDS)
    follower = bench.submit("next")
    bench.let_through(1)
    assert follower.result(SECONDS).images


def test_a_job_that_lost_its_lease_while_waiting_never_starts(bench: Bench) -> None:
    first, held = bench.occupy(), lease()
    future = bench.submit("lost", held=held)
    held.lose()
    bench.let_through(2)
    first.result(SECONDS)
    with pytest.raises(LeaseLost):
        future.result(SECONDS)
    assert bench.model.started == ["first"]


def test_a_drain_sends_waiting_jobs_back_and_lets_the_running_one_end(bench: Bench) -> None:
    first = bench.occupy()
    waiting = [bench.submit("waits") for _ in range(3)]
    bench.device.drain()
    for future in waiting:
        with pytest.raises(Draining):
            future.result(SECONDS)
    with pytest.raises(Draining):
        bench.submit("too late")
    bench.let_through(1)
    assert first.result(SECONDS).images


def test_a_broken_gpu_releases_every_job_and_reports_once(bench: Bench) -> None:
    broken = bench.submit("broken")
    assert bench.model.entered.acquire(timeout=SECONDS)
    waiting = bench.submit("waits")
    bench.let_through(1)
    with pytest.raises(DeviceBroken):
        broken.result(SECONDS)
    with pytest.raises(Draining):
        waiting.result(SECONDS)
    assert bench.broken.wait(SECONDS)


def test_a_model_that_does_not_load_says_why() -> None:
    device = Device(Settings(fillfleet_env=Environment.DEVELOPMENT), on_broken=lambda: None)

    def load() -> GatedModel:
        raise FileNotFoundError("no weights here")

    with pytest.raises(FileNotFoundError, match="no weights"):
        device.start(load).result(SECONDS)


def test_waiting_and_inference_are_timed_apart(bench: Bench) -> None:
    first = bench.occupy()
    began = time.monotonic()
    second = bench.submit("second")
    time.sleep(0.5)
    bench.let_through(2)
    first.result(SECONDS)
    filled = second.result(SECONDS)
    assert filled.waited_seconds >= 0.5
    assert filled.waited_seconds + filled.inference_seconds <= time.monotonic() - began, "no moment is both"


def test_an_unwanted_job_never_counts_as_being_on_the_device() -> None:
    held = lease()
    held.enter("wait", 0.01)
    held.lose()
    with pytest.raises(LeaseLost):
        held.enter("device", 60, on_device=True)
    assert held.stage.name == "wait"
    assert not held.on_device


def test_a_job_has_left_the_device_when_its_thread_hears_of_it_however_it_ended(bench: Bench) -> None:
    for prompt, error in (("fine", None), ("broken", DeviceBroken)):
        held = lease()
        future = bench.submit(prompt, held=held)
        assert bench.model.entered.acquire(timeout=SECONDS)
        assert held.on_device
        bench.let_through(1)
        assert isinstance(future.exception(SECONDS), error or type(None))
        assert not held.on_device, "or a database that is away too long for its thread would look like a wedged device"


def test_a_timeout_that_the_model_raises_ends_the_wait(bench: Bench) -> None:
    bench.let_through(1)
    with pytest.raises(TimeoutError, match="the model's own"):
        compute(work("times out"), lease(), bench.device)


def test_a_cancelled_job_leaves_the_line_at_once_with_its_images(bench: Bench) -> None:
    first, held, unwanted = bench.occupy(), lease(), work("unwanted")
    image = weakref.ref(unwanted.image)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(compute, unwanted, held, bench.device)
        held.cancel()
        assert isinstance(waiting.exception(SECONDS), Cancelled)
    del unwanted, waiting
    gc.collect()
    assert image() is None
    bench.let_through(1)
    first.result(SECONDS)
    assert bench.model.started == ["first"]


def test_a_cancelled_job_on_a_device_that_hangs_stays_to_be_seen_hanging(bench: Bench) -> None:
    held = lease()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(compute, work("hangs"), held, bench.device)
        assert bench.model.entered.acquire(timeout=SECONDS)
        held.cancel()
        time.sleep(1.2)
        assert not waiting.done(), "its lease would be gone, and with it what tells that the device hangs"
        assert held.on_device
        bench.let_through(1)
        assert isinstance(waiting.exception(SECONDS), Cancelled)


def test_a_device_whose_own_thread_fails_sends_everybody_away_and_reports(bench: Bench) -> None:
    first = bench.occupy()
    waiting = bench.submit("waits")
    del bench.model.resident  # a defect
    bench.let_through(1)
    first.result(SECONDS)
    with pytest.raises(Draining):
        waiting.result(SECONDS)
    assert bench.broken.wait(SECONDS)


def test_jobs_are_given_back_from_the_line_and_from_the_device_when_the_drain_is_over(bench: Bench) -> None:
    held = [lease(), lease()]
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(compute, work("runs"), held[0], bench.device)
        assert bench.model.entered.acquire(timeout=SECONDS)
        waiting = pool.submit(compute, work("waits"), held[1], bench.device)
        for one in held:
            one.drain()
        assert isinstance(running.exception(SECONDS), Draining)
        assert isinstance(waiting.exception(SECONDS), Draining)
