"""The whole system as a user starts it: `fillfleet up` with the bundled model, and what the ready file says of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from common.settings import Settings

ROOT = Path(__file__).parents[2]
_START_SECONDS = 240.0


class System:
    """A running system, spoken to over HTTP alone."""

    def __init__(self, ready: dict[str, Any]) -> None:
        self.ready = ready
        self.client = httpx.Client(
            base_url=ready["api_url"], headers={"Authorization": f"Bearer {ready['api_key']}"}, timeout=30
        )

    def upload(self, data: bytes, name: str = "image.png") -> str:
        """Upload a file; returns the URL to name it by."""
        answer = self.client.post("/api/v3/media/upload/binary", files={"file": (name, data)})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["data"]["download_url"])

    def submit(self, **fields: Any) -> str:
        """Submit a small job; returns its id."""
        body = {"size": "256*256", "num_inference_steps": 2, "seed": 7} | fields
        answer = self.client.post("/api/v3/wavespeed-ai/flux-dev-fill", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["data"]["id"])

    def wait(self, job: str, seconds: float = 90.0) -> dict[str, Any]:
        """Wait for the job's end; returns the prediction."""
        deadline = time.monotonic() + seconds
        while True:
            data: dict[str, Any] = self.client.get(f"/api/v3/predictions/{job}/result").json()["data"]
            if data["status"] in {"completed", "failed"}:
                return data
            assert time.monotonic() < deadline, f"job {job} is still {data['status']}"
            time.sleep(0.1)

    def run(self, **fields: Any) -> dict[str, Any]:
        """Submit and wait."""
        return self.wait(self.submit(**fields))

    def outputs(self, prediction: dict[str, Any]) -> list[bytes]:
        """Download the outputs by their links."""
        answers = [httpx.get(url, timeout=30) for url in prediction["outputs"]]
        assert all(answer.status_code == 200 for answer in answers)
        return [answer.content for answer in answers]


@contextmanager
def running_system(folder: Path, **env: str) -> Iterator[System]:
    """Start the system in `folder`, yield it when it is ready, and stop it as Ctrl-C does."""
    ready_file = folder / "ready-here.json"
    inherited = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    process = subprocess.Popen(
        [sys.executable, "-m", "producer.cli", "up", "--dir", str(folder / "system"), "--ready-file", str(ready_file)],
        env=inherited | env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not ready_file.exists():
            late = time.monotonic() > deadline
            if process.poll() is not None or late:
                process.kill()
                raise AssertionError(f"the system did not start:\n{process.communicate()[0]}")
            time.sleep(0.1)
        system = System(json.loads(ready_file.read_text()))
        yield system
        system.client.close()
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
