"""Batches over HTTP: made, listed, opened, paused, cancelled; every mistake in words; nobody sees another's."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from common.ids import new_id
from common.tables import batches
from tests.support.api import IMAGE, Account, Api, ask, check_envelope

BATCHES = "/api/v3/batches"
LINES = {"Content-Type": "application/x-ndjson"}


def _make(account: Account, **fields: Any) -> dict[str, Any]:
    data: dict[str, Any] = account.ask("POST", BATCHES, json=fields)["data"]
    return data


def _send(account: Account, batch: str, count: int = 1) -> None:
    lines = "\n".join(f'{{"row": {row}, "body": {{"image": "{IMAGE}"}}}}' for row in range(1, count + 1))
    account.ask("POST", f"{BATCHES}/{batch}/rows?upto={count}", content=lines, headers=LINES)


def _stored_manifest(api: Api, batch: str) -> Any:
    with api.engine.begin() as connection:
        return connection.execute(select(batches.c.manifest).where(batches.c.id == UUID(batch))).scalar_one()


def test_a_batch_goes_through_its_life_by_id_and_by_name(account: Account) -> None:
    made = _make(account, name="spring", defaults={"prompt": "a table"}, priority=7)
    assert (made["state"], made["counts"]["total"], made["progress"], made["read_by_server"]) == (
        "receiving",
        0,
        0,
        False,
    )
    assert (made["name"], made["defaults"], made["priority"], made["error"]) == ("spring", {"prompt": "a table"}, 7, "")
    _send(account, "spring", 3)
    states = [
        account.ask("POST", f"{BATCHES}/{of}/{wish}")["data"]["state"]
        for of, wish in (
            ("spring", "open"),
            (made["id"], "pause"),
            ("spring", "resume"),
            (made["id"], "cancel"),
            ("spring", "cancel"),
        )
    ]
    assert states == ["open", "paused", "open", "cancelled", "cancelled"]
    shown = account.ask("GET", f"{BATCHES}/spring")["data"]
    assert shown == account.ask("GET", f"{BATCHES}/{made['id']}")["data"]
    assert (shown["counts"]["created"], shown["workers"], shown["causes"]) == (3, [], [])


def test_the_same_name_and_defaults_are_the_same_batch(account: Account) -> None:
    first = _make(account, name="a", defaults={"seed": 1})
    assert _make(account, name="a", defaults={"seed": 1})["id"] == first["id"]
    answer = account.ask("POST", BATCHES, status=409, json={"name": "a", "defaults": {"seed": 2}})
    assert answer["data"]["error_code"] == "batch_exists"
    assert "with another " in answer["message"]


def test_a_batch_without_a_name_gets_one_of_its_own_that_says_what_it_is(account: Account) -> None:
    names = [_make(account)["name"] for _ in range(2)]
    names += [_make(account, manifest="https://example.com/my%20products.csv?sig=x")["name"]]
    assert len(set(names)) == 3
    assert names[0].startswith("batch 20")
    assert names[2].startswith("my products.csv 20")


def test_a_list_pages_from_the_newest_and_filters_by_state_and_name(account: Account) -> None:
    names = [f"batch {number}" for number in range(5)]
    ids = {name: _make(account, name=name)["id"] for name in names}
    account.ask("POST", f"{BATCHES}/batch 3/cancel")
    page = account.ask("GET", f"{BATCHES}?page=2&page_size=2")["data"]
    assert (page["total"], [item["name"] for item in page["items"]]) == (5, ["batch 2", "batch 1"])
    cancelled = account.ask("GET", f"{BATCHES}?state=cancelled")["data"]
    assert [item["id"] for item in cancelled["items"]] == [ids["batch 3"]]
    for name, state, found in (("batch 4", "", 1), ("batch 4", "&state=done", 0), ("nobody", "", 0), ("%00", "", 0)):
        if name == "%00":
            account.ask("GET", f"{BATCHES}?name={name}{state}", status=400)
        else:
            assert account.ask("GET", f"{BATCHES}?name={name}{state}")["data"]["total"] == found


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"nmae": "x"}, "nmae: 'x' is no field here; did you mean name?; allowed: a text of 1 to 200"),
        ({"zzz": 1}, "zzz: 1 is no field here; allowed: one of defaults, manifest, name, options, priority, strict"),
        ({"name": ""}, "batch"),
        ({"name": " "}, "name: ' ' is no name for a batch; allowed: a text of 1 to 200 printable characters"),
        ({"name": "a\nb"}, "name: 'a\\nb' is no name"),
        ({"name": "a\x00b"}, "name: 'a\\x00b' is not allowed"),
        ({"name": "x" * 201}, "(201 characters) is no name"),
        ({"name": 7}, "name: 7 is not allowed; allowed: a text"),
        ({"priority": 10}, "priority: 10 is out of range; allowed: 0 to 9"),
        ({"priority": "high"}, "priority: 'high' is not allowed; allowed: an integer from 0 to 9"),
        ({"strict": "yes"}, "strict: 'yes' is not allowed; allowed: true or false"),
        ({"defaults": {"promt": "a"}}, "promt: 'a' is no field; did you mean prompt?"),
        ({"defaults": {"seed": -5}}, "seed: -5 is too small"),
        ({"defaults": {"enable_sync_mode": True}}, "enable_sync_mode: true is for single requests only"),
        ({"defaults": {"a\x00b": 1}}, "is no field"),
        ({"defaults": []}, "defaults: a list of 0 is not allowed"),
        ({"options": {"form": "csv"}}, "options: an object goes with a manifest"),
        ({"webhook_url": "ftp://example.com"}, "webhook_url: "),
        ({"webhook_url": "https://user:pass@example.com"}, "webhook_url: "),
        ({"manifest": "products.csv"}, 'manifest: "products.csv" must begin with https://'),
        ({"manifest": "s3://elsewhere/a.csv"}, "you may not read here"),
        ({"manifest": "s3://BUCKET/uploads/0195d3c1c8a67cf0a3f0b0c5a1b2c3d4/a.csv"}, "is not yours"),
        ({"manifest": "s3://BUCKET/uploads/0195d3c1c8a67cf0a3f0b0c5a1b2c3d4/"}, "is not yours"),
        ({"manifest": "s3://BUCKET/uploads/"}, "is not yours"),
        ({"manifest": "s3://BUCKET/"}, "is not yours"),
        ({"manifest": "s3://BUCKET"}, "is not yours"),
        ({"manifest": "s3://BUCKET/uploads/OWNER//"}, "empty part"),
        ({"manifest": IMAGE, "options": {"mask": "s3://BUCKET/uploads/OWNER/"}}, "options.mask: "),
        ({"manifest": "s3://BUCKET/uploads/OWNER/../a.csv"}, '".."'),
        (
            {"manifest": IMAGE, "options": {"from": "csv"}},
            "options.from: 'csv' is no field here; did you mean options.form?",
        ),
        ({"manifest": IMAGE, "options": {"form": "xlsx"}}, "form: 'xlsx' is not allowed; allowed: one of jsonl, csv"),
        ({"manifest": IMAGE, "options": {"columns": {"image": 7}}}, "columns.image: 7 is not allowed"),
        ({"manifest": IMAGE, "options": {"mask": "/etc/passwd"}}, 'options.mask: "/etc/passwd" must begin with'),
        ({"manifest": IMAGE, "options": {"root": "/"}}, "options.root: '/' is no field here"),
        ({"manifest": IMAGE, "options": {"local_files": True}}, "options.local_files: true is no field here"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_wrong_wish_names_field_value_and_what_is_allowed(
    api: Api, account: Account, body: dict[str, Any], message: str
) -> None:
    if "manifest" in body:
        named = body["manifest"].replace("BUCKET", api.settings.s3_bucket).replace("OWNER", account.owner.hex)
        body = {**body, "manifest": named}
    if body == {"name": ""}:
        assert _make(account, **body)["name"].startswith(message)  # an empty name is none
        return
    answer = account.ask("POST", BATCHES, status=400, json=body)
    assert message in answer["message"]
    assert "pass@" not in answer["message"]
    assert answer["data"]["code"] == 1401
    assert account.ask("GET", BATCHES)["data"]["total"] == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("page=0", "page: '0' is not allowed; allowed: an integer from 1"),
        ("page_size=101", "page_size: '101' is not allowed; allowed: an integer from 1 to 100"),
        ("state=finished", "state: 'finished' is not allowed; allowed: one of receiving, open"),
        ("sate=open", "sate: 'open' is no field here; did you mean state?"),
    ],
)
def test_a_wrong_query_names_field_value_and_what_is_allowed(account: Account, query: str, message: str) -> None:
    assert message in account.ask("GET", f"{BATCHES}?{query}", status=400)["message"]


def test_a_manifest_that_the_server_reads_is_kept_as_its_reader_needs_it(api: Api, account: Account) -> None:
    link, mask = account.upload("rows.csv"), account.upload("mask.png")
    columns = {"image": "picture", "custom_id": "sku"}
    body = {
        "name": "m",
        "manifest": link,
        "options": {"form": "csv", "columns": columns, "mask": mask, "keep": ["siz"]},
    }
    made = _make(account, **body)
    assert (made["state"], made["read_by_server"]) == ("receiving", True)
    stored = _stored_manifest(api, made["id"])
    mine = f"s3://{api.settings.s3_bucket}/uploads/{account.owner.hex}/"
    assert stored["source"].startswith(mine)
    assert stored["source"].endswith("/rows.csv")
    options = stored["options"]
    assert (options["form"], options["columns"], options["keep"]) == ("csv", columns, ["siz"])
    assert options["mask"].startswith(mine)
    assert _make(account, **body)["id"] == made["id"]


@pytest.mark.parametrize(
    ("source", "stored"),
    [
        ("https://example.com/a.csv?x=1", "https://example.com/a.csv?x=1"),
        ("s3://BUCKET/uploads/OWNER/set/", "s3://BUCKET/uploads/OWNER/set/"),
        ("s3://BUCKET/uploads/OWNER/", "s3://BUCKET/uploads/OWNER/"),
        ("s3://BUCKET/uploads/OWNER", "s3://BUCKET/uploads/OWNER"),
        ("s3://BUCKET/inputs/OWNER/shard-{0000..0009}.tar", "s3://BUCKET/inputs/OWNER/shard-{0000..0009}.tar"),
    ],
)
def test_a_source_is_stored_resolved(api: Api, account: Account, source: str, stored: str) -> None:
    def named(text: str) -> str:
        return text.replace("BUCKET", api.settings.s3_bucket).replace("OWNER", account.owner.hex)

    assert _stored_manifest(api, _make(account, manifest=named(source))["id"])["source"] == named(stored)


def test_anothers_upload_is_no_manifest_and_no_mask(api: Api, account: Account) -> None:
    theirs = api.account().upload("rows.csv")
    for body, field in (
        ({"manifest": theirs}, "manifest"),
        ({"manifest": IMAGE, "options": {"mask": theirs}}, "options.mask"),
    ):
        answer = account.ask("POST", BATCHES, status=404, json=body)
        assert answer["message"].startswith(f'{field}: "{theirs}" is no upload of yours')


def test_another_manifest_under_the_same_name_is_a_conflict(account: Account) -> None:
    _make(account, name="m", manifest="https://example.com/a.csv")
    _make(account, name="r")
    for body in (
        {"name": "m", "manifest": "https://example.com/b.csv"},
        {"name": "m", "manifest": "https://example.com/a.csv", "options": {"form": "csv"}},
        {"name": "m"},
        {"name": "r", "manifest": "https://example.com/a.csv"},
    ):
        answer = account.ask("POST", BATCHES, status=409, json=body)
        assert answer["data"]["error_code"] == "batch_exists"


def test_while_the_server_reads_a_manifest_nobody_sends_rows_or_opens_it(account: Account) -> None:
    _make(account, name="m", manifest="https://example.com/a.csv")
    line = b'{"row": 1, "body": {}}'
    for answer in (
        account.ask("POST", f"{BATCHES}/m/open", status=409),
        account.ask("POST", f"{BATCHES}/m/rows?upto=1", status=409, content=line, headers=LINES),
    ):
        assert answer["data"]["error_code"] == "batch_state"
        assert "the server reads the manifest" in answer["message"]
    assert account.ask("POST", f"{BATCHES}/m/cancel")["data"]["state"] == "cancelled"


def test_a_wish_that_the_state_does_not_allow_is_a_conflict_that_names_the_state(account: Account) -> None:
    _make(account, name="a")
    for wish in ("pause", "resume"):
        answer = account.ask("POST", f"{BATCHES}/a/{wish}", status=409)
        assert answer["data"]["error_code"] == "batch_state"
        assert "is receiving and cannot be" in answer["message"]
    account.ask("POST", f"{BATCHES}/a/cancel")
    answer = account.ask("POST", f"{BATCHES}/a/rows?upto=1", status=409, content=b"", headers=LINES)
    assert "was cancelled" in answer["message"]


def test_a_batch_is_a_404_to_everyone_else_as_an_unknown_one_is(api: Api, account: Account) -> None:
    made = _make(account, name="mine")
    other = api.account()
    routes = [("GET", ""), ("GET", "/results"), ("GET", "/rejects"), ("POST", "/rows?upto=1")]
    routes += [("POST", f"/{wish}") for wish in ("open", "pause", "resume", "cancel", "retry")]
    words = set()
    for batch in (made["id"], "mine", new_id().hex, "%00"):
        for method, route in routes:
            answer = other.ask(method, f"{BATCHES}/{batch}{route}", status=404, headers=LINES)
            assert answer["data"]["error_code"] == "batch_not_found"
            words.add(answer["message"])
    assert words == {"no such batch; check its id or name, and that your key belongs to its owner"}
    assert other.ask("GET", f"{BATCHES}?name={made['id']}")["data"]["total"] == 0
    assert account.ask("GET", f"{BATCHES}/mine")["data"]["state"] == "receiving"


def test_every_route_wants_a_key(api: Api) -> None:
    id_ = new_id().hex
    for method, path in (
        ("POST", ""),
        ("GET", ""),
        ("GET", f"/{id_}"),
        ("POST", f"/{id_}/rows"),
        ("GET", f"/{id_}/results"),
        ("GET", f"/{id_}/rejects"),
        ("POST", f"/{id_}/open"),
        ("POST", f"/{id_}/retry"),
        ("POST", "/check"),
        ("POST", "/inputs"),
        ("GET", "/inputs"),
        ("GET", "/outputs"),
    ):
        assert check_envelope(ask(method, f"{api.url}{BATCHES}{path}"))["code"] == 401
        assert ask(method, f"{api.url}/api/v2/batches{path}").status_code == 404


def test_a_request_without_a_name_that_is_repeated_makes_one_batch_by_its_key(account: Account) -> None:
    line = f'{{"image": "{IMAGE}"}}\n'.encode()
    sent: list[dict[str, Any]] = [
        {"json": {"manifest": "https://example.com/a.csv"}},
        {"content": line, "headers": LINES},
    ]
    for body in sent:
        asked = {**body, "headers": {**body.get("headers", {}), "Idempotency-Key": f"once {len(body)}"}}
        first, second = (account.ask("POST", BATCHES, **asked)["data"] for _ in range(2))
        assert first["id"] == second["id"]
        assert second["counts"]["total"] == len(body) - 1
    other: dict[str, Any] = {
        "json": {"manifest": "https://example.com/a.csv", "strict": True},
        "headers": {"Idempotency-Key": "once 1"},
    }
    account.ask("POST", BATCHES, status=409, **other)
    bad: dict[str, Any] = {"json": {}, "headers": {"Idempotency-Key": "x" * 300}}
    assert "Idempotency-Key" in account.ask("POST", BATCHES, status=400, **bad)["message"]
    assert _make(account)["id"] != _make(account)["id"]
