"""The unmodified PyPI client `wavespeed` 2.0.5 against the API: upload, submit, wait, download, and every bad end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import wavespeed
from sqlalchemy import select
from wavespeed.api.client import Client

from common.errors import FillfleetError, Rejected, Transient
from common.tables import jobs
from tests.support.api import PNG, Account, Api, fetch

MODEL = "wavespeed-ai/flux-dev-fill"


class StandIn:
    """Ends each of an account's jobs as soon as it waits, in the lifecycle's own words: completed unless told."""

    def __init__(self, api: Api, account: Account) -> None:
        self.stored: list[bytes] = []
        self.errors: list[FillfleetError] = []
        """What to fail the next jobs with."""
        self._api = api
        self._waiting = select(jobs.c.id).where(jobs.c.owner_id == account.owner, jobs.c.status == "created")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stand-in for a worker")
        self._thread.start()

    def stop(self) -> None:
        """Stop and wait for the end."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.05):
            with self._api.engine.begin() as connection:
                waiting = [job.hex for job in connection.execute(self._waiting).scalars()]
            for job in waiting:
                if self.errors:
                    self._api.fail(job, self.errors.pop(0))
                else:
                    images = self._api.row(job).request["num_images"]
                    self.stored += self._api.complete(job, nsfw=(False,) * images)


@pytest.fixture
def worker(api: Api, account: Account) -> Iterator[StandIn]:
    stand_in = StandIn(api, account)
    yield stand_in
    stand_in.stop()


@pytest.fixture
def client(api: Api, account: Account, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return wavespeed.Client(api_key=account.key, base_url=api.url, retry_interval=0.05)


def test_it_is_the_version_that_the_contract_names() -> None:
    assert version("wavespeed") == "2.0.5"


def test_it_uploads_submits_waits_and_downloads(api: Api, client: Client, worker: StandIn, tmp_path: Path) -> None:
    picture = tmp_path / "my knight.png"
    picture.write_bytes(PNG)
    image = client.upload(str(picture))
    with picture.open("rb") as mask:
        mask_image = client.upload(mask)
    outputs = client.run(
        MODEL,
        {"image": image, "mask_image": mask_image, "prompt": "a knight", "num_images": 2},
        poll_interval=0.1,
        timeout=60,
    )["outputs"]
    assert [fetch(link).content for link in outputs] == worker.stored
    assert len(worker.stored) == 2
    with api.engine.begin() as connection:
        request = connection.execute(select(jobs.c.request).order_by(jobs.c.id.desc()).limit(1)).scalar_one()
    key = request["image"].removeprefix(f"s3://{api.settings.s3_bucket}/")
    assert api.objects.get(key, max_bytes=1000) == PNG


def test_its_sync_mode_gets_the_outputs_in_one_request(client: Client, worker: StandIn) -> None:
    outputs = client.run(MODEL, {"image": "https://example.com/a.png"}, enable_sync_mode=True)["outputs"]
    assert [fetch(link).content for link in outputs] == worker.stored


def test_its_sync_mode_understands_that_time_is_over(hasty_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    client = wavespeed.Client(api_key=hasty_api.account().key, base_url=hasty_api.url)
    answer = client.run_no_throw(MODEL, {"image": "https://example.com/a.png"}, enable_sync_mode=True)
    assert answer["status"] == "processing"
    assert answer["error"].startswith(f"Sync mode timed out (task_id: {answer['task_id']})")
    assert client.get_result(answer["task_id"])["data"]["status"] == "created"


def test_it_reads_why_a_job_failed(client: Client, worker: StandIn) -> None:
    worker.errors.append(Rejected("fetch_not_found", "image: the server answered HTTP 404: nothing is there"))
    with pytest.raises(RuntimeError, match=r"Prediction failed .*image: the server answered HTTP 404"):
        client.run(MODEL, {"image": "https://example.com/a.png"}, poll_interval=0.1)


def test_it_submits_a_job_again_that_failed_of_somebodys_5xx(client: Client, worker: StandIn) -> None:
    worker.errors.append(Transient("fetch_failed", "image: the server answered HTTP 503 (tried 3 times)"))
    outputs = client.run(MODEL, {"image": "https://example.com/a.png"}, poll_interval=0.1, max_retries=1)["outputs"]
    assert len(outputs) == 1


def test_it_shows_what_is_wrong_with_a_request(client: Client) -> None:
    with pytest.raises(RuntimeError, match=r"HTTP 400: .*num_images: 9 is too large; allowed: an integer from 1 to 4"):
        client.run(MODEL, {"image": "https://example.com/a.png", "num_images": 9})


def test_it_shows_what_is_wrong_with_a_key(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(RuntimeError, match=r"HTTP 401: .*mistyped or was cut off: send the header"):
        wavespeed.Client(api_key="wrong", base_url=api.url).run(MODEL, {"image": "https://example.com/a.png"})


def test_a_cancelled_job_ends_its_wait(account: Account, client: Client) -> None:
    job = account.submit()["id"]
    threading.Timer(0.3, lambda: account.ask("POST", f"/api/v3/predictions/{job}/cancel")).start()
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="cancelled"):
        client._wait(job, timeout=90, poll_interval=0.1)
    assert time.monotonic() - began < 30
