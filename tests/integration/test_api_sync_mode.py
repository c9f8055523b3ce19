"""enable_sync_mode: one request that answers with the result, or says in the known way that it is not there yet."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable

from sqlalchemy import text

from common import lifecycle
from common.errors import Rejected
from tests.support.api import Account, Api
from tests.support.processes import wait_until


def _soon(api: Api, account: Account, end: Callable[[str], object]) -> threading.Thread:
    """End the account's one job as soon as it is there."""

    def run() -> None:
        def jobs() -> list[str]:
            with api.engine.begin() as connection:
                mine = connection.execute(text("SELECT id FROM jobs WHERE owner_id = :id"), {"id": account.owner})
                return [job.hex for job in mine.scalars()]

        assert wait_until(lambda: jobs() != [], 20)
        end(jobs()[0])

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_the_answer_is_the_completed_job(api: Api, account: Account) -> None:
    worker = _soon(api, account, api.complete)
    data = account.submit(enable_sync_mode=True)
    worker.join()
    assert data["status"] == "completed"
    assert len(data["outputs"]) == 1


def test_with_base64_the_image_comes_in_the_same_answer(api: Api, account: Account) -> None:
    stored: list[bytes] = []
    worker = _soon(api, account, lambda job: stored.extend(api.complete(job)))
    data = account.submit(enable_sync_mode=True, enable_base64_output=True)
    worker.join()
    assert [base64.b64decode(output) for output in data["outputs"]] == stored


def test_a_job_that_fails_is_answered_as_failed(api: Api, account: Account) -> None:
    worker = _soon(api, account, lambda job: api.fail(job, Rejected("mask_empty", "mask_image: is empty")))
    data = account.submit(enable_sync_mode=True)
    worker.join()
    assert (data["status"], data["error"], data["code"]) == ("failed", "mask_image: is empty", 1401)


def test_a_wait_that_is_over_says_so_in_the_way_that_clients_know(hasty_api: Api) -> None:
    api, account = hasty_api, hasty_api.account()
    began = time.monotonic()
    data = account.submit(enable_sync_mode=True)
    assert api.settings.sync_mode_seconds <= time.monotonic() - began < api.settings.sync_mode_seconds + 20
    assert (data["status"], data["code"]) == ("processing", 5004)
    assert "Sync mode timed out" in data["error"]
    assert data["urls"]["get"] in data["error"]
    api.complete(data["id"])
    assert account.result(data["id"])["status"] == "completed"


def test_many_that_wait_hold_up_nobody_else(api: Api, account: Account) -> None:
    waiting = [threading.Thread(target=account.submit, kwargs={"enable_sync_mode": True}) for _ in range(60)]
    for thread in waiting:
        thread.start()
    assert wait_until(lambda: api.count_jobs(account.owner) == len(waiting), 20), "all of them wait"
    began = time.monotonic()
    assert account.submit()["status"] == "created"
    assert time.monotonic() - began < api.settings.sync_mode_seconds / 2
    with api.engine.begin() as connection:
        mine = connection.execute(text("SELECT id FROM jobs WHERE owner_id = :id"), {"id": account.owner})
        lifecycle.cancel(connection, account.owner, list(mine.scalars()))
    for thread in waiting:
        thread.join()


def test_a_job_that_is_deleted_while_it_is_waited_for_is_gone(api: Api, account: Account) -> None:
    other = api.account(_name_of(api, account)).client
    worker = _soon(api, account, lambda job: other.delete(f"/api/v3/predictions/{job}"))
    answer = account.ask(
        "POST",
        "/api/v3/wavespeed-ai/flux-dev-fill",
        status=404,
        json={"image": "https://example.com/a.png", "enable_sync_mode": True},
    )
    worker.join()
    assert answer["message"].startswith("no such prediction")


def _name_of(api: Api, account: Account) -> str:
    with api.engine.begin() as connection:
        row = connection.execute(text("SELECT name FROM owners WHERE id = :id"), {"id": account.owner})
        return str(row.scalar_one())
