"""Results over HTTP: each form is the table, streamed with flat memory; whoever hangs up frees everything."""

from __future__ import annotations

import csv
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

from common import lifecycle
from common.errors import Rejected, Unavailable
from common.lifecycle import NewBatch, NewRow
from producer.api import batch_results
from producer.results.read import read_jobs
from tests.support.api import IMAGE, Account, Api, check_envelope
from tests.support.processes import wait_until

BATCHES = "/api/v3/batches"
LINES = {"Content-Type": "application/x-ndjson"}
REQUEST = json.dumps({"image": IMAGE, "prompt": "a fox", "seed": 7})


def _fill(api: Api, account: Account, rows: int, extra: dict[str, Any] | None = None) -> UUID:
    """Make an open batch of so many rows, as the intake does."""
    with api.engine.begin() as connection:
        batch = lifecycle.create_batch(connection, account.owner, NewBatch("été/1"))
        new = [NewRow(row, f"sku-{row}", REQUEST, bytes(16), "", "", extra or {}) for row in range(1, rows + 1)]
        lifecycle.insert_rows(connection, account.owner, batch, new)
        columns = list(extra or {})
        lifecycle.advance(connection, batch, upto=rows, digest="", more_rejected=0, extra_columns=columns)
        lifecycle.open_batch(connection, account.owner, batch)
    return batch


def _get(account: Account, batch: UUID, query: str = "") -> bytes:
    response = account.client.get(f"{BATCHES}/{batch.hex}/results{query}")
    assert response.status_code == 200, response.text
    return response.content


def _rows(account: Account, batch: UUID, query: str = "") -> list[dict[str, Any]]:
    return [json.loads(line) for line in _get(account, batch, query).splitlines()]


def test_each_form_holds_the_same_rows(api: Api, account: Account) -> None:
    batch = _fill(api, account, 5, {"shelf": "A7", "status": 3})
    jobs = [row["job_id"] for row in _rows(account, batch)]
    api.fail(jobs[1], Rejected("image_truncated", "image: ends too early"))
    api.complete(jobs[2], nsfw=(False, None))
    lines = _rows(account, batch)
    assert [(row["row"], row["status"]) for row in lines] == [
        (1, "created"),
        (2, "failed"),
        (3, "completed"),
        (4, "created"),
        (5, "created"),
    ]
    assert len(lines[2]["outputs"]) == 2
    assert lines[2]["outputs"][0].startswith(f"s3://{api.settings.s3_bucket}/outputs/{account.owner.hex}/")
    table = list(csv.DictReader(io.StringIO(_get(account, batch, "?format=csv").decode())))
    parquet = pq.read_table(io.BytesIO(_get(account, batch, "?format=parquet"))).to_pylist()
    for rows in (table, parquet):
        assert [row["custom_id"] for row in rows] == [row["custom_id"] for row in lines]
        assert [(row["shelf"], row["extra_status"]) for row in rows] == [("A7", "3")] * 5
        assert [row["error"] or None for row in rows] == [row["error"] for row in lines]
    again = _rows(account, batch, "?format=resubmit")
    assert [(row["custom_id"], row["body"]["seed"], row["shelf"]) for row in again] == [("sku-2", 7, "A7")]


def test_rows_are_chosen_by_status_error_code_and_place(api: Api, account: Account) -> None:
    batch = _fill(api, account, 4)
    jobs = [row["job_id"] for row in _rows(account, batch)]
    api.fail(jobs[1], Rejected("image_truncated", "image: ends too early"))
    api.fail(jobs[2], Rejected("fetch_not_found", "image: HTTP 404"))
    for query, expected in (
        ("?status=failed", [2, 3]),
        ("?status=failed,created", [1, 2, 3, 4]),
        ("?status=failed&status=created", [1, 2, 3, 4]),
        ("?status=completed", []),
        ("?error_code=fetch_not_found", [3]),
        ("?error_code=fetch_not_found,image_truncated&status=failed", [2, 3]),
        (f"?after=2.{jobs[1]}", [3, 4]),
        (f"?after=2.{jobs[1]}&status=created", [4]),
    ):
        assert [row["row"] for row in _rows(account, batch, query)] == expected, query
    assert _rows(account, batch, "?format=resubmit&status=created") == []


