"""Manifests in buckets, on a real S3 server: ours, and another that the operator allowed; nobody reads another's.

Nothing that lies there is downloaded or sent again.
"""

from __future__ import annotations

import io
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from uuid import UUID

import pandas
import pytest
import webdataset
from click.testing import CliRunner
from PIL import Image
from sqlalchemy import Engine

from common.contract import BatchState
from common.errors import FillfleetError, Unavailable
from common.ids import new_id
from common.lifecycle import NewBatch
from common.objects import Objects
from common.read_prefixes import parse_read_prefixes
from common.settings import OWNED_FOLDERS, Settings
from common.sources import ObjectSource
from infra.embedded.servers import EmbeddedServers
from producer.cli.main import cli
from producer.doors.direct import DirectDoor
from producer.manifest.open import open_manifest
from producer.manifest.options import Form, ManifestOptions
from producer.manifest.owner_objects import OwnerObjects
from producer.manifest.row import BadRow, ManifestError, ManifestRow
from producer.manifest.s3_location import S3File
from producer.manifest_intake import read_next
from tests.support.api import running_api
from tests.support.environment import environment_of, settings_for
from tests.support.manifests import owned

DEFAULT = ManifestOptions()


OWNER = new_id()
DATABASE = "postgresql://nobody@127.0.0.1/none"


@pytest.fixture(scope="module")
def theirs(servers: EmbeddedServers) -> Iterator[Objects]:
    """Another bucket at the same endpoint."""
    made = Objects(settings_for(servers, DATABASE, s3_bucket=f"theirs-{new_id().hex}"))
    made.ensure_bucket()
    yield made
    made.close()


@pytest.fixture(scope="module")
def ours(servers: EmbeddedServers, theirs: Objects) -> Iterator[Objects]:
    made = Objects(settings_for(servers, DATABASE, s3_read_prefixes=allowed_in(theirs)))
    made.ensure_bucket()
    yield made
    made.close()


def allowed_in(bucket: Objects) -> str:
    return f"alice=s3://{bucket.bucket}/raw/,*=s3://{bucket.bucket}/free"


@pytest.fixture
def reader(ours: Objects, theirs: Objects) -> OwnerObjects:
    """The buckets as alice may read them."""
    return owned(ours, OWNER, allowed=allowed_in(theirs))


@pytest.fixture(params=["ours", "theirs"])
def objects(request: pytest.FixtureRequest, ours: Objects, theirs: Objects) -> Objects:
    """The bucket that the manifest lies in."""
    return ours if request.param == "ours" else theirs


@pytest.fixture
def prefix(objects: Objects, ours: Objects) -> str:
    """A prefix of this test's own that alice may read, with / at its end."""
    return f"{f'uploads/{OWNER.hex}' if objects is ours else 'raw'}/{new_id().hex}/"


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


def read(reader: OwnerObjects, uri: str, options: ManifestOptions = DEFAULT) -> list[ManifestRow | BadRow]:
    rows = list(open_manifest(uri, options, objects=reader).rows())
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
    objects: Objects, reader: OwnerObjects, prefix: str, tmp_path: Path, slash: str
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
    there = read(reader, objects.uri(prefix.rstrip("/") + slash))
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


def test_images_and_masks_below_a_prefix_are_pairs_and_a_text_is_the_prompt(
    objects: Objects, reader: OwnerObjects, prefix: str
) -> None:
    put(objects, prefix, "images/a.png", "images/sub/b.png", "masks/a.webp", "masks/sub/b.png", "other/c.png")
    objects.put(f"{prefix}images/a.txt", "ein Café".encode(), "text/plain")
    rows = read(reader, objects.uri(prefix))
    assert sources(rows, objects.uri(prefix)) == [
        ("sub/b", "images/sub/b.png", "masks/sub/b.png"),
        ("a", "images/a.png", "masks/a.webp"),
    ]
    assert [row.body.get("prompt") for row in rows if isinstance(row, ManifestRow)] == [None, "ein Café"]


