"""`fillfleet worker --gpus`: a worker on each GPU, whatever becomes of one of them. Only the GPUs are stand-ins."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from infra.embedded.ports import PortClaims, is_free
from infra.embedded.process import Process
from tests.support.fleet import Fleet
from tests.support.gpu_host import LARGE, ON_ITS_GPU, SMALL, uuid_of, with_gpus
from tests.support.processes import lives

ON_THE_FIRST_GPU = "tests.support.gpu_host:SleepingOnTheFirstGpu"


class GpuHost:
    """A host with two GPUs, and the supervisor of its workers."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet = fleet
        self._path = with_gpus(folder / "bin", [LARGE, SMALL])
        self.supervisor: Process

    def start(self, *, model: str = ON_ITS_GPU, ready: int = 2, step_seconds: float = 0.01, **env: str) -> None:
        """Start `fillfleet worker --gpus all`, and wait until so many of its workers take jobs."""
        # One slot each: a worker that holds four jobs would leave the other none.
        env |= {"TEST_MODEL_CLASS": model, "SLEEP_STEP_SECONDS": str(step_seconds), "WORKER_SLOTS": "1", **self._path}
        self.supervisor = self.fleet.start("worker", "--gpus", "all", **env)
        self.until(lambda: len(self.events("worker.ready")) >= ready, f"{ready} take jobs")

    def until(self, true: Callable[[], bool], what: str) -> None:
        self.fleet.until(true, what, process=self.supervisor)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what has been logged under this name: supervisor and workers write to the same place."""
        lines = (line for line in self.supervisor.output().splitlines() if f'"event": "{name}"' in line)
        return [json.loads(line) for line in lines]

    def pids(self, gpu: str) -> list[int]:
        """Return the processes that this GPU has had, the newest last."""
        return [event["pid"] for event in self.events("fleet.worker_started") if event["gpu"] == gpu]


@pytest.fixture
def host(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuHost:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return GpuHost(fleet, tmp_path)


def health(port: int, path: str) -> tuple[int, dict[str, str]]:
    """Return the status, and the state of each GPU's worker."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())["gpus"]
    finally:
        connection.close()


def on_device(fleet: Fleet, jobs: list[UUID]) -> list[UUID]:
    """Return those of the jobs that are on a device now."""
    return [job for job in jobs if fleet.row(job)["on_device"] and fleet.row(job)["status"] == "processing"]


def three_free_ports() -> int:
    """Return a port that nobody listens on, nor on the two behind it."""
    claims = PortClaims()
    port = claims.claim()
    while not (is_free(port + 1) and is_free(port + 2)):
        port = claims.claim()
    claims.release()
    return port


def test_every_gpu_has_a_worker_of_its_own_and_one_that_is_killed_comes_back_while_the_other_goes_on(
    host: GpuHost,
) -> None:
    fleet, port = host.fleet, three_free_ports()
    fleet.start("dispatcher")
    host.start(step_seconds=0.02, WORKER_HEALTH_PORT=str(port))
    assert health(port, "/readyz") == (200, {"0": "ready", "1": "ready"})
    (doomed,), (other,) = host.pids("0"), host.pids("1")
    jobs = [fleet.submit(num_inference_steps=20) for _ in range(12)]
    host.until(lambda: any(fleet.row(job)["on_device"] for job in jobs), "they fill")

    os.kill(doomed, signal.SIGKILL)
    fleet.expire(doomed)
    host.until(lambda: len(host.pids("0")) == 2, "it is started again")
    (ended,) = host.events("fleet.worker_ended")
    assert ended["gpu"] == "0"
    assert ended["end"].startswith("SIGKILL")
    assert 0.7 <= ended["again_in_seconds"] <= 1.3
    host.until(lambda: len(host.events("worker.ready")) == 3, "it takes jobs again")
    host.until(fleet.all_over, "all jobs are over")
    assert fleet.statuses() == {"completed": len(jobs)}
    more = [fleet.submit(num_inference_steps=20) for _ in range(8)]
    host.until(fleet.all_over, "the later ones, too")
    devices = {fleet.row(job)["result"]["model_version"]["device"] for job in more}
    assert devices == {uuid_of(0), uuid_of(1)}, "both take part, each with one GPU in sight"
    assert host.pids("1") == [other], "who was well was left alone"
    assert {event["gpu"] for event in host.events("worker.ready")} == {"0", "1"}, "each line says whose it is"
    shares = {event["threads"] for event in host.events("worker.ready")}
    assert shares == {str(max(1, len(os.sched_getaffinity(0)) // 2))}

    last = [fleet.submit(num_inference_steps=50, num_images=3) for _ in range(4)]
    host.until(lambda: len(on_device(fleet, last)) == 2, "both fill")
    filling = on_device(fleet, last)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        host.supervisor.signal(number)
    assert host.supervisor.wait(60) == 0, host.supervisor.last_words()
    assert {fleet.row(job)["status"] for job in filling} == {"completed"}
    assert set(fleet.statuses()) == {"completed", "created"}, "what waited is there for others"
    assert not [pid for pid in (*host.pids("0"), *host.pids("1")) if lives(pid)]


def test_a_worker_that_cannot_start_is_said_to_be_and_who_is_told_to_stop_stays_stopped(host: GpuHost) -> None:
    host.start(model=ON_THE_FIRST_GPU, ready=1)
    host.until(lambda: len(host.events("fleet.worker_given_up")) == 1, "one of them is given up")
    (cause,) = host.events("worker.cannot_start")
    assert (cause["gpu"], cause["error"]) == ("1", "FILL_MODEL=some/model: accept its licence")
    (well,) = host.pids("0")
    os.kill(well, signal.SIGTERM)
    assert host.supervisor.wait(60) == 78, "nobody is left who will ever run again"
    assert [len(host.pids(gpu)) for gpu in ("0", "1")] == [1, 1]
    (told,) = host.events("fleet.incomplete")
    assert told["gpus"] == ["1 (NVIDIA GeForce RTX 4090)"]


def test_workers_whose_supervisor_is_killed_finish_what_they_fill_and_end(host: GpuHost) -> None:
    fleet = host.fleet
    fleet.start("dispatcher")
    host.start(step_seconds=0.1)
    pids = [*host.pids("0"), *host.pids("1")]
    jobs = [fleet.submit(num_inference_steps=20) for _ in range(2)]
    host.until(lambda: any(fleet.row(job)["on_device"] for job in jobs), "one is on a device")
    os.kill(host.supervisor.pid, signal.SIGKILL)
    fleet.until(lambda: not any(map(lives, pids)), "no worker is left")
    rows = [fleet.row(job) for job in jobs]
    assert "completed" in {row["status"] for row in rows}
    assert {row["status"] for row in rows} <= {"completed", "created"}
    assert {row["failures"] for row in rows} == {0}
    assert len(re.findall("worker.orphaned", host.supervisor.output())) == 2
