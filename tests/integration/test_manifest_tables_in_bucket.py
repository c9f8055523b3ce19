"""Tables that lie in the bucket, read from a real S3 server."""

from __future__ import annotations

import gzip
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import SecretStr

from common.ids import new_id
from common.objects import Objects
from common.settings import Environment, Settings
from infra.embedded.servers import EmbeddedServers
from producer.manifest.open import open_manifest
from producer.manifest.options import Form, ManifestOptions
from producer.manifest.row import BadRow, ManifestError, ManifestRow
from tests.support.manifests import owned

OWNER = new_id()


@pytest.fixture(scope="module")
def objects(servers: EmbeddedServers) -> Iterator[Objects]:
    servers.s3.start()  # a test may have left it killed
    values = {
        "fillfleet_env": Environment.TEST,
        "s3_endpoint": servers.s3_endpoint,
        "s3_bucket": servers.s3_bucket,
        "s3_access_key": SecretStr(servers.s3_access_key),
        "s3_secret_key": SecretStr(servers.s3_secret_key),
    }
    made = Objects(Settings.model_validate(values))
    yield made
    made.close()


@pytest.fixture
def folder() -> str:
    return f"uploads/{OWNER.hex}/{new_id().hex}"


def rows_of(objects: Objects, key: str, **options: Any) -> list[ManifestRow | BadRow]:
    manifest = open_manifest(objects.uri(key), ManifestOptions(**options), objects=owned(objects, OWNER))
    return list(manifest.rows())


def test_a_table_in_the_bucket_is_read_and_its_relative_paths_are_objects_beside_it(
    objects: Objects, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    content = "image,mask_image\na/1.png,https://x.example/m.png\n../other.png,\n/etc/passwd,\n"
    objects.put(f"{folder}/t.csv.gz", gzip.compress(content.encode()), "application/gzip")
    first, second, third = rows_of(objects, f"{folder}/t.csv.gz", local_files=False)
    assert isinstance(first, ManifestRow)
    assert first.body == {"image": objects.uri(f"{folder}/a/1.png"), "mask_image": "https://x.example/m.png"}
    assert first.where == "t.csv.gz, line 2"
    for row in (second, third):
        assert isinstance(row, BadRow)
        assert f"leads out of {objects.uri(folder)}/" in row.reason
    assert list(tmp_path.iterdir()) == []  # the copy is gone


def test_parts_below_a_prefix_are_one_table(objects: Objects, folder: str) -> None:
    for number in range(2):
        file = io.BytesIO()
        pd.DataFrame({"image": [f"https://x.example/{number}.png"] * 2}).to_parquet(file)
        objects.put(f"{folder}/part-{number}.parquet", file.getvalue(), "application/octet-stream")
    objects.put(f"{folder}/_SUCCESS", b"", "text/plain")
    for key in (f"{folder}/", folder):
        manifest = open_manifest(objects.uri(key), ManifestOptions(), objects=owned(objects, OWNER))
        assert (manifest.form, manifest.name) == (Form.PARQUET, folder.rpartition("/")[2])
        for _ in range(2):
            assert [row.number for row in manifest.rows()] == [1, 2, 3, 4]


def test_what_cannot_be_read_in_the_bucket_says_why(objects: Objects, folder: str) -> None:
    objects.put(f"{folder}/rows", b"image\nx\n", "text/csv")
    for source, options, words in (
        (objects.uri(f"{folder}/missing.csv"), ManifestOptions(), "missing.csv': the object does not exist"),
        ("s3://another-bucket/t.csv", ManifestOptions(), "lies in a bucket or folder that you may not read here"),
        (objects.uri(f"{folder}/rows"), ManifestOptions(), "its name does not tell its form; say it"),
        (objects.uri(f"{folder}/"), ManifestOptions(form=Form.CSV), "holds no csv file; check the prefix"),
    ):
        with pytest.raises(ManifestError) as caught:
            list(open_manifest(source, options, objects=owned(objects, OWNER)).rows())
        assert words in caught.value.message
