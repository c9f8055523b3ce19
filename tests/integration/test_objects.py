"""The bucket on a real S3 server: what is put comes back, links open just one thing, and trouble is nobody's fault."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import requests
from pydantic import SecretStr

from common.errors import FillfleetError, Rejected, Transient, Unavailable
from common.fetch import Fetcher
from common.ids import new_id
from common.objects import Objects, input_key, upload_key
from common.settings import Environment, Settings
from common.sources import ObjectSource, check_source_owner, parse_source, read_source
from infra.embedded.servers import EmbeddedServers

MIB = 1024 * 1024
ODD_NAMES = ["a b.png", "ü+日本.png", "100%.png", "a%2fb.png", "a?b#c&d=e.png", "it's (1)~!.png"]


def settings_of(servers: EmbeddedServers, **overrides: object) -> Settings:
    """Settings for the bucket alone: these tests need no database."""
    servers.s3.start()  # a test may have left it killed
    values: dict[str, object] = {
        "fillfleet_env": Environment.TEST,
        "s3_endpoint": servers.s3_endpoint,
        "s3_bucket": servers.s3_bucket,
        "s3_access_key": SecretStr(servers.s3_access_key),
        "s3_secret_key": SecretStr(servers.s3_secret_key),
        **overrides,
    }
    return Settings.model_validate(values)


@pytest.fixture(scope="module")
def shared(servers: EmbeddedServers) -> Iterator[Objects]:
    made = Objects(settings_of(servers))
    yield made
    made.close()


@pytest.fixture
def objects(shared: Objects, servers: EmbeddedServers) -> Objects:
    servers.s3.start()
    return shared


@pytest.fixture
def folder() -> str:
    """A prefix that no other test uses."""
    return f"outputs/{new_id().hex}"


def refusal(error: FillfleetError, servers: EmbeddedServers) -> str:
    """Return the code, after looking at what every message promises."""
    for secret in (urlsplit(servers.s3_endpoint).netloc, servers.s3_secret_key, servers.s3_access_key, "Errno"):
        assert secret not in error.message
    assert error.__suppress_context__ or error.__context__ is None
    return error.code


def test_what_is_put_comes_back_with_its_type(objects: Objects, folder: str) -> None:
    body = bytes(range(256)) * 5000
    objects.put(f"{folder}/a.png", body, "image/png")
    assert objects.get(f"{folder}/a.png", max_bytes=len(body)) == body
    assert objects.size(f"{folder}/a.png") == len(body)
    answer = requests.get(objects.presigned_get(f"{folder}/a.png"), timeout=60)
    assert (answer.content, answer.headers["Content-Type"]) == (body, "image/png")


def test_a_second_put_replaces_the_first(objects: Objects, folder: str) -> None:
    objects.put(f"{folder}/a.png", b"first", "image/png")
    objects.put(f"{folder}/a.png", b"second", "image/webp")
    assert objects.get(f"{folder}/a.png", max_bytes=100) == b"second"


def test_an_empty_object_is_an_object(objects: Objects, folder: str) -> None:
    objects.put(f"{folder}/empty", b"", "application/octet-stream")
    assert objects.get(f"{folder}/empty", max_bytes=0) == b""
    assert objects.size(f"{folder}/empty") == 0


def test_what_is_not_there_is_rejected_for_good(objects: Objects, servers: EmbeddedServers, folder: str) -> None:
    assert objects.size(f"{folder}/missing") is None
    with pytest.raises(Rejected) as caught:
        objects.get(f"{folder}/missing", max_bytes=100)
    assert refusal(caught.value, servers) == "object_not_found"


def test_what_is_too_large_is_rejected_and_not_downloaded(
    objects: Objects, servers: EmbeddedServers, folder: str, tmp_path: Path
) -> None:
    objects.put(f"{folder}/a", b"x" * 1001, "application/octet-stream")
    target = tmp_path / "a"
    for read in (
        lambda: objects.get(f"{folder}/a", max_bytes=1000),
        lambda: objects.download(f"{folder}/a", target, max_bytes=1000),
    ):
        with pytest.raises(Rejected) as caught:
            read()
        assert refusal(caught.value, servers) == "object_too_large"
        assert "1000 bytes" in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_download_is_there_wholly_with_its_hash(objects: Objects, folder: str, tmp_path: Path) -> None:
    body = bytes(range(256)) * 8000
    objects.put(f"{folder}/adapter", body, "application/octet-stream")
    target = tmp_path / "cache" / "adapter.safetensors"
    assert objects.download(f"{folder}/adapter", target, max_bytes=len(body)) == hashlib.sha256(body).hexdigest()
    assert target.read_bytes() == body
    with pytest.raises(Rejected):
        objects.download(f"{folder}/missing", target, max_bytes=len(body))
    assert target.read_bytes() == body
    assert list(target.parent.iterdir()) == [target]


def test_many_threads_share_one_bucket(objects: Objects, folder: str) -> None:
    def one(number: int) -> bytes:
        objects.put(f"{folder}/{number}", str(number).encode() * 1000, "text/plain")
        return objects.get(f"{folder}/{number}", max_bytes=MIB)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(64))) == [str(number).encode() * 1000 for number in range(64)]


# --- links


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_link_leads_to_its_object_whatever_it_is_called(
    objects: Objects, servers: EmbeddedServers, folder: str, name: str
) -> None:
    key = f"{folder}/{name}"
    objects.put(key, name.encode(), "text/plain")
    link = objects.presigned_get(key)
    assert requests.get(link, timeout=60).content == name.encode()
    settings = settings_of(servers)
    assert parse_source(link, settings) == ObjectSource(objects.bucket, key)
    assert parse_source(objects.uri(key), settings) == ObjectSource(objects.bucket, key)


def test_a_link_opens_nothing_but_its_object(objects: Objects, folder: str) -> None:
    objects.put(f"{folder}/mine", b"mine", "text/plain")
    objects.put(f"{folder}/other", b"other", "text/plain")
    link = objects.presigned_get(f"{folder}/mine")
    assert requests.get(link.replace("/mine?", "/other?"), timeout=60).status_code == 403
    assert requests.get(link.split("?")[0], timeout=60).status_code == 403
    assert requests.put(link, data=b"changed", timeout=60).status_code == 403
    assert requests.delete(link, timeout=60).status_code == 403
    assert objects.get(f"{folder}/mine", max_bytes=100) == b"mine"


def test_links_are_signed_for_the_public_endpoint_and_expire(servers: EmbeddedServers, folder: str) -> None:
    public = servers.s3_endpoint.replace("127.0.0.1", "localhost")
    settings = settings_of(servers, s3_public_endpoint=f"{public}/", presigned_url_seconds=77)
    objects = Objects(settings)
    try:
        objects.put(f"{folder}/a", b"public", "text/plain")
        link = objects.presigned_get(f"{folder}/a")
        assert link.startswith(f"{public}/{objects.bucket}/{folder}/a?")
        assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in link
        assert "X-Amz-Expires=77&" in link
        assert servers.s3_secret_key not in link
        assert requests.get(link, timeout=60).content == b"public"
        assert requests.get(link.replace("localhost", "127.0.0.1"), timeout=60).status_code == 403
        assert requests.get(link.replace("Expires=77", "Expires=7777"), timeout=60).status_code == 403
    finally:
        objects.close()


def test_an_upload_link_takes_just_the_announced_type_and_size(objects: Objects, folder: str) -> None:
    key = f"{folder}/upload.png"
    link = objects.presigned_put(key, "image/png", 5)
    png = {"Content-Type": "image/png"}
    for body, headers in ((b"sixsix", png), (b"four", png), (b"hello", {"Content-Type": "text/html"}), (b"hello", {})):
        assert requests.put(link, data=body, headers=headers, timeout=60).status_code == 403
    assert objects.size(key) is None
    assert requests.put(link, data=b"hello", headers=png, timeout=60).status_code == 200
    assert objects.get(key, max_bytes=5) == b"hello"
    assert requests.get(link, timeout=60).status_code == 403


def test_an_upload_link_without_a_size_takes_any(objects: Objects, folder: str) -> None:
    link = objects.presigned_put(f"{folder}/upload", "image/png", None)
    answer = requests.put(link, data=b"any size", headers={"Content-Type": "image/png"}, timeout=60)
    assert answer.status_code == 200
    assert objects.get(f"{folder}/upload", max_bytes=100) == b"any size"


# --- deleting and the bucket itself


def test_deleting_goes_beyond_a_thousand_and_may_be_repeated(objects: Objects, folder: str) -> None:
    keys = [f"{folder}/{number}" for number in range(2001)]
    there = [keys[number] for number in (0, 999, 1000, 1999, 2000)]
    for key in [*there, f"{folder}/kept"]:
        objects.put(key, b"x", "text/plain")
    for _ in range(2):
        objects.delete(iter(keys))
        assert [objects.size(key) for key in there] == [None] * len(there)
    assert objects.size(f"{folder}/kept") == 1
    objects.delete([])


def test_any_number_of_processes_may_create_the_bucket_at_once(servers: EmbeddedServers) -> None:
    settings = settings_of(servers, s3_bucket=f"race-{new_id().hex}")
    racers = [Objects(settings) for _ in range(8)]
    start = threading.Barrier(len(racers))

    def race(objects: Objects) -> None:
        start.wait(60)
        objects.ensure_bucket()
        objects.put("mine", b"x", "text/plain")

    try:
        with ThreadPoolExecutor(len(racers)) as pool:
            list(pool.map(race, racers))
        racers[0].ensure_bucket()
        assert racers[0].get("mine", max_bytes=1) == b"x"
    finally:
        for objects in racers:
            objects.close()


def test_keys_under_a_prefix_are_listed_over_all_pages_and_nothing_beside(objects: Objects, folder: str) -> None:
    names = [f"{folder}/in/{n:04}.png" for n in range(1100)]  # more than one page of 1000
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: objects.put(name, b"x" * 3, "image/png"), names))
    objects.put(f"{folder}/in/deeper/\u00fc b.png", b"", "image/png")
    objects.put(f"{folder}/inside.png", b"x", "image/png")
    assert sorted(objects.list_keys(f"{folder}/in/")) == [
        *((name, 3) for name in names),
        (f"{folder}/in/deeper/\u00fc b.png", 0),
    ]
    assert dict(objects.list_folder(f"{folder}/in/")) == {
        **dict.fromkeys(names, 3),
        f"{folder}/in/deeper/": None,
    }
    assert list(objects.list_keys(f"{folder}/nothing/")) == []


def test_a_stream_gives_what_is_asked_for_piece_by_piece(
    objects: Objects, servers: EmbeddedServers, folder: str
) -> None:
    objects.put(f"{folder}/a.tar", bytes(range(100)), "application/x-tar")
    with objects.stream(f"{folder}/a.tar") as read:
        assert [read(60), read(60), read(60)] == [bytes(range(60)), bytes(range(60, 100)), b""]
    with objects.stream(f"{folder}/a.tar", start=70) as read:
        assert [read(60), read(60)] == [bytes(range(70, 100)), b""]
    with pytest.raises(Rejected) as caught, objects.stream(f"{folder}/missing"):
        pass
    assert refusal(caught.value, servers) == "object_not_found"


# --- trouble


@pytest.mark.parametrize(
    "overrides", [{"s3_secret_key": SecretStr("wrong")}, {"s3_access_key": SecretStr("who")}, {"s3_bucket": "missing"}]
)
def test_a_wrong_set_up_is_no_jobs_fault(servers: EmbeddedServers, overrides: dict[str, object], folder: str) -> None:
    objects = Objects(settings_of(servers, **overrides))
    try:
        for call in (
            lambda: objects.put(f"{folder}/a", b"x", "text/plain"),
            lambda: objects.get(f"{folder}/a", max_bytes=1),
            lambda: objects.delete([f"{folder}/a"]),
        ):
            with pytest.raises(Unavailable) as caught:
                call()
            assert refusal(caught.value, servers) == "storage_unavailable"
        if "s3_bucket" not in overrides:
            with pytest.raises(Unavailable) as caught:
                objects.ensure_bucket()
            assert refusal(caught.value, servers) == "storage_unavailable"
    finally:
        objects.close()


def test_what_the_store_can_never_take_counts_against_the_job(objects: Objects, servers: EmbeddedServers) -> None:
    for key in ("outputs/../a", "k" * 1100, ""):
        with pytest.raises(Transient) as caught:
            objects.put(key, b"x", "text/plain")
        assert refusal(caught.value, servers) == "storage_refused"


def test_a_killed_store_is_unavailable_and_the_same_client_goes_on_when_it_is_back(
    objects: Objects, servers: EmbeddedServers, folder: str
) -> None:
    objects.put(f"{folder}/a", b"before", "text/plain")
    servers.s3.kill()
    try:
        for call in (
            lambda: objects.put(f"{folder}/b", b"x", "text/plain"),
            lambda: objects.get(f"{folder}/a", max_bytes=100),
            lambda: objects.size(f"{folder}/a"),
            lambda: objects.ensure_bucket(),
        ):
            with pytest.raises(Unavailable) as caught:
                call()
            assert refusal(caught.value, servers) == "storage_unavailable"
    finally:
        servers.s3.start()
    assert objects.get(f"{folder}/a", max_bytes=100) == b"before"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_store_is_asked_three_times_and_then_unavailable(servers: EmbeddedServers, status: int) -> None:
    class Busy(BaseHTTPRequestHandler):
        asked = 0

        def do_GET(self) -> None:
            type(self).asked += 1
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as front:
        threading.Thread(target=front.serve_forever, args=(0.01,), daemon=True).start()
        objects = Objects(settings_of(servers, s3_endpoint=f"http://127.0.0.1:{front.server_address[1]}"))
        try:
            with pytest.raises(Unavailable) as caught:
                objects.get("a", max_bytes=1)
            assert refusal(caught.value, servers) == "storage_unavailable"
        finally:
            objects.close()
            front.shutdown()
    assert Busy.asked == 3


# --- as a source


def test_our_own_links_are_read_from_the_bucket_by_their_owner_alone(
    objects: Objects, servers: EmbeddedServers
) -> None:
    settings = settings_of(servers)
    owner, other = new_id(), new_id()
    key = upload_key(owner, new_id(), "my photo.png")
    objects.put(key, b"picture", "image/png")
    source = parse_source(objects.presigned_get(key), settings)
    check_source_owner(source, owner, settings, name_of=lambda _: None)
    with pytest.raises(Rejected, match="is not yours"):
        check_source_owner(source, other, settings, name_of=lambda _: None)
    fetcher = Fetcher(settings)  # it may not fetch from loopback: what comes, comes from the bucket
    with pytest.raises(Rejected, match="address is not allowed"):
        fetcher.get(objects.presigned_get(key), max_bytes=100, seconds=60, what="image")
    fetched = read_source(source, fetcher, objects, max_bytes=100, seconds=60, what="image")
    assert fetched.data == b"picture"
    assert fetched.sha256 == hashlib.sha256(b"picture").hexdigest()


def test_a_source_that_is_gone_is_named_with_its_field(objects: Objects, servers: EmbeddedServers) -> None:
    key = input_key(UUID(int=1), "ab" * 32, "png")
    with pytest.raises(Rejected, match=r'^mask_image: "s3://.+: the object does not exist') as caught:
        read_source(
            ObjectSource(objects.bucket, key),
            Fetcher(settings_of(servers)),
            objects,
            max_bytes=100,
            seconds=60,
            what="mask_image",
        )
    assert caught.value.code == "object_not_found"


def test_no_other_bucket_is_read_even_if_somebody_forgot_to_check(objects: Objects, servers: EmbeddedServers) -> None:
    with pytest.raises(Rejected, match=r'^image: "s3://another/a": this bucket cannot be read') as caught:
        read_source(
            ObjectSource("another", "a"), Fetcher(settings_of(servers)), objects, max_bytes=1, seconds=60, what="image"
        )
    assert caught.value.code == "bucket_not_readable"


def test_an_allowed_folder_of_another_bucket_is_read_where_it_lies(servers: EmbeddedServers, tmp_path: Path) -> None:
    theirs = Objects(settings_of(servers, s3_bucket=f"theirs-{new_id().hex}"))
    settings = settings_of(servers, s3_read_prefixes=f"alice=s3://{theirs.bucket}/photos/,*=s3://no-such-bucket/x/")
    ours = Objects(settings)
    try:
        theirs.ensure_bucket()
        theirs.put("photos/a.png", b"picture", "image/png")
        source = parse_source(f"s3://{theirs.bucket}/photos/a.png", settings)
        check_source_owner(source, new_id(), settings, name_of=lambda _: "alice")
        fetched = read_source(source, Fetcher(settings), ours, max_bytes=100, seconds=60, what="image")
        assert (fetched.data, fetched.sha256) == (b"picture", hashlib.sha256(b"picture").hexdigest())
        assert ours.size("photos/a.png", bucket=theirs.bucket) == 7
        assert ours.size("photos/a.png") is None, "our own bucket has no such object"
        assert ours.size("photos/b.png", bucket=theirs.bucket) is None
        assert ours.download("photos/a.png", tmp_path / "a", max_bytes=7, bucket=theirs.bucket) == fetched.sha256
        assert list(ours.list_keys("photos/", bucket=theirs.bucket)) == [("photos/a.png", 7)]
        assert list(ours.list_folder("", bucket=theirs.bucket)) == [("photos/", None)]
        assert list(ours.list_keys("photos/")) == []
        with ours.stream("photos/a.png", start=3, bucket=theirs.bucket) as read:
            assert read(100) == b"ture"
        with pytest.raises(Rejected) as caught:
            ours.get("photos/b.png", max_bytes=100, bucket=theirs.bucket)
        assert caught.value.code == "object_not_found"
        # An operator's slip fails the jobs that need it; an outage of ours would stop all of them.
        for bucket in ("no-such-bucket", "named-by-no-entry"):
            for call in (
                lambda bucket: ours.get("x/a.png", max_bytes=100, bucket=bucket),
                lambda bucket: next(ours.list_keys("x/", bucket=bucket)),
                lambda bucket: next(ours.list_folder("x/", bucket=bucket)),
                lambda bucket: ours.stream("x/a.png", bucket=bucket).__enter__(),
            ):
                with pytest.raises(Rejected) as caught:
                    call(bucket)
                assert refusal(caught.value, servers) == "bucket_not_readable"
    finally:
        theirs.close()
        ours.close()
