"""Prompts that an operator refuses: at the API, in manifests, and by a worker whose rules are newer than the job."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from common import lifecycle
from common.contract import BatchState, InvalidRequest
from common.errors import JobFailed, Rejected
from common.ids import new_id
from common.lifecycle import NewBatch
from common.objects import Objects, upload_key
from common.settings import Settings
from infra.embedded.servers import EmbeddedServers
from producer.doors.direct import DirectDoor
from producer.manifest import ManifestRow
from producer.manifest_intake import read_next
from tests.support.api import IMAGE, MASK, Account, Api, running_api
from tests.support.databases import fresh_database
from tests.support.environment import settings_for
from tests.support.fleet import SLEEPING, Fleet
from worker.runtime import Runtime

BATCHES = "/api/v3/batches"
SUBMIT = "/api/v3/wavespeed-ai/flux-dev-fill"
RULES = "[heavy animals]\nelephant*\n[cold things]\nice * cream\n"
REFUSED = "a pink\u200b ELEPHANTS’ pool"  # noqa: RUF001
WHY = 'falls under "heavy animals", which this fleet refuses'


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rules") / "deny.txt"
    path.write_text(RULES)
    return path


@pytest.fixture(scope="module")
def strict_api(servers: EmbeddedServers, migrated_template: str, rules: Path) -> Iterator[Api]:
    """An API whose operator refuses prompts."""
    with (
        fresh_database(servers, migrated_template) as url,
        running_api(settings_for(servers, url, prompt_deny_file=rules)) as api,
    ):
        yield api


@pytest.fixture
def strict(strict_api: Api) -> Account:
    return strict_api.account()


@pytest.fixture
def denying(settings: Settings, tmp_path: Path) -> Settings:
    """This test's settings, with rules of its own."""
    path = tmp_path / "deny.txt"
    path.write_text(RULES)
    return settings.model_copy(update={"prompt_deny_file": path})


# --- one job over HTTP


def test_a_refused_prompt_is_a_400_that_names_field_and_category_and_queues_nothing(
    strict_api: Api, strict: Account
) -> None:
    answer = strict.ask("POST", SUBMIT, status=400, json={"image": IMAGE, "mask_image": MASK, "prompt": REFUSED})
    (error,) = answer["data"]["errors"]
    assert (error["field"], error["reason"]) == ("prompt", WHY)
    assert answer["data"]["code"] == 1401
    assert "elephant*" not in json.dumps(answer), "the rules stay inside"
    assert strict_api.count_jobs(strict.owner) == 0


def test_what_falls_under_no_rule_is_taken(strict: Account) -> None:
    assert strict.submit(prompt="a mouse, ice and snow")["status"] == "created"
    assert strict.submit(prompt="")["status"] == "created"


def test_a_prompt_is_refused_whatever_else_the_request_switches_off(strict: Account) -> None:
    body = {"image": IMAGE, "mask_image": MASK, "prompt": "elephant", "enable_safety_checker": False}
    strict.ask("POST", SUBMIT, status=400, json=body)


def test_a_fleet_without_rules_refuses_no_prompt(account: Account) -> None:
    assert account.submit(prompt=REFUSED)["status"] == "created"


# --- rows of batches


def test_a_row_with_a_refused_prompt_is_a_bad_row_with_the_reason_and_the_others_run(strict: Account) -> None:
    rows = [{"image": IMAGE, "prompt": "a mouse"}, {"image": IMAGE, "prompt": REFUSED, "custom_id": "sku-2"}]
    body = "\n".join(map(json.dumps, rows))
    headers = {"Content-Type": "application/jsonl"}
    made = strict.ask("POST", f"{BATCHES}?name=b", content=body, headers=headers)["data"]
    assert (made["counts"]["created"], made["rejected"]) == (1, 1)
    (bad,) = map(json.loads, strict.client.get(f"{BATCHES}/b/rejects").text.splitlines())
    assert (bad["row"], bad["custom_id"], bad["field"]) == (2, "sku-2", "prompt")
    assert bad["reason"].startswith(WHY)


def test_rows_that_are_sent_or_only_checked_are_judged_too(strict: Account) -> None:
    line = json.dumps({"row": 1, "body": {"image": IMAGE, "prompt": "ice and vanilla cream"}})
    headers = {"Content-Type": "application/x-ndjson"}
    strict.ask("POST", BATCHES, json={"name": "sent"})
    assert strict.ask("POST", f"{BATCHES}/sent/rows?upto=1", content=line, headers=headers)["data"]["rejected"] == 1
    checked = strict.ask("POST", f"{BATCHES}/check", content=f'{{"defaults": {{}}}}\n{line}\n', headers=headers)["data"]
    assert (checked["good"], checked["rejects"][0]["field"]) == (0, "prompt")
    assert 'falls under "cold things"' in checked["rejects"][0]["reason"]