def test_a_download_has_the_batchs_name_whatever_is_in_it(api: Api, account: Account) -> None:
    batch = _fill(api, account, 1)
    for query, ending, kind in (
        ("results", "results.jsonl", "application/x-ndjson"),
        ("results?format=csv", "results.csv", "text/csv; charset=utf-8"),
        ("results?format=parquet", "results.parquet", "application/vnd.apache.parquet"),
        ("results?format=resubmit", "failed.jsonl", "application/x-ndjson"),
        ("rejects", "rejects.jsonl", "application/x-ndjson"),
    ):
        headers = account.client.get(f"{BATCHES}/{batch.hex}/{query}").headers
        assert headers["content-type"] == kind
        assert headers["content-disposition"] == (
            f"attachment; filename=\"_t_1-{ending}\"; filename*=UTF-8''%C3%A9t%C3%A9%2F1-{ending}"
        )


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("format=xlsx", "format: 'xlsx' is not allowed; allowed: ndjson, csv, parquet, or resubmit"),
        ("status=done", "status[0]: 'done' is not allowed; allowed: one or several of created"),
        ("status=failed,odd", "status[1]: 'odd' is not allowed"),
        ("error_code=%00", "error_code[0]: '\\x00' is not allowed"),
        ("after=17", "after: '17' is no place in the results; allowed: ROW.JOB"),
        ("after=x.0195d3c1c8a67cf0a3f0b0c5a1b2c3d4", "is no place in the results"),
        ("stauts=failed", "stauts: 'failed' is no field here; did you mean status?"),
    ],
)
def test_a_wrong_question_is_answered_in_words(api: Api, account: Account, query: str, message: str) -> None:
    batch = _fill(api, account, 1)
    assert message in account.ask("GET", f"{BATCHES}/{batch.hex}/results?{query}", status=400)["message"]


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def test_20000_rows_are_streamed_with_flat_memory(api: Api, account: Account) -> None:
    batch = _fill(api, account, 20_000, {"note": "n" * 2000})
    with account.client.stream("GET", f"{BATCHES}/{batch.hex}/results?after=19000.{'f' * 32}") as response:
        assert sum(piece.count(b"\n") for piece in response.iter_bytes()) == 1000  # what one page takes, it takes once
    before = most = _resident_mib()
    size = rows = 0
    with account.client.stream("GET", f"{BATCHES}/{batch.hex}/results") as response:
        for piece in response.iter_bytes():
            rows += piece.count(b"\n")
            size += len(piece)
            most = max(most, _resident_mib())
    assert (rows, size > 50 * 2**20) == (20_000, True)
    assert most - before < 25


