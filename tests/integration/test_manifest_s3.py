"""Manifests in the bucket, on a real S3 server: nothing that lies there is downloaded or sent again."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pandas
import pytest
import webdataset
from PIL import Image

from common.errors import Unavailable
from common.ids import new_id
from common.objects import Objects
from infra.embedded.servers import EmbeddedServers
from producer.manifest.open import open_manifest
from producer.manifest.options import Form, ManifestOptions
from producer.manifest.row import BadRow, ManifestError, ManifestRow
from producer.manifest.s3_location import S3File
from tests.support.environment import settings_for

DEFAULT = ManifestOptions()


@pytest.fixture(scope="module")
def objects(servers: EmbeddedServers) -> Iterator[Objects]:
    made = Objects(settings_for(servers, "postgresql://nobody@127.0.0.1/none"))
    made.ensure_bucket()
    yield made
    made.close()


@pytest.fixture
def prefix() -> str:
    """A prefix of this test's own, with / at its end."""
    return f"uploads/{new_id().hex}/"


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, "PNG")
    return data.getvalue()


PNG = picture()


def put(objects: Objects, prefix: str, *names: str) -> None:
    for name in names:
        objects.put(f"{prefix}{name}", PNG, "image/png")


def put_table(objects: Objects, key: str, frame: pandas.DataFrame) -> None:
    data = io.BytesIO()
    if key.endswith(".csv"):
        frame.to_csv(data, index=False)
    elif key.endswith(".jsonl"):
        frame.to_json(data, orient="records", lines=True)
    else:
        frame.to_parquet(data)
    objects.put(key, data.getvalue(), "application/octet-stream")


def read(objects: Objects, key: str, options: ManifestOptions = DEFAULT) -> list[ManifestRow | BadRow]:
    rows = list(open_manifest(objects.uri(key), options, objects=objects).rows())
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    return rows


def sources(rows: list[ManifestRow | BadRow], uri: str) -> list[tuple[str | None, str, str | None]]:
    """(custom_id, image, mask) of the rows, the two as paths below `uri`."""
    found = []
    for row in rows:
        assert isinstance(row, ManifestRow), row
        assert not row.files
        assert str(row.body["image"]).startswith(uri)
        mask = row.body.get("mask_image")
        found.append((row.custom_id, row.body["image"][len(uri) :], None if mask is None else mask[len(uri) :]))
    return found


# --- folders


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_prefix_of_images_is_read_as_a_folder_of_them_would_be(
    objects: Objects, prefix: str, tmp_path: Path, slash: str
) -> None:
    names = [f"{folder}{stem}{end}" for folder in ("", "b/", "b-c/", "b/é/") for stem in ("x", "x1", "y")
             for end in (".png", "_mask.png")]  # fmt: skip
    names += [".hidden/x.png", "b/._x.png", "notes.md", "zz/alone.png", "orphan_mask.png"]
    put(objects, prefix, *names)
    objects.put(f"{prefix}empty.png", b"", "image/png")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "empty.png").touch()
    there = read(objects, prefix.rstrip("/") + slash)
    here = list(open_manifest(str(tmp_path), DEFAULT).rows())
    assert [(row.number, row.custom_id, type(row)) for row in there] == [
        (row.number, row.custom_id, type(row)) for row in here
    ]
    assert [row.reason for row in there if isinstance(row, BadRow)] == [
        row.reason for row in here if isinstance(row, BadRow)
    ]
    good = [row for row in there if isinstance(row, ManifestRow)]
    assert sources(list(good), objects.uri(prefix))[0] == ("b-c/x", "b-c/x.png", "b-c/x_mask.png")
    assert len(good) == 12


def test_images_and_masks_below_a_prefix_are_pairs_and_a_text_is_the_prompt(objects: Objects, prefix: str) -> None:
    put(objects, prefix, "images/a.png", "images/sub/b.png", "masks/a.webp", "masks/sub/b.png", "other/c.png")
    objects.put(f"{prefix}images/a.txt", "ein Café".encode(), "text/plain")
    rows = read(objects, prefix)
    assert sources(rows, objects.uri(prefix)) == [
        ("sub/b", "images/sub/b.png", "masks/sub/b.png"),
        ("a", "images/a.png", "masks/a.webp"),
    ]
    assert [row.body.get("prompt") for row in rows if isinstance(row, ManifestRow)] == [None, "ein Café"]


def test_a_missing_mask_in_the_bucket_is_a_bad_row(objects: Objects, prefix: str) -> None:
    put(objects, prefix, "images/a.png", "images/b.png", "masks/a.png")
    (bad,) = [row for row in read(objects, prefix) if isinstance(row, BadRow)]
    assert bad.custom_id == "b"
    assert f"looked for {objects.uri(prefix)}masks/b.png" in bad.reason


