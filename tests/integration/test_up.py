"""`fillfleet up`: says where all is once all is ready, starts again what falls over, and leaves nothing behind.

Its servers are real; small stand-ins take the place of our own services, so that each can be made to fail in a second.
That the real ones run under it is shown by test_whole_system.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
import requests

from tests.support.processes import all_gone, needs_proc, processes_in, wait_until
from tests.support.stand_in_cli import COMMAND, KEY

ROOT: Final = Path(__file__).parents[2]
NAMES: Final = {"valkey", "postgres", "seaweedfs", "api", "dispatcher", "worker", "flower"}
KEYS: Final = {
    *("api_url", "api_key", "flower_url", "flower_user", "flower_password", "redis_url", "database_url"),
    *("s3_endpoint", "s3_access_key", "s3_secret_key", "s3_bucket", "pids"),
}

pytestmark = needs_proc


class Up:
    """A running `up`, and what it has said and written so far."""

    def __init__(self, folder: Path, *arguments: str, **env: str) -> None:
        self.ready_file = folder / "ready-here.json"
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close
        self.process = subprocess.Popen(
            [*COMMAND, "up", "--dir", str(folder / "data"), "--ready-file", str(self.ready_file), *arguments],
            cwd=ROOT,
            env={**os.environ, **env},
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_until_ready(self) -> dict[str, Any]:
        wait_until(lambda: self.ready_file.exists() or self.process.poll() is not None, 150)
        assert self.ready_file.exists(), self.output()
        return self.ready()

    def ready(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.ready_file.read_text())
        return said

    def output(self) -> str:
        self._output.seek(0)
        return self._output.read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._output.close()


@contextmanager
def up(folder: Path, *arguments: str, **env: str) -> Iterator[Up]:
    running = Up(folder, *arguments, **env)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that every user may walk through, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="fillfleet-test-", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture(scope="module")
def system(place: Path) -> Iterator[Up]:
    """One system for the tests that leave it as they found it, more or less."""
    with up(place) as running:
        running.wait_until_ready()
        yield running
        running.process.terminate()
        running.process.wait(60)


def test_the_ready_file_says_where_all_is_and_only_its_owner_can_read_it(system: Up) -> None:
    ready = system.ready()
    assert set(ready) == KEYS
    assert set(ready["pids"]) == NAMES
    assert system.ready_file.stat().st_mode & 0o777 == 0o600
    assert ready["api_key"] == KEY
    assert requests.get(f"{ready['api_url']}/readyz", timeout=30).status_code == 200
    login = (ready["flower_user"], ready["flower_password"])
    assert requests.get(ready["flower_url"], auth=login, timeout=30).status_code == 200
    assert requests.get(ready["flower_url"], timeout=30).status_code == 401


def test_it_says_where_all_is_without_the_servers_passwords(system: Up) -> None:
    said, ready = system.output(), system.ready()
    assert all(ready[key] in said for key in ("api_url", "api_key", "flower_url", "s3_endpoint"))
    assert ready["s3_secret_key"] not in said
    assert ready["database_url"] not in said
    assert ready["redis_url"] not in said


@pytest.mark.parametrize("name", ["api", "worker", "valkey"])
def test_what_falls_over_is_started_again_and_the_ready_file_says_so(system: Up, name: str) -> None:
    before = system.ready()
    os.kill(before["pids"][name], signal.SIGKILL)
    assert wait_until(lambda: system.ready()["pids"][name] != before["pids"][name], 60)
    after = system.ready()
    assert {key for key in NAMES if after["pids"][key] != before["pids"][key]} == {name}
    assert {**after, "pids": None} == {**before, "pids": None}
    assert f"{name} ended with signal SIGKILL" in system.output()
    assert wait_until(lambda: f"{name} is started again" in system.output(), 60)


def test_a_second_one_in_the_same_folder_is_refused_and_leaves_the_first_alone(system: Up, place: Path) -> None:
    with up(place) as second:
        assert second.process.wait(60) == 1
        assert f"another fillfleet (process {system.process.pid}) runs in" in second.output()
    assert set(system.ready()["pids"]) == NAMES
    assert system.process.poll() is None


def test_a_port_that_is_taken_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with up(tmp_path, "--port", str(port)) as running:
            assert running.process.wait(60) == 1
            assert f"port {port} of 127.0.0.1 is taken" in running.output()
    assert not (tmp_path / "data").exists()


def test_a_service_that_ends_while_starting_ends_all_with_the_tail_of_its_log(place: Path) -> None:
    folder = place / "failing"
    folder.mkdir()
    with up(folder, STAND_IN_FAILS="worker") as running:
        assert running.process.wait(120) == 1
        assert "worker ended with exit code 3 while starting" in running.output()
        assert "the stand-in of worker fails as it was told to" in running.output()
    assert not running.ready_file.exists()
    assert processes_in(folder) == []


def test_a_stop_is_orderly_and_the_folder_goes_on_the_next_time_until_a_crash_leaves_no_orphan(place: Path) -> None:
    folder = place / "kept"
    folder.mkdir()
    with up(folder) as running:
        ready = running.wait_until_ready()
        with psycopg.connect(ready["database_url"]) as connection:
            connection.execute("INSERT INTO owners (id, name) VALUES (gen_random_uuid(), 'kept')")
        running.process.terminate()
        assert running.process.wait(60) == 0
    assert all_gone(ready["pids"].values())
    assert not running.ready_file.exists()
    assert "database system is shut down" in (folder / "data" / "logs" / "postgres.log").read_text()
    with up(folder) as again:
        ready_again = again.wait_until_ready()
        assert {**ready_again, "pids": None} == {**ready, "pids": None}
        with psycopg.connect(ready_again["database_url"]) as connection:
            assert connection.execute("SELECT name FROM owners").fetchone() == ("kept",)
        again.process.kill()
        assert wait_until(lambda: all_gone(ready_again["pids"].values()), 60)
        assert processes_in(folder) == []


def test_ctrl_c_waits_for_a_worker_that_is_at_work_and_a_second_one_does_not(place: Path) -> None:
    folder = place / "busy"
    folder.mkdir()
    with up(folder, STAND_IN_STAYS="worker") as running:
        ready = running.wait_until_ready()
        os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does: to everyone in its foreground
        assert wait_until(lambda: "waiting for worker to finish" in running.output(), 60)
        assert not all_gone([ready["pids"]["worker"]])
        assert not all_gone([ready["pids"]["postgres"]])
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.process.wait(60) == 0
    assert all_gone(ready["pids"].values())
    assert "database system is shut down" in (folder / "data" / "logs" / "postgres.log").read_text()


def test_a_stop_while_starting_leaves_nothing_running(place: Path) -> None:
    folder = place / "early"
    folder.mkdir()
    with up(folder, STAND_IN_LOADS="worker") as running:
        assert wait_until(lambda: (folder / "data" / "logs" / "postgres.log").exists(), 60)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(60) == 128 + signal.SIGINT
    assert processes_in(folder) == []
    assert not running.ready_file.exists()
