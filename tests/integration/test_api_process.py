"""`fillfleet api` and `fillfleet flower` as processes: how they start, stop, log, and what Flower lets nobody do."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import func, select

from common.broker import make_app
from common.settings import Settings
from common.tables import jobs
from infra.embedded.process import Process
from producer import keys
from producer.api.server import CannotListen, listen
from producer.cli.main import cli
from producer.fleet_view import CannotShow, run_flower
from tests.support.api import fetch
from tests.support.fleet import Fleet

SUBMIT = "/api/v3/wavespeed-ai/flux-dev-fill"
BODY = {"image": "https://example.com/a.png"}


def _lines(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.output().splitlines() if line.startswith("{")]


def _port(process: Process, event: str) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.exit_code() is None:
        for line in _lines(process):
            if line["event"] == event:
                return int(line["port"])
        time.sleep(0.05)
    raise AssertionError(f"did not start: {process.last_words()}")


def job_count(fleet: Fleet) -> int:
    """Return how many jobs there are, of any owner."""
    with fleet.engine.begin() as connection:
        return int(connection.execute(select(func.count()).select_from(jobs)).scalar_one())


@pytest.fixture
def key(fleet: Fleet) -> str:
    with fleet.engine.begin() as connection:
        return keys.create(connection, "knights", fleet.settings).text


@pytest.fixture
def client(fleet: Fleet, key: str) -> Iterator[tuple[Process, httpx.Client]]:
    process = fleet.start("api", "--port", "0", LOG_FORMAT="json", SYNC_MODE_SECONDS="60")
    url = f"http://127.0.0.1:{_port(process, 'api.listening')}"
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
        yield process, client


def test_it_stops_with_exit_code_0_and_tells_those_who_wait(fleet: Fleet, client: tuple[Process, httpx.Client]) -> None:
    process, http = client
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(http.post(SUBMIT, json=BODY | {"enable_sync_mode": True})))
    waiting.start()
    fleet.until(lambda: job_count(fleet) == 1, "it waits", process=process)
    assert process.stop() == 0, "in the time that it has, which is far less than a minute"
    waiting.join()
    assert answers[0].json()["data"]["code"] == 5004
    assert _lines(process)[-1]["event"] == "api.stopped"


def test_its_log_holds_no_query_key_or_signature(client: tuple[Process, httpx.Client], key: str) -> None:
    process, http = client
    ticket = http.post("/api/v3/media/uploads?secret=hunter2", json={"filename": "a.png", "size": 1}).json()["data"]
    http.post(SUBMIT, json={"image": ticket["upload"]["url"], "prompt": "hunter2"})
    http.get("/api/v3/line%0Abreak")
    assert process.stop() == 0
    log = process.output()
    assert "hunter2" not in log
    assert "X-Amz-" not in log
    assert key not in log
    requests = [line for line in _lines(process) if line["event"] == "api.request"]
    assert [(line["method"], line["path"], line["status"]) for line in requests] == [
        ("POST", "/api/v3/media/uploads", 200),
        ("POST", SUBMIT, 200),
        ("GET", "/api/v3/line%0Abreak", 404),
    ]
    assert all(line["request"] and line["service"] == "api" for line in requests)


def test_a_taken_port_is_said_in_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = f"^cannot listen on 127.0.0.1 port {port}: Address already in use; choose another with --port$"
        with pytest.raises(CannotListen, match=words):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("given", [{}, {"FLOWER_USER": "lance"}, {"FLOWER_PASSWORD": "hunter2"}], ids=str)
def test_flower_never_runs_without_a_user_and_a_password(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FLOWER_USER", "FLOWER_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(cli, ["flower", "--port", "0"], env=given)
    assert result.exit_code == 2
    assert "set FLOWER_USER and FLOWER_PASSWORD in the environment" in result.output


def test_flower_refuses_a_user_that_basic_auth_would_cut_off(settings: Settings) -> None:
    with pytest.raises(CannotShow, match="FLOWER_USER may not hold a colon"):
        run_flower(settings, address="127.0.0.1", port=0, user="a:b", password="c")


@pytest.fixture
def flower(fleet: Fleet) -> tuple[Process, str]:
    process = fleet.start(
        "flower", "--port", "0", FLOWER_USER="lance", FLOWER_PASSWORD="hunter2,:x",
        FLOWER_READ_ONLY="false", FLOWER_BASIC_AUTH="open:sesame", LOG_FORMAT="json",
    )  # fmt: skip
    return process, f"http://127.0.0.1:{_port(process, 'flower.listening')}"


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_flower_asks_for_the_password_and_hides_it_from_the_list_of_processes(flower: tuple[Process, str]) -> None:
    process, url = flower
    for auth, status in (
        (None, 401),
        (("lance", "wrong"), 401),
        (("open", "sesame"), 401),
        (("lance", "hunter2,:x"), 200),
    ):
        for path in ("/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks"):
            assert fetch(url + path, auth=auth).status_code == status
    assert b"hunter2" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert process.stop() == 0
    assert "hunter2" not in process.output()


def test_flower_shows_the_worker_and_no_secret_but_changes_nothing(
    fleet: Fleet, settings: Settings, flower: tuple[Process, str]
) -> None:
    _, url = flower
    auth = ("lance", "hunter2,:x")
    worker = fleet.start_sleeping_worker()
    with httpx.Client(base_url=url, auth=auth, trust_env=False, timeout=30) as http:
        _until(lambda: bool(http.get("/api/workers", params={"refresh": 1}).json()))
        name = next(iter(http.get("/api/workers").json()))
        job = fleet.submit()
        fleet.start("dispatcher")
        fleet.until(fleet.all_over, "the job is over")
        _until(lambda: any(task.startswith(job.hex) for task in http.get("/api/tasks").json()))
        task = next(iter(http.get("/api/tasks").json()))
        for path in (
            f"/api/worker/shutdown/{name}",
            f"/api/worker/pool/restart/{name}",
            f"/api/worker/pool/grow/{name}?n=3",
            f"/api/worker/pool/shrink/{name}?n=1",
            f"/api/worker/pool/autoscale/{name}?min=1&max=9",
            f"/api/worker/queue/add-consumer/{name}?queue=x",
            f"/api/worker/queue/cancel-consumer/{name}?queue=fill.bulk",
            f"/api/task/revoke/{task}?terminate=true",
            "/api/task/timeout/fill?hard=1&workername=" + name,
            "/api/task/rate-limit/fill?ratelimit=1&workername=" + name,
            "/api/task/apply/fill",
            "/api/task/async-apply/fill",
            "/api/task/send-task/fill",
            f"/api/task/abort/{task}",
        ):
            assert http.post(path, json={"args": []}).status_code == 403, path
        password = make_app(settings).connection().password
        assert password
        for path in ("/", f"/worker/{name}", "/tasks", "/broker", "/api/workers?refresh=1", f"/task/{task}"):
            page = http.get(path)
            assert page.status_code == 200, path
            assert password not in page.text, path
            assert settings.s3_secret_key.get_secret_value() not in page.text
    assert worker.exit_code() is None
    assert fleet.ready_workers() == 1
