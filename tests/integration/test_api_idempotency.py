"""Idempotency-Key: however often a request is sent, it makes one job."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from tests.support.api import IMAGE, MASK, Account, Api

SUBMIT = "/api/v3/wavespeed-ai/flux-dev-fill"
BODY = {"image": IMAGE, "mask_image": MASK, "prompt": "a knight", "seed": -1}


def _submit(account: Account, key: str, body: dict[str, Any], **more: Any) -> dict[str, Any]:
    return account.ask("POST", SUBMIT, json=body, headers={"Idempotency-Key": key}, **more)


def test_a_hundred_at_once_make_one_job(api: Api, account: Account) -> None:
    barrier = Barrier(100)

    def submit(_number: int) -> str:
        barrier.wait()
        return str(_submit(account, "the one", BODY)["data"]["id"])

    with ThreadPoolExecutor(100) as threads:
        ids = set(threads.map(submit, range(100)))
    assert len(ids) == 1
    assert api.count_jobs(account.owner) == 1


def test_the_same_key_and_body_is_the_same_job_with_the_same_seed(api: Api, account: Account) -> None:
    first, second = (_submit(account, "again", body)["data"] for body in (BODY, dict(reversed(BODY.items()))))
    assert first["id"] == second["id"]
    assert first["input"]["seed"] == second["input"]["seed"]
    api.complete(first["id"])
    assert _submit(account, "again", BODY)["data"]["status"] == "completed"


def test_the_same_key_with_another_body_is_a_conflict(api: Api, account: Account) -> None:
    _submit(account, "one", BODY)
    answer = _submit(account, "one", BODY | {"prompt": "a squire"}, status=409)
    assert answer["message"] == (
        "Idempotency-Key: 'one' was sent before with another body; use a new key for a new request"
    )
    assert api.count_jobs(account.owner) == 1


def test_two_bodies_at_once_under_one_key_make_one_job_and_conflicts(api: Api, account: Account) -> None:
    barrier = Barrier(20)

    def submit(number: int) -> int:
        barrier.wait()
        body = BODY | {"num_images": 1 + number % 2}
        return account.client.post(SUBMIT, json=body, headers={"Idempotency-Key": "torn"}).status_code

    with ThreadPoolExecutor(20) as threads:
        statuses = sorted(threads.map(submit, range(20)))
    assert statuses == [200] * 10 + [409] * 10
    assert api.count_jobs(account.owner) == 1


def test_other_keys_and_other_owners_make_other_jobs(api: Api, account: Account) -> None:
    other = api.account()
    ids = {_submit(who, key, BODY)["data"]["id"] for who, key in ((account, "one"), (account, "two"), (other, "one"))}
    assert len(ids) == 3


def test_without_a_key_each_request_is_a_job(api: Api, account: Account) -> None:
    assert account.submit()["id"] != account.submit()["id"]


def test_a_refused_request_leaves_its_key_free(account: Account) -> None:
    _submit(account, "fixed", BODY | {"seed": -2}, status=400)
    _submit(account, "fixed", BODY | {"image": "s3://elsewhere/a.png"}, status=400)
    assert _submit(account, "fixed", BODY)["data"]["status"] == "created"


def test_the_key_of_a_deleted_job_makes_no_second_one(api: Api, account: Account) -> None:
    job = _submit(account, "gone", BODY)["data"]["id"]
    account.ask("DELETE", f"/api/v3/predictions/{job}")
    _submit(account, "gone", BODY, status=404)
    assert api.count_jobs(account.owner) == 1


@pytest.mark.parametrize("key", ["", "a" * 256, "naïve", "tab\tbed"], ids=["empty", "long", "accent", "tab"])
def test_a_key_that_cannot_be_kept_is_refused(api: Api, account: Account, key: str) -> None:
    response = account.client.post(SUBMIT, json=BODY, headers={b"Idempotency-Key": key.encode("latin-1")})
    assert response.status_code == 400
    assert "Idempotency-Key" in response.json()["message"]
    assert "allowed: 1 to 255 printable ASCII characters" in response.json()["message"]
    assert api.count_jobs(account.owner) == 0
