"""Rows over HTTP: a chunk is taken wholly or not at all, each row once, however often it is sent; bad rows in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from producer.api.batch_rows import MAX_ROWS
from tests.support.api import IMAGE, Account, Api

BATCHES = "/api/v3/batches"
LINES = {"Content-Type": "application/x-ndjson"}


def _line(row: int, custom_id: str | None = None, extra: Mapping[str, Any] | None = None, **body: Any) -> str:
    said = {"row": row, "where": f"a.csv, line {row + 1}", "body": {"image": IMAGE, **body}}
    return json.dumps(said | ({"custom_id": custom_id} if custom_id else {}) | ({"extra": extra} if extra else {}))


def _batch(account: Account, **fields: Any) -> str:
    return str(account.ask("POST", BATCHES, json={"name": "a", **fields})["data"]["id"])


def _send(account: Account, batch: str, lines: Iterable[str], upto: int, **more: Any) -> dict[str, Any]:
    path = f"{BATCHES}/{batch}/rows?upto={upto}"
    return account.ask("POST", path, content="\n".join(lines).encode(), headers=LINES, **more)


def _rejects(account: Account, batch: str, query: str = "") -> list[dict[str, Any]]:
    response = account.client.get(f"{BATCHES}/{batch}/rejects{query}")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_a_chunk_sent_again_makes_no_row_twice(api: Api, account: Account) -> None:
    batch = _batch(account)
    lines = [_line(1, "sku-1"), _line(2), _line(3, num_images=9)]
    first = _send(account, batch, lines, 4)["data"]
    again = _send(account, batch, lines, 4)["data"]
    assert first == {"new": 2, "same": 0, "rejected": 1, "cursor": 4}
    assert again == {"new": 0, "same": 2, "rejected": 1, "cursor": 4}
    shown = account.ask("GET", f"{BATCHES}/{batch}")["data"]
    assert (shown["counts"]["total"], shown["rejected"], shown["cursor"]) == (2, 1, 4)
    assert api.count_jobs(account.owner) == 2


def test_many_clients_that_send_the_same_chunk_at_once_make_each_row_once(api: Api, account: Account) -> None:
    batch = _batch(account)
    lines = [_line(row, f"sku-{row}" if row % 2 else None) for row in range(1, 201)]
    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(lambda _: _send(account, batch, lines, 200)["data"], range(6)))
    assert sorted(one["new"] for one in taken) == [0] * 5 + [200]
    assert all(one["new"] + one["same"] == 200 for one in taken)
    assert api.count_jobs(account.owner) == 200


def test_a_row_that_says_something_else_than_before_stops_its_whole_chunk(api: Api, account: Account) -> None:
    batch = _batch(account)
    _send(account, batch, [_line(1, "sku-1"), _line(2)], 2)
    for changed, name in (
        (_line(1, "sku-1", prompt="a fox"), "row 1 (custom_id 'sku-1')"),
        (_line(2, seed=1), "row 2"),
    ):
        answer = _send(account, batch, [changed, _line(3)], 3, status=409)
        assert answer["data"]["error_code"] == "row_changed"
        assert answer["message"].startswith(f"{name} says something else")
    assert api.count_jobs(account.owner) == 2


def test_every_kind_of_bad_row_is_written_down_and_the_good_ones_are_taken(account: Account) -> None:
    theirs = "s3://fillfleet/uploads/0195d3c1c8a67cf0a3f0b0c5a1b2c3d4/a.png"
    batch = _batch(account, defaults={"prompt": "a table"})
    lines = [
        _line(1, "good"),
        _line(2, "n\u00e4", num_inference_steps=99),
        _line(3, promt="a fox"),
        _line(4, image="photo.png"),
        _line(5, image=theirs),
        _line(6, "good"),
        _line(7, "x" * 513),
        _line(8, "half \ud83d"),
        _line(9, prompt="nul \x00"),
        _line(10, seed=10**300, num_images=0),
        _line(11, enable_sync_mode=True),
        '{"row": 12, "custom_id": "k", "reject": {"field": "image", "value": "", "reason": "is missing"}}',
        '{"row": 13, "reject": {"field": "row\\u0000", "value": "\\ud83d", "reason": "is \\u0000 broken"}}',
        '{"row": 14, "body": {}}',
        _line(15, extra={"tags": ["\x00", 1.5], "n\x00 \ud83d": "\ud83d"}),
        _line(16, mask_image="file:///etc/passwd", loras=[{"path": "a/b", "scale": 9}]),
    ]
    taken = _send(account, batch, lines, 20)["data"]
    assert taken == {"new": 2, "same": 0, "rejected": 14, "cursor": 20}
    bad = {reject["row"]: reject for reject in _rejects(account, batch)}
    fields = {row: reject["field"] for row, reject in bad.items()}
    assert fields == {
        2: "num_inference_steps",
        3: "promt",
        4: "image",
        5: "image",
        6: "custom_id",
        7: "custom_id",
        8: "custom_id",
        9: "prompt",
        10: "seed",
        11: "enable_sync_mode",
        12: "image",
        13: "row\ufffd",
        14: "image",
        16: "loras[0].scale",
    }
    assert bad[2] == {
        "row": 2,
        "custom_id": "n\u00e4",
        "where": "a.csv, line 3",
        "field": "num_inference_steps",
        "value": "99",
        "reason": "is too large; allowed: an integer from 1 to 50",
    }
    assert "did you mean prompt?" in bad[3]["reason"]
    assert (bad[12]["custom_id"], bad[13]["where"], bad[13]["reason"]) == ("k", "row 13", "is \ufffd broken")
    assert [reject["row"] for reject in _rejects(account, batch, "?after=11")] == [12, 13, 14, 16]


def test_a_strict_batch_with_a_bad_row_is_cancelled_when_it_is_opened(api: Api, account: Account) -> None:
    batch = _batch(account, strict=True)
    assert _send(account, batch, [_line(1), _line(2, seed=-7)], 2)["data"]["new"] == 0
    opened = account.ask("POST", f"{BATCHES}/{batch}/open")["data"]
    assert (opened["state"], opened["rejected"], opened["counts"]["total"]) == ("cancelled", 1, 0)
    assert opened["error"].startswith("1 bad row in a strict batch: nothing was started")
    assert [reject["row"] for reject in _rejects(account, batch)] == [2]
    assert api.count_jobs(account.owner) == 0
    assert _batch(account, strict=True) != batch


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"nonsense", "line 1 is not JSON"),
        (b'{"row": 1, "body": {}}\n\xff\xfe', "line 2: byte 1 is not UTF-8"),
        (b"[1]", "line 1 is not an object"),
        (b'{"row": 1, "row": 2, "body": {}}', "line 1 has the key 'row' twice"),
        (b'{"row": 1, "body": {"seed": NaN}}', "line 1 holds NaN"),
        (b'{"row": 1, "body": ' + b'{"a":' * 40 + b"1" + b"}" * 41, "line 1 is nested deeper than"),
        (b'{"row": 0, "body": {}}', "line 1 has the row 0"),
        (b'{"row": true, "body": {}}', "line 1 has the row true"),
        (b'{"row": 99999999999999999999, "body": {}}', "line 1 has the row 9999"),
        (b'{"body": {}}', "line 1 has the row null"),
        (b'{"row": 1}', "line 1 must have either a body or a reject"),
        (b'{"row": 1, "body": {}, "reject": {}}', "line 1 must have either"),
        (b'{"row": 1, "body": []}', "line 1 has a body or extra that is no object"),
        (b'{"row": 1, "body": {}, "extra": [1]}', "line 1 has a body or extra that is no object"),
        (b'{"row": 1, "body": {}, "custom_id": 7}', "line 1 has a where or custom_id that is no text"),
        (b'{"row": 1, "reject": {"field": "a"}}', "line 1 has a reject that is no object of the texts"),
        (b'{"row": 1, "bdoy": {}}', "line 1 has the key 'bdoy'; allowed: body, custom_id"),
        (b'{"row": 2, "body": {}}\n{"row": 2, "body": {}}', "line 2 is row 2; rows come in the order"),
        (b'{"row": 101, "body": {}}', "line 1 is row 101; rows come in the order"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_line_that_is_no_row_is_named_and_nothing_is_taken(
    api: Api, account: Account, body: bytes, message: str
) -> None:
    batch = _batch(account)
    answer = account.ask("POST", f"{BATCHES}/{batch}/rows?upto=100", status=400, content=body, headers=LINES)
    assert answer["message"].startswith(f"body: {message}")
    assert account.ask("GET", f"{BATCHES}/{batch}")["data"]["cursor"] == 0
    assert api.count_jobs(account.owner) == 0


@pytest.mark.parametrize(
    ("query", "headers", "message"),
    [
        ("", LINES, "upto: is missing"),
        ("?upto=0", LINES, "upto: '0' is not allowed"),
        ("?upto=many", LINES, "upto: 'many' is not allowed"),
        ("?upto=1&digest=%00", LINES, "digest: '\\x00' is not allowed"),
        ("?upto=1&up=2", LINES, "up: '2' is no field here"),
        ("?upto=1", {"Content-Type": "application/json"}, "Content-Type: 'application/json' is not supported"),
        ("?upto=1", {**LINES, "Content-Encoding": "gzip"}, "Content-Encoding: 'gzip' is not supported"),
        ("?upto=1", {"Content-Type": "application/jsonl; charset=latin-1"}, "Content-Type: 'charset=latin-1' is not"),
    ],
)
def test_a_wrong_request_around_the_rows_is_named(
    account: Account, query: str, headers: dict[str, str], message: str
) -> None:
    batch = _batch(account)
    answer = account.ask("POST", f"{BATCHES}/{batch}/rows{query}", status=400, content=b"", headers=headers)
    assert answer["message"].startswith(message)


def test_too_many_rows_and_too_many_bytes_are_refused(api: Api, account: Account) -> None:
    batch = _batch(account)
    lines = (f'{{"row": {row}, "body": {{}}}}' for row in range(1, MAX_ROWS + 2))
    assert f"at most {MAX_ROWS} rows" in _send(account, batch, lines, 20_000, status=400)["message"]
    large = b"x" * (api.settings.batch_chunk_max_bytes + 1)
    answer = account.ask("POST", f"{BATCHES}/{batch}/rows?upto=1", status=413, content=large, headers=LINES)
    assert "is too large; allowed: at most" in answer["message"]


def test_lines_may_have_a_bom_crlf_and_blanks_between_them(account: Account) -> None:
    batch = _batch(account)
    body = b"\xef\xbb\xbf" + _line(1).encode() + b"\r\n\r\n" + _line(2).encode() + b"\r\n"
    taken = account.ask("POST", f"{BATCHES}/{batch}/rows?upto=2", content=body, headers=LINES)["data"]
    assert taken["new"] == 2


def test_rows_that_are_only_checked_are_not_stored(api: Api, account: Account) -> None:
    lines = ['{"defaults": {"prompt": "a fox"}}', _line(1), _line(2, seed=-9)]
    checked = account.ask("POST", f"{BATCHES}/check", content="\n".join(lines).encode(), headers=LINES)["data"]
    assert checked["good"] == 1
    assert [(bad["row"], bad["field"]) for bad in checked["rejects"]] == [(2, "seed")]
    for wrong, message in (
        ("{}x", "body: is not JSON"),
        ('{"default": {}}', "did you mean defaults?"),
        ("", "body: is empty"),
    ):
        answer = account.ask("POST", f"{BATCHES}/check", status=400, content=wrong.encode(), headers=LINES)
        assert message in answer["message"]
    assert api.count_jobs(account.owner) == 0
