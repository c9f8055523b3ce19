"""Odd requests over raw sockets and HTTP: whatever comes in, what goes out is the envelope, and the API goes on."""

from __future__ import annotations

import json
import resource
import socket
import time
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.api import IMAGE, Account, Api, ask, check_envelope

SUBMIT = "/api/v3/wavespeed-ai/flux-dev-fill"


def _raw(api: Api, data: bytes) -> tuple[int, dict[str, Any]]:
    """Send bytes, read until the API closes or has answered, and return the status and the body."""
    parts = urlsplit(api.url)
    assert parts.hostname
    assert parts.port
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        connection.sendall(data)
        answer = b""
        while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < _length(answer):
            block = connection.recv(65536)
            if not block:
                break
            answer += block
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head, "closed without an answer"
    return int(head.split()[1]), json.loads(body)


def _length(answer: bytes) -> int:
    for line in answer.partition(b"\r\n\r\n")[0].lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET / SPDY\r\nHost: a\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_is_no_http_gets_a_400_envelope(api: Api, data: bytes) -> None:
    status, body = _raw(api, data)
    assert status in {400, 501}
    assert set(body) == {"code", "message", "data"}


def test_a_broken_chunk_ends_in_a_400_envelope(api: Api, account: Account) -> None:
    head = (
        f"POST {SUBMIT} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {account.key}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    status, body = _raw(api, head.encode() + b"zz\r\nnonsense\r\n")
    assert (status, body["code"]) == (400, 400)


@pytest.mark.parametrize(
    "host", ["", "evil.example", "[::1", "a b", "a:b:c", "<script>", "x" * 5000, "user@host", "127.0.0.1:99999"]
)
def test_an_odd_host_header_does_no_harm(api: Api, account: Account, host: str) -> None:
    head = f"GET /api/v3/models HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {account.key}\r\n\r\n"
    status, body = _raw(api, head.encode())
    assert status in {200, 400}
    assert body["code"] == status


def test_a_body_that_says_it_is_huge_is_refused_before_it_comes(api: Api, account: Account) -> None:
    for size in ("9" * 12, "9" * 60):
        head = (
            f"POST {SUBMIT} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {account.key}\r\n"
            f"Expect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
        )
        status, body = _raw(api, head.encode())
        # Beyond 20 digits it is not even a length to HTTP's own rules.
        assert (status, body["code"]) == (413, 413) if len(size) <= 20 else status in {400, 413}


def test_a_client_that_waits_for_leave_to_send_gets_it(account: Account) -> None:
    response = account.client.post(SUBMIT, json={"image": IMAGE}, headers={"Expect": "100-continue"})
    assert check_envelope(response)["data"]["status"] == "created"


def test_a_client_that_hangs_up_half_way_leaves_nothing_behind(api: Api, account: Account) -> None:
    parts = urlsplit(api.url)
    head = (
        f"POST {SUBMIT} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {account.key}\r\n"
        'Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"image": "https://a'
    )
    for _ in range(5):
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60) as connection:
            connection.sendall(head.encode())
    time.sleep(0.2)
    assert api.count_jobs(account.owner) == 0
    assert account.submit()["status"] == "created"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/api", 404),
        ("GET", "/api/v1/models", 404),
        ("GET", "/api/v3/", 404),
        ("POST", "/api/v3/wavespeed-ai/flux-dev", 404),
        ("POST", "/api/v3/wavespeed-ai/flux-dev-fill/", 404),
        ("POST", "/api/v3/wavespeed-ai%2Fflux-dev-fill%00", 404),
        ("GET", "//etc/passwd", 404),
        ("GET", "/api/v3/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/" + "a" * 20_000, 404),
        ("GET", "/api/v3/predictions/a/b/c", 404),
        ("GET", "/%ff%fe", 404),
        ("GET", SUBMIT, 405),
        ("PUT", SUBMIT, 405),
        ("DELETE", "/api/v3/predictions", 405),
        ("OPTIONS", SUBMIT, 405),
        ("PATCH", "/healthz", 405),
        ("BREW", SUBMIT, 405),
    ],
)
def test_what_is_not_there_is_an_envelope_too(account: Account, method: str, path: str, status: int) -> None:
    answer = account.ask(method, path, status=status)
    assert answer["data"] == {}
    assert len(answer["message"]) < 400


def test_an_unknown_model_is_told_the_known_ones(account: Account) -> None:
    message = account.ask("POST", "/api/v3/wavespeed-ai/flux-dev", status=404, json={"image": IMAGE})["message"]
    assert "wavespeed-ai/flux-dev-fill and wavespeed-ai/flux-fill-dev" in message


def test_a_head_request_has_no_body(api: Api) -> None:
    assert ask("HEAD", f"{api.url}/api/v3/models").content == b""


def test_no_answer_with_links_may_be_cached(api: Api, account: Account) -> None:
    job = account.submit()["id"]
    api.complete(job)
    response = account.client.get(f"/api/v3/predictions/{job}/result")
    assert response.headers["cache-control"] == "no-store"
    assert "server" not in response.headers


def test_hostile_texts_are_kept_as_they_are(api: Api, account: Account) -> None:
    for prompt in ("'; DROP TABLE jobs; --", "{{7*7}}", "%s%n", "\u202e\u0007\x1b[2J", "😀" * 100, "a\\u0000b"):
        job = account.submit(prompt=prompt)["id"]
        assert account.result(job)["input"]["prompt"] == prompt


def test_a_hundred_thousand_unknown_fields_cost_no_more_than_a_few(account: Account) -> None:
    names = {f"{number:x}": 1 for number in range(90_000)}
    chunk = json.dumps({"row": 1, "body": names}).encode()
    lines = {"Content-Type": "application/x-ndjson"}
    batch = account.ask("POST", "/api/v3/batches", json={"name": "b"})["data"]["id"]
    began = time.monotonic()
    account.ask("POST", "/api/v3/batches", json=names, status=400)
    account.ask("POST", "/api/v3/batches", json={"name": "c", "defaults": names}, status=400)
    taken = account.ask("POST", f"/api/v3/batches/{batch}/rows?upto=1", content=chunk, headers=lines)["data"]
    assert taken["rejected"] == 1
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("name", ["\\ud800", "x" * 500_000])
def test_an_unknown_field_may_have_any_name(account: Account, name: str) -> None:
    for body in (f'{{"{name}": 1}}', f'{{"defaults": {{"{name}": 1}}}}'):
        headers = {"Content-Type": "application/json"}
        answer = account.ask("POST", "/api/v3/batches", content=body.encode(), headers=headers, status=400)
        assert "is no field" in answer["message"]
        assert len(json.dumps(answer)) < 5000


def test_chunks_that_come_slowly_do_not_fill_the_memory(api: Api, account: Account) -> None:
    batch = account.ask("POST", "/api/v3/batches", json={"name": "b"})["data"]["id"]
    parts = urlsplit(api.url)
    size = 24 * 1024 * 1024
    head = (
        f"POST /api/v3/batches/{batch}/rows?upto=1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {account.key}\r\n"
        f"Content-Type: application/x-ndjson\r\nContent-Length: {size}\r\n\r\n"
    )
    body = b" " * (size - 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ExitStack() as stack:
        for _ in range(16):
            sender = stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=60))
            sender.sendall(head.encode() + body)
        account.ask("GET", "/api/v3/models")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 * 1024  # KiB