def test_a_prompt_for_a_whole_batch_is_refused_before_its_rows_are_sent(strict: Account) -> None:
    answer = strict.ask("POST", BATCHES, status=400, json={"name": "all", "defaults": {"prompt": REFUSED}})
    assert answer["data"]["errors"][0]["field"] == "prompt"
    strict.ask("GET", f"{BATCHES}/all", status=404)


def test_the_direct_way_refuses_the_same_prompts(denying: Settings, database: Engine) -> None:
    with closing(DirectDoor(denying, "ada")) as door:
        batch = door.start(NewBatch("b"))
        rows = [
            ManifestRow(n, f"line {n}", {"image": IMAGE, "prompt": prompt}, None, extra={})
            for n, prompt in enumerate(["a mouse", REFUSED], 1)
        ]
        taken = door.send(batch, rows, upto=2, digest="")
        assert (taken.new, taken.rejected) == (1, 1)
        assert [bad.field for bad in door.rejects(batch)] == ["prompt"]
        with pytest.raises(InvalidRequest):
            door.start(NewBatch("c", {"prompt": REFUSED}))


def manifest_of(fleet: Fleet) -> str:
    """Put a manifest of two rows into the owner's part of the bucket; return its URI."""
    objects = Objects(fleet.settings)
    key = upload_key(fleet.owner, new_id(), "m.csv")
    objects.put(key, f"image,prompt\n{IMAGE},a mouse\n{IMAGE},two elephants\n".encode(), "text/csv")
    objects.close()
    return objects.uri(key)


def start_manifest(fleet: Fleet, name: str) -> UUID:
    options: dict[str, Any] = {"form": "csv"}
    with fleet.engine.begin() as connection:
        new = NewBatch(name, manifest={"source": manifest_of(fleet), "options": options})
        return lifecycle.create_batch(connection, fleet.owner, new)


def test_a_manifest_that_the_server_reads_is_judged_too(fleet: Fleet, denying: Settings) -> None:
    batch = start_manifest(fleet, "read")
    assert read_next(fleet.engine, denying, threading.Event())
    with closing(DirectDoor(fleet.settings, fleet.owner)) as door:
        found = door.find(batch.hex)
        assert (found.state, found.counts.total, found.rejected) == (BatchState.OPEN, 1, 1)
        assert [bad.field for bad in door.rejects(found)] == ["prompt"]


def test_no_batch_is_lost_over_a_bad_file_of_the_operators(fleet: Fleet, denying: Settings) -> None:
    assert denying.prompt_deny_file is not None
    denying.prompt_deny_file.write_text("/fo+x/")
    batch = start_manifest(fleet, "waits")
    assert read_next(fleet.engine, denying, threading.Event())
    with closing(DirectDoor(fleet.settings, fleet.owner)) as door:
        found = door.find(batch.hex)
        assert (found.state, found.error) == (BatchState.RECEIVING, None)


# --- the worker


@pytest.fixture
def runtime(denying: Settings) -> Iterator[Runtime]:
    runtime = Runtime(denying.model_copy(update={"test_model_class": SLEEPING}))
    runtime.start()
    yield runtime
    runtime.close()


def test_a_job_that_was_taken_before_the_rule_is_refused_by_the_worker_for_good(
    fleet: Fleet, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.inputs.InputReader.read", lambda *_, **__: pytest.fail("its inputs were fetched"))
    job = fleet.submit(prompt=REFUSED, image=IMAGE)
    with pytest.raises(JobFailed, match=WHY):
        runtime.run(job)
    row = fleet.row(job)
    assert (row["status"], row["error_code"], row["retryable"]) == ("failed", "prompt_denied", False)
    assert row["error"] == f"prompt: {WHY}"
    assert fleet.events(job) == ["created", "claimed", "failed"]


def test_a_rule_that_is_added_while_a_worker_runs_holds_from_then_on(
    fleet: Fleet, runtime: Runtime, denying: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.prompt_deny_file._LOOK_SECONDS", 0.0)
    first, second = fleet.submit(prompt="a mouse"), fleet.submit(prompt="a mouse")
    runtime.run(first)
    assert fleet.row(first)["status"] == "completed"
    assert denying.prompt_deny_file is not None
    denying.prompt_deny_file.write_text(RULES + "[light animals]\nmouse\n")
    with pytest.raises(JobFailed, match="light animals"):
        runtime.run(second)


def test_nothing_starts_on_a_bad_file(denying: Settings) -> None:
    assert denying.prompt_deny_file is not None
    denying.prompt_deny_file.write_text("elephant\n/fo+x/")
    from producer.api import create_app
    from producer.dispatcher import run

    for start in (create_app, Runtime, lambda settings: run(settings, threading.Event())):
        with pytest.raises(Rejected, match=r"deny.txt:2: regular expressions are not taken"):
            start(denying)
