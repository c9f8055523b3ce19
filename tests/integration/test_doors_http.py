"""The door by HTTP: what passes is waited out, what does not is said in words, and nothing is lost or done twice."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path

import pytest

from common import lifecycle
from common.contract import BatchState, InvalidRequest
from common.errors import FillfleetError, Rejected, Transient
from common.lifecycle import NewBatch
from producer.doors import http
from producer.doors.http import HttpDoor
from producer.input_files import InputFiles
from producer.input_journal import InputJournal
from producer.manifest import BadRow, InlineContent, ManifestRow
from producer.results.outputs import Output, fetch_output
from tests.support.api import IMAGE, PNG, Account, Api
from tests.support.bad_way import CUT, DROP, bad_way

AWAY = (503, {"Retry-After": "1"}, b'{"code": 503, "message": "the database does not answer", "data": {}}')


def _rows(count: int, **extra: object) -> list[ManifestRow]:
    return [ManifestRow(row, f"line {row}", {"image": IMAGE}, f"sku-{row}", extra=extra) for row in range(1, count + 1)]


@pytest.fixture
def door(api: Api, account: Account) -> Iterator[HttpDoor]:
    with closing(HttpDoor(api.url, account.key)) as opened:
        yield opened


def test_trouble_on_the_way_is_waited_out_and_told_of(api: Api, account: Account) -> None:
    told: list[str] = []
    with (
        bad_way(api.url, AWAY, DROP) as way,
        closing(HttpDoor(way.url, account.key, on_trouble=told.append)) as door,
    ):
        began = time.monotonic()
        batch = door.start(NewBatch("a"))  # made at the second call already, whose answer was lost
        assert time.monotonic() - began > 0.9  # Retry-After
        assert (batch.name, len(way.paths)) == ("a", 3)
    assert told == ["the database does not answer; trying again"]
    assert account.ask("GET", "/api/v3/batches")["data"]["total"] == 1


def test_a_chunk_whose_answer_was_lost_is_taken_once(api: Api, account: Account) -> None:
    with bad_way(api.url, DROP) as way, closing(HttpDoor(way.url, account.key)) as door:
        batch = HttpDoor(api.url, account.key).start(NewBatch("a"))
        taken = door.send(batch, _rows(50), upto=50, digest="d")
    assert (taken.new, taken.same, taken.cursor) == (0, 50, 50)
    assert api.count_jobs(account.owner) == 50


def test_streams_that_break_off_are_taken_up_behind_the_last_row(api: Api, account: Account) -> None:
    with bad_way(api.url, CUT) as way, closing(HttpDoor(way.url, account.key)) as door:
        straight = HttpDoor(api.url, account.key)
        batch = straight.start(NewBatch("a"))
        bad = [BadRow(row, "", "row", "", "is bad " * 250) for row in range(301, 401)]
        straight.send(batch, [*_rows(300), *bad], upto=400, digest="")
        assert [row["row"] for row in door.rows(batch)] == list(range(1, 301))
        assert len(way.paths) == 2
        assert "after=" in way.paths[1]
    with bad_way(api.url, CUT) as way, closing(HttpDoor(way.url, account.key)) as door:
        assert [reject.number for reject in door.rejects(batch)] == list(range(301, 401))
        assert "after=" in way.paths[1]


def test_long_chunks_go_in_several_requests(door: HttpDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_PIECE_BYTES", 20_000)
    batch = door.start(NewBatch("a"))
    taken = door.send(batch, _rows(100, note="n" * 1000), upto=120, digest="d")
    assert (taken.new, taken.same, taken.rejected, taken.cursor) == (100, 0, 0, 120)
    found = door.find("a")
    assert (found.counts.total, found.cursor, found.digest) == (100, 120, "d")


def test_patience_has_an_end_that_says_what_was_tried(account: Account) -> None:
    words = r"127\.0\.0\.1:\d+ cannot be reached.*tried again for 0.4 s"
    with socket.socket() as bound:  # so that nobody else takes the port, on which nobody listens
        bound.bind(("127.0.0.1", 0))
        door = HttpDoor(f"http://127.0.0.1:{bound.getsockname()[1]}", account.key, patience_seconds=0.4)
        with closing(door), pytest.raises(Transient, match=words):
            door.list()


def test_a_key_that_is_refused_is_said_to_be_the_key(api: Api, account: Account) -> None:
    key = account.key[:-1] + ("a" if account.key[-1] != "a" else "b")
    with closing(HttpDoor(api.url, key)) as door:
        with pytest.raises(Rejected, match=r"refuses the key in FILLFLEET_API_KEY: .*mistyped") as caught:
            door.list()
        assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        ("ftp://x", "ff_x", "FILLFLEET_URL: "),
        ("", "ff_x", "FILLFLEET_URL: "),
        ("http://x", "", "FILLFLEET_API_KEY is empty"),
        ("http://x", "ff\nx", "FILLFLEET_API_KEY is no key"),
    ],
)
def test_an_address_or_key_that_cannot_be_is_said_at_once(url: str, key: str, message: str) -> None:
    with pytest.raises(Rejected, match=message):
        HttpDoor(url, key)


@pytest.mark.parametrize("ending", ["/", "/api", "/api/v3", "/api/v3/"])
def test_the_address_may_end_as_people_copy_it(api: Api, account: Account, ending: str) -> None:
    with closing(HttpDoor(api.url + ending, account.key)) as door:
        assert door.list() == ([], 0)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((404, {"Content-Type": "text/html"}, b"<html>"), Rejected, "HTTP 404; is FILLFLEET_URL the address"),
        ((200, {"Content-Type": "text/html"}, b"<html>"), FillfleetError, "no Fillfleet API of this version"),
        ((200, {}, b'{"data": {"items": 7}}'), FillfleetError, "no Fillfleet API of this version"),
        ((307, {"Location": "https://example.com/"}, b""), Rejected, "leads to another address"),
        ((500, {}, b'{"message": "something went wrong here"}'), Transient, "something went wrong here"),
        ((400, {}, b'{"message": "no", "data": {"errors": [{"odd": 1}]}}'), Rejected, "no"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_strange_answer_ends_in_words(
    api: Api, account: Account, answer: tuple[int, dict[str, str], bytes], error: type[Exception], message: str
) -> None:
    with bad_way(api.url, answer) as way, closing(HttpDoor(way.url, account.key)) as door, pytest.raises(error) as said:
        door.list()
    assert message in str(said.value)


def test_files_of_rows_are_put_once_and_rows_name_them(
    api: Api, account: Account, door: HttpDoor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # of no use for this machine's own loopback
    row = ManifestRow(
        1, "x", {}, files={"image": InlineContent(PNG, "a.png"), "mask_image": InlineContent(PNG, "b.png")}
    )
    with closing(InputJournal(tmp_path / "journal")) as journal, InputFiles(journal, door.inputs) as files:
        (resolved,) = files.resolve([row])
    assert isinstance(resolved, ManifestRow)
    uri = resolved.body["image"]
    assert resolved.body == {"image": uri, "mask_image": uri}
    assert uri.startswith(f"s3://{api.settings.s3_bucket}/inputs/{account.owner.hex}/")
    assert api.objects.get(uri.removeprefix(api.objects.uri("")), max_bytes=1000) == PNG
    batch = door.start(NewBatch("a"))
    assert door.send(batch, [resolved], upto=1, digest="").new == 1


def test_a_file_that_changed_while_it_was_sent_is_not_stored(api: Api, door: HttpDoor) -> None:
    key = door.inputs.key("a" * 64, "png")
    with pytest.raises(Transient, match="refused the file"):
        door.inputs.put(key, lambda: BytesIO(PNG), len(PNG), "image/png", "a" * 64)
    assert api.objects.size(key) is None
    with pytest.raises(InvalidRequest, match=r"size: .* is too large"):
        door.inputs.put(key, lambda: BytesIO(PNG), 2**40, "image/png", "a" * 64)


def test_outputs_come_through_links_and_those_that_are_gone_are_said_to_be(
    api: Api, account: Account, door: HttpDoor
) -> None:
    job = account.submit()["id"]
    (stored,) = api.complete(job)
    uri = api.objects.uri(api.row(job).result["outputs"][0]["key"])
    assert fetch_output(Output(uri, None, len(stored)), door.outputs) == stored
    with pytest.raises(Rejected, match="larger than the 3 bytes"):
        door.outputs.fetch(uri, max_bytes=3)
    api.objects.delete([uri.removeprefix(api.objects.uri(""))])
    with pytest.raises(Rejected, match="does not exist") as caught:
        door.outputs.fetch(uri, max_bytes=1000)
    assert caught.value.code == "object_not_found"
    with pytest.raises(Rejected, match="no such file"):
        door.outputs.fetch(uri.replace(account.owner.hex, "0" * 32), max_bytes=1000)


def test_more_failed_rows_than_one_request_has_time_for_are_all_retried_once(
    api: Api, account: Account, door: HttpDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = door.start(NewBatch("a"))
    door.send(batch, _rows(4500), upto=4500, digest="")
    door.cancel(door.open(batch))
    with api.engine.begin() as connection:
        while lifecycle.end_cancelled_rows(connection):
            pass
        assert batch.id in lifecycle.end_batches(connection)
    monkeypatch.setattr("producer.api.batches._RETRY_SECONDS", 0.0)
    first = account.ask("POST", f"/api/v3/batches/{batch.id.hex}/retry")["data"]
    assert (first["retried"], len(first["next"])) == (2000, 32)
    assert door.retry(batch) == 2500
    assert (door.find("a").counts.created, door.find("a").state) == (4500, BatchState.OPEN)