def test_an_empty_prefix_is_an_error(objects: Objects, prefix: str) -> None:
    with pytest.raises(ManifestError, match="holds no images"):
        read(objects, prefix, ManifestOptions(form=Form.FOLDER))


# --- tables


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_relative_paths_of_a_table_are_objects_below_it_and_no_copy_is_left(
    objects: Objects, prefix: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    frame = pandas.DataFrame({"image": ["in/a.png", "../../x/a.png", "/etc/passwd"], "mask_image": ["m.png"] * 3})
    put_table(objects, f"{prefix}{name}", frame)
    good, up, absolute = read(objects, f"{prefix}{name}")
    assert sources([good], objects.uri(prefix)) == [(None, "in/a.png", "m.png")]
    for row in (up, absolute):
        assert isinstance(row, BadRow)
        assert "leads out of" in row.reason
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_an_image_folder_in_the_bucket_names_its_objects(objects: Objects, prefix: str, name: str) -> None:
    frame = pandas.DataFrame({"file_name": ["a.png"], "mask_file_name": ["m/a.png"], "prompt": ["x"]})
    put_table(objects, f"{prefix}train/{name}", frame)
    put(objects, prefix, "train/a.png", "train/m/a.png")
    manifest = open_manifest(objects.uri(prefix), DEFAULT, objects=objects)
    assert manifest.form is Form.IMAGEFOLDER
    rows = list(manifest.rows())
    assert sources(rows, objects.uri(prefix)) == [(None, "train/a.png", "train/m/a.png")]
    assert rows[0].where.startswith(f"train/{name}, ")


# --- tars


def put_shards(objects: Objects, prefix: str, folder: Path) -> None:
    with webdataset.ShardWriter(str(folder / "s-%02d.tar"), maxcount=40, verbose=0) as writer:
        for n in range(100):
            writer.write({"__key__": f"{n:03}", "image.png": PNG, "mask.png": PNG, "json": {"seed": n}})
    for shard in folder.iterdir():
        objects.put(f"{prefix}{shard.name}", shard.read_bytes(), "application/x-tar")


def test_shards_in_the_bucket_are_streamed_in_order(objects: Objects, prefix: str, tmp_path: Path) -> None:
    put_shards(objects, prefix, tmp_path)
    for name in ("", "s-{00..02}.tar"):
        rows = read(objects, f"{prefix}{name}")
        assert [row.body["seed"] for row in rows if isinstance(row, ManifestRow)] == list(range(100))
    with pytest.raises(ManifestError, match=r"there is no object .*s-03\.tar"):
        read(objects, f"{prefix}s-{{00..03}}.tar")


def test_a_stream_that_breaks_off_goes_on_where_it_was(objects: Objects, prefix: str) -> None:
    data = bytes(range(256)) * 4000
    objects.put(f"{prefix}x", data, "application/octet-stream")

    class Flaky(Objects):
        starts: list[int]

        def stream(self, key: str, *, start: int = 0) -> AbstractContextManager[object]:  # type: ignore[override]
            self.starts.append(start)
            return _Breaking(objects.stream(key, start=start))

    flaky = object.__new__(Flaky)
    flaky.starts = []
    with S3File(flaky, f"{prefix}x") as file:
        assert io.BufferedReader(file, 1000).read() == data
    assert len(flaky.starts) > 3
    assert flaky.starts == sorted(set(flaky.starts))


class _Breaking:
    """A stream that breaks after 300 kB, like a store that cuts off slow readers."""

    def __init__(self, inner: AbstractContextManager[object]) -> None:
        self._inner = inner

    def __enter__(self) -> object:
        read = self._inner.__enter__()
        left = 300_000

        def some(size: int) -> bytes:
            nonlocal left
            if left <= 0:
                raise Unavailable("storage_unavailable", "the object store is not available; try again later")
            left -= size
            return read(size)  # type: ignore[no-any-return, operator]

        return some

    def __exit__(self, *error: object) -> None:
        self._inner.__exit__(None, None, None)


def test_a_store_that_is_gone_ends_the_reading(
    objects: Objects, servers: EmbeddedServers, prefix: str, tmp_path: Path
) -> None:
    put_shards(objects, prefix, tmp_path)
    rows = open_manifest(objects.uri(f"{prefix}s-{{00..02}}.tar"), DEFAULT, objects=objects).rows()
    next(rows)
    servers.s3.kill()
    try:
        with pytest.raises(Unavailable):
            list(rows)
    finally:
        servers.s3.start()


# --- places that may not be read


def test_another_bucket_and_no_bucket_are_refused(objects: Objects) -> None:
    for source in ("s3://other/data/", "s3://other/a.tar", "s3://other/t.csv"):
        with pytest.raises(ManifestError, match="lies in a bucket that may not be read here"):
            open_manifest(source, DEFAULT, objects=objects)
        with pytest.raises(ManifestError, match="cannot be read here"):
            open_manifest(source, DEFAULT)
