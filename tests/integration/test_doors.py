"""Both ways to a fleet, straight and by HTTP, do the same and say the same; the one by HTTP waits out what passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import is_dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from common import lifecycle
from common.contract import InvalidRequest, Status
from common.errors import FillfleetError, Rejected
from common.lifecycle import NewBatch
from producer.doors.direct import DirectDoor
from producer.doors.door import Door
from producer.doors.http import HttpDoor
from producer.manifest import BadRow, InlineContent, ManifestRow
from producer.results.read import Position, RowFilter
from tests.support.api import PNG, Account, Api

IMAGE = "https://example.com/knight.jpg"
ROWS: list[ManifestRow | BadRow] = [
    ManifestRow(1, "a.csv, line 2", {"image": IMAGE, "seed": 3}, "sku-1", extra={"price": 9.5, "täg": ["a"]}),
    ManifestRow(2, "a.csv, line 3", {"image": IMAGE, "num_images": 9}, "sku-2"),
    BadRow(3, "a.csv, line 4", "image", "", "is missing", "sku-3"),
    ManifestRow(4, "a.csv, line 5", {"image": IMAGE, "promt": "a fox"}),
    ManifestRow(5, "a.csv, line 6", {"image": IMAGE, "seed": 4}, "sku-5"),
    ManifestRow(6, "a.csv, line 7", {"image": "photo.png"}),
    ManifestRow(7, "a.csv, line 8", {"image": IMAGE, "prompt": "half \ud83d a pair"}, "sku-7"),
    ManifestRow(8, "a.csv, line 9", {"image": IMAGE, "seed": 10**300, "\udc80": {"a": [None, 1.5]}}, "sku-8"),
    ManifestRow(9, "a.csv, line 10", {}, files={"image": InlineContent(PNG, "x.png")}),
    ManifestRow(10, "a.csv, line 11", {"image": IMAGE, "prompt": "a fox"}, extra={"nan": float("inf"), "n": "\x00"}),
    ManifestRow(11, "", {"image": IMAGE}, "x" * 513),
]


@contextmanager
def door_of(kind: str, api: Api, account: Account) -> Iterator[Door]:
    """Open one of the two doors for the account's owner."""
    if kind == "direct":
        direct = DirectDoor(api.settings, account.owner)
        with closing(direct):
            yield direct
    else:
        with closing(HttpDoor(api.url, account.key, patience_seconds=5)) as door:
            yield door


@pytest.fixture(params=["direct", "http"])
def door(request: pytest.FixtureRequest, api: Api, account: Account) -> Iterator[Door]:
    with door_of(request.param, api, account) as opened:
        yield opened


def _caught(call: Callable[[], object]) -> tuple[str, str]:
    """Return (code, message) of the error that the call raises."""
    with pytest.raises((FillfleetError, InvalidRequest)) as caught:
        call()
    error = caught.value
    return error.code if isinstance(error, FillfleetError) else "invalid", str(error)


