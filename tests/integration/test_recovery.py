"""Whatever is killed, every job completes, once. Real processes, real servers; only the GPU's time is a stand-in."""

from __future__ import annotations

import signal
import time

import redis

from common import lifecycle
from common.settings import Settings
from tests.support.fleet import Fleet


def finished_once(fleet: Fleet, count: int) -> None:
    """Assert that `count` jobs are completed, each with one completed event and one object that is its result."""
    assert fleet.statuses() == {"completed": count}


def test_a_worker_killed_in_the_middle_of_a_job_loses_nothing(fleet: Fleet) -> None:
    fleet.start("dispatcher")
    doomed = fleet.start_sleeping_worker(step_seconds=10.0)
    jobs = [fleet.submit(num_inference_steps=10) for _ in range(3)]
    fleet.until(lambda: any(fleet.row(job)["on_device"] for job in jobs), "a job is on the device")
    on_device = next(job for job in jobs if fleet.row(job)["on_device"])
    doomed.kill()
    fleet.start_sleeping_worker()
    fleet.until(fleet.all_over, "all jobs are over")
    finished_once(fleet, 3)
    for job in jobs:
        assert fleet.events(job).count("completed") == 1
        # Only the job that was on the device pays for the death of its worker.
        assert fleet.row(job)["failures"] == (1 if job == on_device else 0)
        assert fleet.row(job)["attempt"] == 2
        output = fleet.row(job)["result"]["outputs"][0]
        assert "/2-0.png" in output["key"]
        assert fleet.objects.size(output["key"]) == output["bytes"]


def test_a_flushed_redis_with_jobs_waiting_loses_nothing(fleet: Fleet, settings: Settings) -> None:
    fleet.start("dispatcher")
    jobs = [fleet.submit() for _ in range(50)]
    client = redis.Redis.from_url(settings.redis_url.get_secret_value())
    # In Redis itself: a row says that its message is published a moment before it is sent.
    fleet.until(lambda: client.llen("fill.bulk") == 32, "the window is full")
    client.flushall()
    client.close()
    fleet.start_sleeping_worker()
    fleet.until(fleet.all_over, "all jobs are over")
    finished_once(fleet, 50)
    assert all(fleet.events(job).count("completed") == 1 and fleet.row(job)["attempt"] == 1 for job in jobs)


def test_a_redis_flushed_under_a_busy_worker_loses_nothing(fleet: Fleet, settings: Settings) -> None:
    fleet.start("dispatcher")
    fleet.start_sleeping_worker(step_seconds=0.02)
    jobs = [fleet.submit() for _ in range(60)]
    client = redis.Redis.from_url(settings.redis_url.get_secret_value())
    for _ in range(3):
        time.sleep(0.5)
        client.flushall()
    client.close()
    fleet.until(fleet.all_over, "all jobs are over")
    finished_once(fleet, 60)
    assert all(fleet.events(job).count("completed") == 1 for job in jobs)


def test_sigterm_ends_the_job_on_the_device_and_releases_the_rest_free_of_charge(fleet: Fleet) -> None:
    fleet.start("dispatcher")
    worker = fleet.start_sleeping_worker(step_seconds=0.2)
    jobs = [fleet.submit(num_inference_steps=50) for _ in range(4)]
    fleet.until(lambda: fleet.statuses().get("processing") == 4, "all four are claimed")
    fleet.until(lambda: any(fleet.row(job)["on_device"] for job in jobs), "one is on the device")
    worker.signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert fleet.statuses() == {"completed": 1, "created": 3}
    assert all(fleet.row(job)["failures"] == 0 for job in jobs)
    fleet.start_sleeping_worker()
    fleet.until(fleet.all_over, "all jobs are over")
    finished_once(fleet, 4)


def test_signals_of_every_kind_and_number_are_one_drain(fleet: Fleet) -> None:
    fleet.start("dispatcher")
    worker = fleet.start_sleeping_worker(step_seconds=0.2)
    jobs = [fleet.submit(num_inference_steps=50) for _ in range(3)]
    fleet.until(lambda: any(fleet.row(job)["on_device"] for job in jobs), "one is on the device")
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        worker.signal(number)
        time.sleep(0.05)
    assert worker.wait(60) == 0
    assert fleet.statuses() == {"completed": 1, "created": 2}
    assert all(fleet.row(job)["failures"] == 0 for job in jobs)


def test_what_outlives_the_drain_is_given_back_free_of_charge(fleet: Fleet) -> None:
    fleet.start("dispatcher")
    worker = fleet.start_sleeping_worker(step_seconds=0.2, DRAIN_SECONDS="1")
    job = fleet.submit(num_inference_steps=50, num_images=4)  # 40 seconds
    fleet.until(lambda: fleet.row(job)["on_device"], "it is on the device")
    worker.signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    row = fleet.row(job)
    assert (row["status"], row["failures"], row["attempt"]) == ("created", 0, 1)