def test_a_missing_mask_in_the_bucket_is_a_bad_row(objects: Objects, reader: OwnerObjects, prefix: str) -> None:
    put(objects, prefix, "images/a.png", "images/b.png", "masks/a.png")
    (bad,) = [row for row in read(reader, objects.uri(prefix)) if isinstance(row, BadRow)]
    assert bad.custom_id == "b"
    assert f"looked for {objects.uri(prefix)}masks/b.png" in bad.reason


def test_an_empty_prefix_is_an_error(objects: Objects, reader: OwnerObjects, prefix: str) -> None:
    with pytest.raises(ManifestError, match="holds no images"):
        read(reader, objects.uri(prefix), ManifestOptions(form=Form.FOLDER))


# --- tables


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_relative_paths_of_a_table_are_objects_below_it_and_no_copy_is_left(
    objects: Objects, reader: OwnerObjects, prefix: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    frame = pandas.DataFrame({"image": ["in/a.png", "../../x/a.png", "/etc/passwd"], "mask_image": ["m.png"] * 3})
    put_table(objects, f"{prefix}{name}", frame)
    good, up, absolute = read(reader, objects.uri(f"{prefix}{name}"))
    assert sources([good], objects.uri(prefix)) == [(None, "in/a.png", "m.png")]
    for row in (up, absolute):
        assert isinstance(row, BadRow)
        assert "leads out of" in row.reason
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_an_image_folder_in_the_bucket_names_its_objects(
    objects: Objects, reader: OwnerObjects, prefix: str, name: str
) -> None:
    frame = pandas.DataFrame({"file_name": ["a.png"], "mask_file_name": ["m/a.png"], "prompt": ["x"]})
    put_table(objects, f"{prefix}train/{name}", frame)
    put(objects, prefix, "train/a.png", "train/m/a.png")
    manifest = open_manifest(objects.uri(prefix), DEFAULT, objects=reader)
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


def test_shards_in_the_bucket_are_streamed_in_order(
    objects: Objects, reader: OwnerObjects, prefix: str, tmp_path: Path
) -> None:
    put_shards(objects, prefix, tmp_path)
    for name in ("", "s-{00..02}.tar"):
        rows = read(reader, objects.uri(f"{prefix}{name}"))
        assert [row.body["seed"] for row in rows if isinstance(row, ManifestRow)] == list(range(100))
    with pytest.raises(ManifestError, match=r"there is no object .*s-03\.tar"):
        read(reader, objects.uri(f"{prefix}s-{{00..03}}.tar"))


def test_a_stream_that_breaks_off_goes_on_where_it_was(objects: Objects, ours: Objects, prefix: str) -> None:
    data = bytes(range(256)) * 4000
    objects.put(f"{prefix}x", data, "application/octet-stream")

    class Flaky(Objects):
        starts: list[int]

        def stream(  # type: ignore[override]
            self, key: str, *, start: int = 0, bucket: str | None = None
        ) -> AbstractContextManager[object]:
            self.starts.append(start)
            return _Breaking(ours.stream(key, start=start, bucket=bucket))

    flaky = object.__new__(Flaky)
    flaky.starts, flaky.bucket = [], ours.bucket
    reader = owned(flaky, OWNER, allowed=f"*=s3://{objects.bucket}/{prefix}")
    with S3File(reader, ObjectSource(objects.bucket, f"{prefix}x")) as file:
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
    theirs: Objects, reader: OwnerObjects, servers: EmbeddedServers, tmp_path: Path
) -> None:
    put_shards(theirs, "raw/gone/", tmp_path)
    rows = open_manifest(theirs.uri("raw/gone/s-{00..02}.tar"), DEFAULT, objects=reader).rows()
    next(rows)
    servers.s3.kill()
    try:
        with pytest.raises(Unavailable):
            list(rows)
    finally:
        servers.s3.start()


# --- places that may not be read

SOURCES = ("", "/", "a.tar", "a-{0..1}.tar", "t.csv", "t.parquet/", "metadata.csv", "images/")


def forbidden(reader: OwnerObjects, uri: str, form: Form | None = None) -> str:
    with pytest.raises(ManifestError) as caught:
        list(open_manifest(uri, ManifestOptions(form=form), objects=reader).rows())
    return caught.value.message


