"""A worker's /healthz and /readyz in every state of its life."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from common.settings import Settings
from infra.embedded.servers import EmbeddedServers
from tests.support.processes import wait_until
from tests.support.sleeping_model import SleepingModel
from worker.health import serve_health
from worker.runtime import Runtime


class SlowToLoad(SleepingModel):
    """A model that is loaded when the test says so."""

    may_load = threading.Event()

    def __init__(self, settings: Settings) -> None:
        assert self.may_load.wait(120)
        super().__init__(settings)


class Probe:
    """What Kubernetes or Docker asks, and hears."""

    def __init__(self, port: int, runtime: Runtime) -> None:
        self._port = port
        self._runtime = runtime

    def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, json.loads(body) if response.headers["Content-Type"] == "application/json" else {}

    def statuses(self) -> tuple[int, int]:
        """Return those of /healthz and /readyz."""
        return self.ask("/healthz")[0], self.ask("/readyz")[0]


@pytest.fixture
def runtime(settings: Settings) -> Iterator[Runtime]:
    """A worker that has not been started yet."""
    SlowToLoad.may_load.clear()
    stand_in = f"{SlowToLoad.__module__}:{SlowToLoad.__name__}"
    runtime = Runtime(settings.model_copy(update={"test_model_class": stand_in}))
    yield runtime
    SlowToLoad.may_load.set()
    runtime.close()


@pytest.fixture
def probe(runtime: Runtime) -> Iterator[Probe]:
    server = serve_health(runtime, 0)
    yield Probe(server.server_port, runtime)
    server.shutdown()
    server.server_close()


def test_a_worker_is_healthy_while_its_heart_beats_and_ready_only_while_it_takes_jobs(
    runtime: Runtime, probe: Probe, servers: EmbeddedServers
) -> None:
    assert probe.statuses() == (503, 503), "nothing beats yet"
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(runtime.start)
        assert wait_until(lambda: probe.statuses() == (200, 503), 60), "loading may take half an hour: it is healthy"
        assert probe.ask("/readyz")[1] == {"state": "loading", "worker": runtime.worker_id}
        SlowToLoad.may_load.set()
        started.result(60)
    assert probe.statuses() == (200, 200)
    assert probe.ask("/readyz")[1]["state"] == "ready"
    servers.postgres.kill()
    assert wait_until(lambda: runtime.heartbeat.seconds_since_beat > 1.2, 60)
    assert probe.statuses() == (200, 200), "a database that is away must not get a whole fleet killed"
    servers.postgres.start()
    runtime.drain()
    assert probe.statuses() == (200, 503)
    runtime.close()
    assert probe.statuses() == (503, 503)
    assert probe.ask("/healthz")[1]["state"] == "stopped"


def test_a_worker_that_drains_while_it_loads_is_never_ready(runtime: Runtime, probe: Probe) -> None:
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(runtime.start)
        assert wait_until(lambda: probe.statuses() == (200, 503), 60)
        runtime.drain()
        started.result(60)  # it does not wait for the model
    assert probe.statuses() == (200, 503)
    assert probe.ask("/readyz")[1]["state"] == "draining"


def test_other_paths_are_not_found(probe: Probe) -> None:
    assert probe.ask("/")[0] == 404
    assert probe.ask("/healthz/../readyz")[0] == 404