class _Watched:
    """Counts what the routes read, and tells when a reading was ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read = 0
        self.ended = threading.Event()
        monkeypatch.setattr(batch_results, "read_jobs", self._read_jobs)

    def _read_jobs(self, *arguments: Any, **named: Any) -> Iterator[Any]:
        try:
            for job in read_jobs(*arguments, **named):
                self.read += 1
                yield job
        finally:
            self.ended.set()


def _busy_connections(api: Api) -> int:
    asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fillfleet api' AND state <> 'idle'"
    with api.engine.begin() as connection:
        return int(connection.execute(text(asked)).scalar_one())


def test_a_client_that_hangs_up_ends_the_reading(api: Api, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = _fill(api, account, 2000, {"note": "n" * 20_000})  # far more than all buffers on the way hold
    watched = _Watched(monkeypatch)
    host = urlsplit(api.url)
    head = (
        f"GET {BATCHES}/{batch.hex}/results HTTP/1.1\r\nHost: {host.netloc}\r\n"
        f"Authorization: Bearer {account.key}\r\n\r\n"
    )
    with socket.create_connection((host.hostname, host.port)) as client:
        client.sendall(head.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        deadline = time.monotonic() + 60
        while (read := watched.read) == 0 or _busy_connections(api) or watched.read != read:
            assert time.monotonic() < deadline  # it waits for its reader, and holds no connection meanwhile
            time.sleep(0.1)
        assert not watched.ended.is_set()
    assert watched.ended.wait(60)
    assert watched.read < 2000
    assert wait_until(lambda: _busy_connections(api) == 0, 60)


def test_nobody_keeps_more_than_a_few_streams_open(api: Api, account: Account) -> None:
    batch = _fill(api, account, 2000, {"note": "n" * 20_000})
    other = api.account()
    others = _fill(api, other, 3)
    host = urlsplit(api.url)
    head = f"Host: {host.netloc}\r\nAuthorization: Bearer {account.key}\r\n\r\n"
    with ExitStack() as stack:
        for kind in ("ndjson", "csv", "csv", "resubmit") * 2:  # Parquet packs these rows into one piece
            client = stack.enter_context(socket.create_connection((host.hostname, host.port)))
            client.sendall(f"GET {BATCHES}/{batch.hex}/results?format={kind} HTTP/1.1\r\n{head}".encode())
            if kind != "resubmit":  # which has no rows, and ends at once
                assert client.recv(1000).startswith(b"HTTP/1.1 200")

        def opens_another() -> bool:
            client = stack.enter_context(socket.create_connection((host.hostname, host.port)))
            client.sendall(f"GET {BATCHES}/{batch.hex}/results HTTP/1.1\r\n{head}".encode())
            return client.recv(1000).startswith(b"HTTP/1.1 200")

        for _ in range(2):  # as soon as the two without rows have ended
            assert wait_until(opens_another, 60)
        answer = account.client.get(f"{BATCHES}/{batch.hex}/rejects")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
        assert "are being read at once" in check_envelope(answer)["message"]
        assert len(_rows(other, others)) == 3
    deadline = time.monotonic() + 60
    while account.client.get(f"{BATCHES}/{batch.hex}/rejects").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_stream_that_cannot_be_finished_is_broken_off(
    api: Api, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = _fill(api, account, 150, {"note": "n" * 1000})

    def failing(*arguments: Any, **named: Any) -> Iterator[Any]:
        for number, job in enumerate(read_jobs(*arguments, **named)):
            if number == 120:
                raise Unavailable("database_unavailable", "the database does not answer")
            yield job

    monkeypatch.setattr(batch_results, "read_jobs", failing)
    with pytest.raises(httpx.RemoteProtocolError):
        _get(account, batch)


def test_what_failed_is_retried_as_a_whole(api: Api, account: Account) -> None:
    batch = _fill(api, account, 4)
    jobs = [row["job_id"] for row in _rows(account, batch)]
    for job in jobs[:3]:
        api.fail(job, Rejected("image_truncated", "image: ends too early"))
    shown = account.ask("GET", f"{BATCHES}/{batch.hex}")["data"]
    assert (shown["progress"], shown["causes"]) == (
        0.75,
        [{"code": "image_truncated", "number": 3, "example": "image: ends too early"}],
    )
    assert "causes" in account.ask("GET", f"{BATCHES}/{batch.hex}?details=workers")["data"]
    assert account.ask("POST", f"{BATCHES}/{batch.hex}/retry")["data"] == {"retried": 3, "next": None}
    assert account.ask("POST", f"{BATCHES}/{batch.hex}/retry")["data"] == {"retried": 0, "next": None}
    account.ask("POST", f"{BATCHES}/{batch.hex}/cancel")
    answer = account.ask("POST", f"{BATCHES}/{batch.hex}/retry", status=409)
    assert "is still being cancelled" in answer["message"]