@pytest.mark.parametrize("form", [None, *Form])
def test_nobody_reads_or_lists_what_belongs_to_another_owner(ours: Objects, form: Form | None) -> None:
    bob = new_id()
    for reader in (owned(ours, bob, "bob"), owned(ours, UUID(int=OWNER.int ^ 1), "bob")):
        for folder in OWNED_FOLDERS:
            for rest in SOURCES:
                message = forbidden(reader, ours.uri(f"{folder}/{OWNER.hex}/{rest}".replace("//", "/")), form)
                assert "is not yours" in message
        for key in ("", "uploads", "uploads/", "uploads/{a,b}.tar", f"uploads/{OWNER.hex[:8]}", "uploads/{0..9}/x.tar"):
            assert "is not yours" in forbidden(reader, ours.uri(key), form)


@pytest.mark.parametrize("form", [None, *Form])
def test_beside_an_allowed_folder_nothing_is_read(
    ours: Objects, theirs: Objects, reader: OwnerObjects, form: Form | None
) -> None:
    bob = owned(ours, new_id(), "bob", allowed_in(theirs))
    put(theirs, "raw/", "a.png")
    put(theirs, "raw2/", "a.png")
    put(theirs, "freedom/", "a.png")
    for key in ("", "ra", "raw2", "raw2/", "r/", "freedom/", "fre", "a.tar", "t.csv", "raw2/t.csv"):
        assert "you may not read here" in forbidden(reader, theirs.uri(key), form)
    for rest in SOURCES:
        assert "you may not read here" in forbidden(bob, theirs.uri(f"raw/{rest}".replace("//", "/")), form)
    for uri in ("s3://other/data/", "s3://other/a.tar", "s3://other/t.csv", "s3://other"):
        assert "you may not read here" in forbidden(reader, uri, form)


def test_what_a_pattern_names_is_judged_name_by_name(ours: Objects, theirs: Objects, reader: OwnerObjects) -> None:
    other = new_id().hex
    for name in (f"uploads/{other}/s-0.tar", f"uploads/{OWNER.hex}/s-0.tar"):
        ours.put(name, b"", "application/x-tar")
    for name in ("raw/s-0.tar", "secret/s-0.tar"):
        theirs.put(name, b"", "application/x-tar")
    for uri, words in (
        (ours.uri(f"uploads/{{{OWNER.hex},{other}}}/s-0.tar"), "is not yours"),
        (ours.uri(f"uploads/{OWNER.hex}/{{s-0,../{other}/s-0}}.tar"), '".."'),
        (ours.uri(f"uploads/{OWNER.hex}/{{.,..}}/{other}/s-0.tar"), '".."'),
        (theirs.uri("{raw,secret}/s-0.tar"), "you may not read here"),
        (theirs.uri("raw/../secret/s-0.tar"), '".."'),
        (theirs.uri("raw//s-0.tar"), "empty part"),
        ("s3://{a,b}/s-0.tar", "no valid bucket"),
    ):
        with pytest.raises(ManifestError, match=words):
            open_manifest(uri, DEFAULT, objects=reader)


def test_a_whole_bucket_and_an_owners_own_folder_are_read_if_all_of_them_may_be(ours: Objects, theirs: Objects) -> None:
    put(theirs, "", "top.png")
    put(theirs, "whole/ends with a space /", "a.png")
    whole = owned(ours, OWNER, allowed=f"alice=s3://{theirs.bucket}")
    options = ManifestOptions(form=Form.FOLDER, mask="https://example.com/mask.png")
    rows = read(whole, f"s3://{theirs.bucket}", options)
    images = {row.body["image"] for row in rows if isinstance(row, ManifestRow)}
    assert {theirs.uri("top.png"), theirs.uri("whole/ends with a space /a.png")} <= images
    me = new_id()
    put(ours, f"inputs/{me.hex}/", "a.png")
    for slash in ("", "/"):
        rows = read(owned(ours, me), ours.uri(f"inputs/{me.hex}{slash}"))
        assert sources(rows, ours.uri(f"inputs/{me.hex}/")) == [("a", "a.png", None)]


