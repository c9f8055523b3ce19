"""A manifest that is the body of one request: taken in before the answer, or handed to the server's reader if large."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select

from common.settings import Settings
from common.tables import batches
from producer.api import batch_body
from tests.support.api import IMAGE, Account, Api, check_envelope, running_api

BATCHES = "/api/v3/batches"
JSONL = {"Content-Type": "application/jsonl"}
ROW = json.dumps({"custom_id": "sku-1", "image": IMAGE, "prompt": "a fox", "shelf": "A7"})
WRAPPED = json.dumps({"custom_id": "sku-2", "body": {"image": IMAGE, "seed": 7}})


@pytest.fixture(autouse=True)
def _nothing_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert not list(tmp_path.iterdir())


def test_a_body_of_rows_is_a_batch_that_runs(account: Account) -> None:
    body = f"\ufeff{ROW}\r\n\r\n{WRAPPED}\r\nno json at all\r\n{ROW}\n".encode()
    made = account.ask("POST", f"{BATCHES}?name=b&priority=8", content=body, headers=JSONL)["data"]
    assert (made["name"], made["state"], made["priority"]) == ("b", "open", 8)
    assert (made["counts"]["created"], made["rejected"], made["cursor"], made["extra_columns"]) == (2, 2, 4, ["shelf"])
    lines = account.client.get(f"{BATCHES}/b/rejects").text.splitlines()
    bad = [json.loads(line) for line in lines]
    assert [(one["row"], one["where"], one["field"]) for one in bad] == [
        (3, "body, line 4", "row"),
        (4, "row 4", "custom_id"),
    ]
    again = account.ask("POST", f"{BATCHES}?name=b&priority=8", content=f"{ROW}\n{WRAPPED}\n", headers=JSONL)["data"]
    assert (again["id"], again["counts"]["created"]) == (made["id"], 2)


def test_a_body_may_wait_to_be_opened(account: Account) -> None:
    made = account.ask("POST", f"{BATCHES}?open=false", content=ROW, headers=JSONL)["data"]
    assert made["state"] == "receiving"
    assert account.ask("POST", f"{BATCHES}/{made['id']}/open")["data"]["state"] == "open"


def test_a_strict_body_with_a_bad_row_runs_nothing(api: Api, account: Account) -> None:
    made = account.ask("POST", f"{BATCHES}?strict=true", content=f"{ROW}\n{{}}\n", headers=JSONL)["data"]
    assert (made["state"], made["rejected"], made["counts"]["total"]) == ("cancelled", 1, 0)
    assert api.count_jobs(account.owner) == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body holds no rows"),
        (b"\n\r\n ", "body holds no rows"),
        (b"[" + ROW.encode() + b"]", "body is one JSON array; write one object a line"),
        (b"{\n", "body spreads an object over several lines"),
        (b"\x1f\x8b\x08rest", "body: is gzipped; allowed: plain lines"),
        (b"PK\x03\x04", "body is a Zip file"),
        (ROW.encode("utf-16"), "body is text in UTF-16"),
    ],
    ids=repr,
)
def test_a_body_that_is_no_manifest_leaves_no_batch(account: Account, body: bytes, message: str) -> None:
    answer = account.ask("POST", BATCHES, status=400, content=body, headers=JSONL)
    assert answer["message"].startswith(message)
    assert account.ask("GET", BATCHES)["data"]["total"] == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?nmae=x", "nmae: 'x' is no field here; did you mean name?"),
        ("?priority=high", "priority: 'high' is not allowed"),
        ("?priority=11", "priority: 11 is out of range"),
        ("?strict=perhaps", "strict: 'perhaps' is not allowed"),
        ("?webhook_url=nonsense", "webhook_url: "),
    ],
)
def test_a_wrong_parameter_of_a_body_is_named(account: Account, query: str, message: str) -> None:
    answer = account.ask("POST", f"{BATCHES}{query}", status=400, content=ROW, headers=JSONL)
    assert answer["message"].startswith(message)
    assert account.ask("GET", BATCHES)["data"]["total"] == 0


def test_a_local_path_in_a_body_is_a_bad_row(account: Account) -> None:
    made = account.ask("POST", BATCHES, content=b'{"image": "/etc/passwd"}', headers=JSONL)["data"]
    assert (made["counts"]["total"], made["rejected"]) == (0, 1)


def test_a_large_body_is_put_into_the_bucket_for_the_servers_reader(
    api: Api, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_body, "LARGE_BYTES", 1000)
    body = (f"{WRAPPED}\n" * 20).encode()
    made = account.ask("POST", f"{BATCHES}?name=large", content=body, headers=JSONL)["data"]
    assert (made["state"], made["read_by_server"], made["counts"]["total"]) == ("receiving", True, 0)
    with api.engine.begin() as connection:
        manifest = connection.execute(select(batches.c.manifest).where(batches.c.id == UUID(made["id"]))).scalar_one()
    assert manifest["options"]["form"] == "jsonl"
    key = manifest["source"].removeprefix(api.objects.uri(""))
    assert key.startswith(f"inputs/{account.owner.hex}/")
    assert api.objects.get(key, max_bytes=len(body)) == body
    assert account.ask("POST", f"{BATCHES}?name=large", content=body, headers=JSONL)["data"]["id"] == made["id"]
    answer = account.ask("POST", f"{BATCHES}?name=large", status=409, content=body + body, headers=JSONL)
    assert answer["data"]["error_code"] == "batch_exists"


def test_a_body_that_is_too_large_is_refused_while_it_comes(settings: Settings) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield f"{ROW}\n".encode() * 40

    with running_api(settings.model_copy(update={"batch_body_max_bytes": 64 * 1024})) as api:
        account = api.account()
        answer = check_envelope(account.client.post(BATCHES, content=endless(), headers=JSONL))
        assert answer["code"] == 413
        assert (
            answer["message"] == f"body: more than {64 * 1024} bytes is too large; allowed: at most {64 * 1024} bytes"
        )
        json_answer = account.client.post(
            BATCHES, content=b"{" + b" " * 2**21, headers={"Content-Type": "application/json"}
        )
        assert check_envelope(json_answer)["code"] == 413
