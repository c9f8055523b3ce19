"""LoRAs among an owner's objects, on a real S3 server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from common.errors import Rejected
from common.fetch import Fetcher
from common.ids import new_id
from common.objects import Objects, upload_key
from common.read_prefixes import parse_read_prefixes
from common.settings import Settings
from infra.embedded.servers import EmbeddedServers
from tests.support.fills import FillSettings
from worker.loras.source import LoraSource

OWNER, OTHER = new_id(), new_id()


@pytest.fixture
def bucket(servers: EmbeddedServers, tmp_path: Path) -> Settings:
    servers.s3.start()  # a test may have left it killed
    return FillSettings(
        s3_endpoint=servers.s3_endpoint,
        s3_bucket=servers.s3_bucket,
        s3_access_key=SecretStr(servers.s3_access_key),
        s3_secret_key=SecretStr(servers.s3_secret_key),
        lora_cache_folder=tmp_path / "cache",
    )


@pytest.fixture
def objects(bucket: Settings) -> Iterator[Objects]:
    made = Objects(bucket)
    yield made
    made.close()


@pytest.fixture
def source(bucket: Settings, objects: Objects) -> LoraSource:
    return LoraSource(bucket, Fetcher(bucket), objects)


def test_an_owners_lora_is_read_by_uri_and_by_link(source: LoraSource, objects: Objects) -> None:
    key = upload_key(OWNER, new_id(), "style.safetensors")
    objects.put(key, b"weights", "application/octet-stream")

    by_uri = source.resolve(objects.uri(key), owner=OWNER, what="loras[0].path")
    by_link = source.resolve(objects.presigned_get(key), owner=OWNER, what="loras[0].path")

    assert by_uri == by_link
    assert by_uri.path.read_bytes() == b"weights"
    assert by_uri.sha256 == hashlib.sha256(b"weights").hexdigest()


def test_another_owner_gets_it_neither_fresh_nor_from_the_cache(source: LoraSource, objects: Objects) -> None:
    key = upload_key(OWNER, new_id(), "style.safetensors")
    objects.put(key, b"weights", "application/octet-stream")
    found = source.resolve(objects.uri(key), owner=OWNER, what="loras[0].path")

    for path in (objects.uri(key), objects.presigned_get(key)):
        for pinned in (None, found.sha256):
            with pytest.raises(Rejected) as caught:
                source.resolve(path, owner=OTHER, what="loras[0].path", pinned=pinned)
            assert caught.value.code == "source_forbidden"


def test_an_object_that_is_gone_or_too_large_names_the_field(
    source: LoraSource, objects: Objects, bucket: Settings
) -> None:
    key = upload_key(OWNER, new_id(), "style.safetensors")
    with pytest.raises(Rejected, match=r"^loras\[1\]\.path: .*does not exist"):
        source.resolve(objects.uri(key), owner=OWNER, what="loras[1].path")

    objects.put(key, b"x" * 2000, "application/octet-stream")
    small = LoraSource(bucket.model_copy(update={"lora_max_bytes": 1024}), Fetcher(bucket), objects)
    with pytest.raises(Rejected, match=r"^loras\[1\]\.path: .*larger than the 1024 bytes"):
        small.resolve(objects.uri(key), owner=OWNER, what="loras[1].path")


def test_a_lora_of_another_bucket_is_read_by_whom_the_operator_allowed(bucket: Settings) -> None:
    theirs = Objects(bucket.model_copy(update={"s3_bucket": f"theirs-{OWNER.hex}"}))
    theirs.ensure_bucket()
    theirs.put("styles/yarn.safetensors", b"weights", "application/octet-stream")
    allowed = bucket.model_copy(update={"s3_read_prefixes": parse_read_prefixes(f"alice=s3://{theirs.bucket}/styles")})
    ours, uri = Objects(allowed), theirs.uri("styles/yarn.safetensors")
    names = {OWNER: "alice", OTHER: "bob"}
    source = LoraSource(allowed, Fetcher(allowed), ours, name_of=names.get)

    found = source.resolve(uri, owner=OWNER, what="loras[0].path")
    with pytest.raises(Rejected) as caught:
        source.resolve(uri, owner=OTHER, what="loras[0].path", pinned=found.sha256)
    theirs.close()
    ours.close()

    assert found.path.read_bytes() == b"weights"
    assert caught.value.code == "source_forbidden"