def test_a_worker_that_is_stopped_while_it_loads_its_model_ends_well(fleet: Fleet) -> None:
    worker = fleet.start("worker")
    fleet.until(lambda: "model.loading" in worker.output(), "it loads", process=worker)
    worker.signal(signal.SIGTERM)
    assert worker.wait(60) == 0, worker.last_words()


def test_a_worker_that_is_stopped_while_its_model_is_in_torch_is_not_aborted_there(fleet: Fleet) -> None:
    worker = fleet.start("worker", TEST_MODEL_CLASS="tests.support.loading_model:LoadingModel")
    fleet.until(lambda: "is_in_torch" in worker.output(), "it loads", process=worker)
    worker.signal(signal.SIGTERM)
    assert worker.wait(60) == 0, worker.last_words()


def test_a_frozen_worker_that_wakes_up_changes_nothing(fleet: Fleet) -> None:
    fleet.start("dispatcher")
    frozen = fleet.start_sleeping_worker(step_seconds=5.0)
    job = fleet.submit(num_inference_steps=10)
    fleet.until(lambda: fleet.row(job)["on_device"], "it is on the device")
    frozen.signal(signal.SIGSTOP)
    fleet.expire(frozen)
    fleet.start_sleeping_worker(step_seconds=0.01)
    fleet.until(fleet.all_over, "the other worker has done it")
    before = fleet.row(job)
    frozen.signal(signal.SIGCONT)
    fleet.until(lambda: "lease_lost" in frozen.output(), "it knows that the job is another's", process=frozen)
    time.sleep(1)
    assert fleet.row(job) == before
    assert before["attempt"] == 2


def test_a_job_that_kills_its_worker_every_time_ends_failed_and_the_others_complete(fleet: Fleet) -> None:
    fleet.start("dispatcher")
    poison = fleet.submit(prompt="!crash")
    good = [fleet.submit() for _ in range(5)]
    for _ in range(10):
        worker = fleet.start_sleeping_worker()
        fleet.until(lambda: fleet.all_over() or worker.exit_code() is not None, "it ends all jobs or is killed")  # noqa: B023
        if fleet.all_over():
            break
        fleet.expire(worker)
    row = fleet.row(poison)
    assert row["status"] == "failed"
    assert row["failures"] == 3
    assert "worker" in row["error"]
    assert all(fleet.row(job)["status"] == "completed" for job in good)


def test_a_wedged_device_gives_up_its_jobs_and_its_process(fleet: Fleet) -> None:
    fleet.start("dispatcher")
    worker = fleet.start_sleeping_worker(STEP_SECONDS="5")
    wedged = fleet.submit(prompt="!wedge")
    fleet.until(lambda: fleet.row(wedged)["on_device"], "it is on the device")
    neighbours = [fleet.submit() for _ in range(2)]
    assert worker.wait(60) == 70
    fleet.expire(worker)
    fleet.until(lambda: fleet.row(wedged)["failures"] == 1, "it was taken back, and counts")
    with fleet.engine.begin() as connection:
        assert lifecycle.cancel(connection, fleet.owner, [wedged]) == [wedged]
    fleet.start_sleeping_worker()
    fleet.until(lambda: all(fleet.row(job)["status"] == "completed" for job in neighbours), "neighbours are done")
    assert all(fleet.row(job)["failures"] == 0 for job in neighbours)


def test_a_broken_gpu_releases_all_jobs_and_the_process_exits(fleet: Fleet) -> None:
    fleet.start("dispatcher")
    worker = fleet.start_sleeping_worker()
    broken = fleet.submit(prompt="!broken")
    assert worker.wait(60) == 70
    row = fleet.row(broken)
    assert (row["status"], row["failures"], row["attempt"]) == ("created", 1, 1)


def test_a_cancelled_job_stops_within_a_heartbeat_and_a_step(fleet: Fleet) -> None:
    fleet.start("dispatcher")
    fleet.start_sleeping_worker(step_seconds=2.0)
    job = fleet.submit(num_inference_steps=50)
    fleet.until(lambda: fleet.row(job)["on_device"], "it is on the device")
    with fleet.engine.begin() as connection:
        assert lifecycle.cancel(connection, fleet.owner, [job]) == [job]
    fleet.until(fleet.all_over, "it has stopped", seconds=60)  # of the 100 that it would take
    assert fleet.row(job)["error"] == "cancelled"


def test_a_worker_that_cannot_load_its_model_ends_with_one_clear_line(fleet: Fleet) -> None:
    worker = fleet.start("worker", FILL_MODEL="/no/such/folder")
    assert worker.wait(120) == 78, "and its supervisor knows that a new start would be in vain"
    assert "worker.cannot_start" in worker.output()
    assert "Traceback" not in worker.output()