def _story(door: Door, api: Api, account: Account) -> Iterator[Any]:
    """Yield what a door says, step by step, through the life of two batches."""
    new = NewBatch("spring", {"prompt": "a table", "num_inference_steps": 4}, priority=7)
    batch = door.start(new)
    yield batch
    yield door.start(new) == batch
    yield _caught(lambda: door.start(NewBatch("spring", {"prompt": "a chair"})))
    yield _caught(lambda: door.start(NewBatch("other", {"promt": "a"}, priority=77)))
    yield _caught(lambda: door.start(NewBatch("other", webhook_url="http://user:pass@example.com/")))
    yield door.check(ROWS, new.defaults)
    yield door.send(batch, ROWS, upto=12, digest="d1")
    yield door.send(batch, ROWS, upto=12, digest="d1")
    yield door.find("spring")
    changed = [ManifestRow(1, "a.csv, line 2", {"image": IMAGE, "seed": 99}, "sku-1")]
    yield _caught(lambda: door.send(batch, changed, upto=1, digest=""))
    yield list(door.rejects(batch))
    yield _caught(lambda: door.pause(batch))
    yield door.open(batch)
    yield door.pause(batch), door.pause(batch), door.resume(batch)
    with api.engine.begin() as connection:
        row = next(iter(door.rows(batch)))
        claim = lifecycle.claim(connection, UUID(row["job_id"]), worker="w7", lease_seconds=60)
        assert claim is not None
    yield [replace(line, seconds=0.0) for line in door.workers(batch)]
    with api.engine.begin() as connection:
        lifecycle.fail(connection, claim.job, claim.attempt, Rejected("image_truncated", "image: ends too early"))
    yield door.workers(batch), door.causes(batch)
    yield [_same(row) for row in door.rows(batch)]
    yield [row["custom_id"] for row in door.rows(batch, RowFilter(frozenset({Status.FAILED}), None))]
    yield [row["row"] for row in door.rows(batch, RowFilter(None, frozenset({"image_truncated", "x"})))]
    yield [row["row"] for row in door.rows(batch, RowFilter(frozenset(), None))]
    yield [row["row"] for row in door.rows(batch, after=Position(row["row"], claim.job))]
    yield door.retry(batch), door.retry(batch)
    yield door.cancel(batch)
    yield _caught(lambda: door.send(batch, [], upto=20, digest=""))
    yield _caught(lambda: door.resume(batch))
    yield _caught(lambda: door.find("nowhere/../to be found?&=é"))
    strict = door.start(NewBatch("a/b ?&#%2F é", strict=True))
    yield door.send(strict, [*ROWS[:2], ManifestRow(3, "", {"image": IMAGE}, "sku-1")], upto=3, digest="")
    yield list(door.rejects(strict))
    yield door.find("a/b ?&#%2F é"), door.find(strict.id.hex) == strict or door.open(strict)
    yield [found.name for found in door.list(page=1, page_size=1)[0]], door.list(page=2, page_size=1)[1]


def _same(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row without what differs from one telling to the next."""
    assert row["created_at"].tzinfo is not None
    random = {"job_id", "batch_id", "created_at", "started_at", "ended_at"} | ({"seed"} if row["row"] == 10 else set())
    return {name: value for name, value in row.items() if name not in random}


def _comparable(said: Any) -> Any:
    """Return what was said with a mark in place of each id and time."""
    if is_dataclass(said) and not isinstance(said, type):
        return type(said).__name__, _comparable(vars(said))
    if isinstance(said, Mapping):
        return {name: _comparable(value) for name, value in said.items()}
    if isinstance(said, list | tuple):
        return [_comparable(one) for one in said]
    return type(said).__name__ if isinstance(said, UUID | datetime) else said


def test_both_doors_do_the_same_and_say_the_same(api: Api) -> None:
    told = []
    for kind in ("direct", "http"):
        account = api.account()
        with door_of(kind, api, account) as door:
            told.append([_comparable(said) for said in _story(door, api, account)])
    direct, http = told
    for one, other in zip(direct, http, strict=True):
        assert one == other


def test_what_one_door_reads_the_other_reads_to_the_microsecond(api: Api, account: Account) -> None:
    with door_of("direct", api, account) as direct, door_of("http", api, account) as http:
        batch = http.start(NewBatch("one", {"prompt": "a table"}))
        http.send(batch, ROWS, upto=12, digest="d")
        http.open(batch)
        for read in (
            lambda door: door.find("one"),
            lambda door: [list(part) if isinstance(part, Sequence) else part for part in door.list()],
            lambda door: list(door.rows(batch)),
            lambda door: list(door.rejects(batch)),
            lambda door: door.inputs.key("a" * 64, "png"),
            lambda door: door.inputs.uri("inputs/x"),
        ):
            assert read(direct) == read(http)