def test_a_folder_that_is_called_like_a_table_is_its_parts(objects: Objects, reader: OwnerObjects, prefix: str) -> None:
    frame = pandas.DataFrame({"image": ["in/a.png"]})
    for n in range(2):
        put_table(objects, f"{prefix}rows.parquet/part-{n}.parquet", frame)
    rows = read(reader, objects.uri(f"{prefix}rows.parquet/"))
    assert sources(rows, objects.uri(f"{prefix}rows.parquet/")) == [(None, "in/a.png", None)] * 2


def test_without_a_bucket_to_read_from_the_error_says_so() -> None:
    for source in ("s3://other/data/", "s3://other/a.tar", "s3://other/t.csv"):
        with pytest.raises(ManifestError, match="cannot be read here"):
            open_manifest(source, DEFAULT)


# --- batches


def test_the_server_reads_an_allowed_folder_unless_that_was_withdrawn_since(
    settings: Settings, database: Engine, theirs: Objects
) -> None:
    put(theirs, "raw/batch/", "a.png", "b.png")
    allowed = settings.model_copy(update={"s3_read_prefixes": parse_read_prefixes(allowed_in(theirs))})
    less = settings.model_copy(update={"s3_read_prefixes": parse_read_prefixes(f"*=s3://{theirs.bucket}/free")})
    manifest = {"source": theirs.uri("raw/batch/"), "options": {}}
    stop = threading.Event()
    for owner, now, state, rows in (
        ("alice", allowed, BatchState.OPEN, 2),
        ("bob", allowed, BatchState.CANCELLED, 0),
        ("alice", less, BatchState.CANCELLED, 0),
    ):
        with closing(DirectDoor(now, owner)) as door:
            batch = door.start(NewBatch(new_id().hex, {"prompt": "x"}, manifest=manifest))
            assert read_next(database, now, stop)
            batch = door.find(batch.id.hex)
            assert (batch.state, batch.counts.total, batch.rejected) == (state, rows, 0)
            assert (batch.error is None) == bool(rows)
            assert rows or "you may not read here" in str(batch.error)
            found = [row["image"] for row in door.rows(batch)]
            assert sorted(found) == [theirs.uri(f"raw/batch/{name}.png") for name in "ab"[:rows]]


def test_the_api_takes_what_its_owner_may_read_and_nothing_else(settings: Settings, theirs: Objects) -> None:
    allowed = settings.model_copy(update={"s3_read_prefixes": parse_read_prefixes(allowed_in(theirs))})
    with running_api(allowed) as api:
        alice, bob = api.account("alice"), api.account("bob")
        for key in ("raw/", "raw", "raw/t.csv", "raw/s-{0..9}.tar"):
            alice.ask("POST", "/api/v3/batches", json={"manifest": theirs.uri(key)})
            answer = bob.ask("POST", "/api/v3/batches", status=400, json={"manifest": theirs.uri(key)})
            assert "you may not read here" in answer["message"]
        bob.ask("POST", "/api/v3/batches", json={"manifest": theirs.uri("free/")})
        for account in (alice, bob):
            for uri in (theirs.uri(""), theirs.uri("raw2/"), api.objects.uri("uploads/")):
                account.ask("POST", "/api/v3/batches", status=400, json={"manifest": uri})


def test_the_command_line_reads_for_its_owner_alone(
    settings: Settings, theirs: Objects, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Engine
) -> None:
    put(theirs, "raw/cli/", "a.png", "b.png")
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("S3_READ_PREFIXES", allowed_in(theirs))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for more in (["--check", "--json"], ["--name", "cli"]):
        command = [theirs.uri("raw/cli/"), "--prompt", "x", *more]
        done = CliRunner().invoke(cli, ["submit", *command, "--owner", "alice"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        refused = CliRunner().invoke(cli, ["submit", *command, "--owner", "bob"])
        assert isinstance(refused.exception, FillfleetError)
        assert "you may not read here" in refused.exception.message
    with closing(DirectDoor(settings, "alice")) as door:
        assert door.find("cli").counts.total == 2
