"""The HTTP API under test: a real uvicorn on a real port, accounts with keys, and jobs that end without a worker.

A job's end is made by the lifecycle, with real objects in the bucket; no server here is a stand-in.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import Engine, func, select

from common import lifecycle
from common.contract import MODEL
from common.database import make_engine
from common.errors import FillfleetError
from common.ids import new_id
from common.objects import Objects, output_key
from common.result import JobResult, Output, Timings
from common.settings import Settings
from common.tables import jobs
from producer import keys
from producer.api import create_app
from producer.api.server import listen, make_server

IMAGE = "https://example.com/knight.jpg"
MASK = "https://example.com/knight-mask.png"
PNG = b"\x89PNG\r\n\x1a\n" + b"these bytes only have to come back as they were"
_TLS = ssl.create_default_context()  # httpx would read all certificates for each client, though nothing here uses TLS
TIMINGS = Timings(queue=5, fetch=40, wait=7, inference=1234, upload=60)


def ask(method: str, url: str, **more: Any) -> httpx.Response:
    """Send one request that carries nothing but what is given."""
    return httpx.request(method, url, trust_env=False, verify=_TLS, timeout=30, **more)


def fetch(url: str, **more: Any) -> httpx.Response:
    """GET a URL in the same way."""
    return ask("GET", url, **more)


def check_envelope(response: httpx.Response) -> dict[str, Any]:
    """Assert that the answer is the envelope, as every answer must be, and return it."""
    assert response.headers["content-type"] == "application/json", response.text
    body = response.json()
    assert set(body) == {"code", "message", "data"}, body
    assert body["code"] == response.status_code
    assert isinstance(body["message"], str)
    assert body["message"]
    assert "Traceback" not in response.text
    assert response.headers["x-request-id"]
    return dict(body)


class Account:
    """One owner with one key, talking HTTP."""

    def __init__(self, url: str, key: keys.NewKey) -> None:
        self.key = key.text
        self.owner = key.owner
        self.client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key.text}"},
            timeout=30,
            trust_env=False,
            verify=_TLS,
        )

    def ask(self, method: str, path: str, *, status: int = 200, **more: Any) -> dict[str, Any]:
        """Send a request, assert its status and the envelope, and return the envelope."""
        response = self.client.request(method, path, **more)
        assert response.status_code == status, response.text
        return check_envelope(response)

    def submit(self, version: str = "v3", model: str = MODEL, **fields: Any) -> dict[str, Any]:
        """Submit a good request with `fields` changed, and return its data."""
        body = {"image": IMAGE, "mask_image": MASK, "prompt": "a knight"} | fields
        data: dict[str, Any] = self.ask("POST", f"/api/{version}/{model}", json=body)["data"]
        return data

    def result(self, job: str, version: str = "v3") -> dict[str, Any]:
        """Return the data of a job's result."""
        data: dict[str, Any] = self.ask("GET", f"/api/{version}/predictions/{job}/result")["data"]
        return data

    def upload(self, name: str = "knight.png", data: bytes = PNG) -> str:
        """Upload a file through the API; return its download_url."""
        answer = self.ask("POST", "/api/v3/media/upload/binary", files={"file": (name, data, "image/png")})
        return str(answer["data"]["download_url"])


@dataclass(frozen=True)
class Api:
    """The API, and the back door to what it does."""

    url: str
    settings: Settings
    engine: Engine
    objects: Objects
    accounts: list[Account] = field(default_factory=list)

    def account(self, owner: str | None = None) -> Account:
        """Make an account: of a new owner unless named."""
        with self.engine.begin() as connection:
            key = keys.create(connection, owner or f"owner-{new_id().hex}", self.settings)
        self.accounts.append(Account(self.url, key))
        return self.accounts[-1]

    def close(self) -> None:
        """Close all connections."""
        for account in self.accounts:
            account.client.close()
        self.engine.dispose()
        self.objects.close()

    def count_jobs(self, owner: UUID) -> int:
        """Return how many jobs the owner has in the table, deleted ones too."""
        with self.engine.begin() as connection:
            return connection.execute(
                select(func.count()).select_from(jobs).where(jobs.c.owner_id == owner)
            ).scalar_one()

    def row(self, job: str) -> Any:
        """Return a job's row."""
        with self.engine.begin() as connection:
            return connection.execute(select(jobs).where(jobs.c.id == UUID(job))).one()

    def claim(self, job: str) -> lifecycle.Claim:
        """Take the job as a worker does."""
        with self.engine.begin() as connection:
            claim = lifecycle.claim(connection, UUID(job), worker="test", lease_seconds=60)
        assert claim is not None
        return claim

    def complete(self, job: str, nsfw: Sequence[bool | None] = (False,), **measured: Any) -> list[bytes]:
        """Lead the job to its end with one stored output for each of `nsfw`; return what was stored.

        `measured`: more fields of its result.
        """
        claim = self.claim(job)
        stored = [PNG + str(number).encode() for number in range(len(nsfw))]
        outputs = []
        for number, (data, flag) in enumerate(zip(stored, nsfw, strict=True)):
            key = output_key(claim.owner, claim.job, claim.attempt, number, "png")
            self.objects.put(key, data, "image/png")
            outputs.append(
                Output(
                    key=key,
                    sha256=hashlib.sha256(data).hexdigest(),
                    bytes=len(data),
                    format="png",
                    width=1024,
                    height=1024,
                    seed=claim.request.seed + number,
                    nsfw=flag,
                )
            )
        result = JobResult(
            outputs=tuple(outputs),
            timings=TIMINGS,
            model_version={"model": "test", "revision": "1"},
            worker="test",
            mask_coverage=0.5,
            inputs={"image": "0" * 64},
            **measured,
        )
        with self.engine.begin() as connection:
            lifecycle.complete(connection, claim.job, claim.attempt, result.model_dump(mode="json"))
        return stored

    def fail(self, job: str, error: FillfleetError) -> None:
        """Lead the job to a bad end."""
        claim = self.claim(job)
        with self.engine.begin() as connection:
            lifecycle.fail(connection, claim.job, claim.attempt, error)


@contextmanager
def running_api(settings: Settings) -> Iterator[Api]:
    """Run the API in a thread of this process until the block ends; then assert that it stopped by itself."""
    app = create_app(settings)
    server = make_server(app)
    with listen("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="api under test")
        thread.start()
        api = Api(url, settings, make_engine(settings), Objects(settings))
        try:
            deadline = time.monotonic() + 60
            while not server.started:
                assert thread.is_alive(), "the API did not start"
                assert time.monotonic() < deadline, "the API did not start in time"
                time.sleep(0.01)
            yield api
        finally:
            api.close()
            app.state.services.stopping.set()
            server.should_exit = True
            thread.join(timeout=60)
    assert not thread.is_alive(), "the API did not stop"
