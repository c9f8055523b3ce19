"""The supervisor of a host's workers, here with shell scripts for workers: whom it starts again, and how it ends."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.errors import Rejected
from common.settings import Environment, Settings
from tests.support.gpu_host import LARGE, with_gpus, with_nvidia_smi
from worker.exit_code import ExitCode, in_words
from worker.fleet.gpu_wish import GpuWish
from worker.fleet.gpus import Gpu
from worker.fleet.health import serve_fleet_health
from worker.fleet.member import Member
from worker.fleet.supervisor import Fleet, run_fleet

DRAINS = "trap 'echo drained >> $LOG; exit 0' TERM; echo up >> $LOG; while true; do sleep 0.05; done"
PATIENCE_SECONDS = 60.0
ROOT = Path(__file__).parents[2]


class Host:
    """Workers that are scripts, in a fleet that runs on this thread until the test's other thread has had its say."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.members: list[Member] = []
        self._lifeline = os.pipe()

    def add(self, script: str, **environment: str) -> Path:
        """Have a worker that is this script; returns the file that it may write its life to, as $LOG."""
        number = len(self.members)
        log = self._folder / f"{number}.log"
        log.touch()
        gpu = Gpu(str(number), f"GPU-{number}", "a GPU")
        command = ("/bin/sh", "-c", script)
        member = Member(gpu, {"LOG": str(log), **environment}, lifeline=self._lifeline[0], command=command)
        self.members.append(member)
        return log

    def run(self, then: Callable[[], bool] = lambda: False, *, patience_seconds: float = PATIENCE_SECONDS) -> int:
        """Run them; once `then` is true this process gets SIGTERM. Returns the exit code."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.05):
                if then():
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            return Fleet(self.members, patience_seconds=patience_seconds).run()
        finally:
            over.set()
            thread.join()

    def close(self) -> None:
        for end in self._lifeline:
            os.close(end)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.close()


def said(log: Path, what: str) -> int:
    return log.read_text().split().count(what)


def test_a_signal_lets_all_drain_and_ends_well(host: Host) -> None:
    logs = [host.add(DRAINS), host.add(DRAINS)]
    assert host.run(lambda: all(said(log, "up") for log in logs)) == 0
    assert [log.read_text().split() for log in logs] == [["up", "drained"]] * 2


def test_who_ends_by_itself_is_started_again_while_the_others_go_on(host: Host) -> None:
    falls = host.add(f"[ -s $LOG ] || {{ echo down >> $LOG; kill -9 $$; }}; {DRAINS}")
    stays = host.add(DRAINS)
    assert host.run(lambda: said(falls, "up") == 1 and said(stays, "up") == 1) == 0
    assert falls.read_text().split() == ["down", "up", "drained"]
    assert stays.read_text().split() == ["up", "drained"]


@pytest.mark.parametrize("code", [ExitCode.CANNOT_START, ExitCode.BAD_SETTINGS])
def test_who_cannot_start_for_a_lasting_reason_is_not_started_again_and_the_exit_code_says_so(
    host: Host, code: ExitCode, caplog: pytest.LogCaptureFixture
) -> None:
    logs = [host.add(f"echo up >> $LOG; exit {int(code)}") for _ in range(2)]
    with caplog.at_level(logging.INFO):
        assert host.run() == code, "nobody is left, so it ends by itself"
    assert [said(log, "up") for log in logs] == [1, 1]


def test_one_that_cannot_start_keeps_nobody_from_working(host: Host) -> None:
    fails = host.add("echo up >> $LOG; exit 78")
    works = host.add(DRAINS)
    assert host.run(lambda: said(fails, "up") == 1 and said(works, "up") == 1) == ExitCode.CANNOT_START
    assert works.read_text().split() == ["up", "drained"]


def test_one_that_was_told_to_stop_stays_stopped_and_the_last_one_ends_it_all(host: Host) -> None:
    logs = [host.add("echo up >> $LOG; exit 0"), host.add("echo up >> $LOG; exit 0")]
    assert host.run() == 0
    assert [said(log, "up") for log in logs] == [1, 1]


def test_one_that_waits_for_its_next_start_is_not_started_once_all_drain(host: Host) -> None:
    log = host.add("echo up >> $LOG; exit 1")
    began = time.monotonic()
    assert host.run(lambda: said(log, "up") == 2) == 0
    assert time.monotonic() - began < PATIENCE_SECONDS
    assert said(log, "up") == 2


def test_who_does_not_drain_in_time_is_killed_and_the_exit_code_says_so(host: Host) -> None:
    log = host.add("trap '' TERM; echo up >> $LOG; while true; do sleep 0.05; done")
    assert host.run(lambda: said(log, "up") == 1, patience_seconds=0.5) == ExitCode.FAILED


def test_each_worker_sees_one_gpu_and_fails_where_torch_does_not(host: Host) -> None:
    says = 'echo "$CUDA_VISIBLE_DEVICES $FILL_DEVICE $FILLFLEET_GPU $MORE" > $LOG; exit 0'
    logs = [host.add(says, MORE="one"), host.add(says, MORE="two")]
    assert host.run() == 0
    assert [log.read_text() for log in logs] == ["GPU-0 cuda 0 one\n", "GPU-1 cuda 1 two\n"]


def test_how_a_worker_ended_is_said_in_words() -> None:
    assert in_words(-9) == "SIGKILL: the kernel does that where memory runs out"
    assert in_words(-11) == "SIGSEGV"
    assert in_words(70) == "exit code 70: the device did not come back"
    assert in_words(3) == "exit code 3"


def test_the_health_of_a_fleet_is_ill_while_no_worker_is_well_and_names_each(host: Host) -> None:
    host.add(DRAINS)
    server = serve_fleet_health(host.members, 0)
    try:
        for path, status in (("/healthz", 503), ("/readyz", 503), ("/", 404)):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == status
            assert status == 404 or json.loads(answer.read()) == {"gpus": {"0": "paused"}}
            connection.close()
    finally:
        server.shutdown()
        server.server_close()


def test_who_looks_after_the_workers_loads_none_of_their_libraries() -> None:
    program = (
        "import sys, worker.fleet.supervisor; print(sorted({'torch', 'diffusers', 'celery', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


# --- what is refused before anything starts


def refused(gpus: GpuWish, **settings: object) -> str:
    """Return why no fleet starts."""
    with pytest.raises(Rejected) as error:
        run_fleet(Settings.model_validate({"fillfleet_env": Environment.TEST, **settings}), gpus)
    return error.value.message


@pytest.fixture
def one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", with_gpus(tmp_path / "bin", [LARGE])["PATH"])


def test_more_gpus_than_there_are_is_an_error_that_says_what_there_is(one_gpu: None) -> None:
    message = "--gpus 2: so many are not here; there is 0 (NVIDIA H100 80GB HBM3)"
    assert refused(GpuWish("2", count=2)) == message


def test_gpus_that_are_hidden_are_not_there(one_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert refused(GpuWish("all")).endswith("leave --gpus away to fill on the CPU")


def test_without_driver_or_gpu_it_says_how_to_fill_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    message = refused(GpuWish("all"))
    assert message.startswith("--gpus all: nvidia-smi is not here: install NVIDIA's driver")
    assert message.endswith("or leave --gpus away to fill on the CPU")
    monkeypatch.setenv("PATH", with_nvidia_smi(tmp_path / "bin", list_says="No devices were found", code=6)["PATH"])
    assert refused(GpuWish("all")).endswith("leave --gpus away to fill on the CPU")


def test_another_device_and_ports_that_do_not_exist_are_contradictions(one_gpu: None) -> None:
    assert "FILL_DEVICE=cpu asks for another device" in refused(GpuWish("all"), fill_device="cpu")
    assert "FILL_DEVICE=cuda:1 asks" in refused(GpuWish("all"), fill_device="cuda:1")
    assert "must be 65534 at most" in refused(GpuWish("all"), worker_health_port=65535)


def test_a_host_without_a_driver_ends_in_the_exit_code_that_asks_for_somebody(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "FILLFLEET_ENV": "test"}
    done = subprocess.run(
        [sys.executable, "-m", "producer.cli", "worker", "--gpus", "all"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "install NVIDIA's driver" in done.stderr
    assert done.returncode == ExitCode.CANNOT_START
