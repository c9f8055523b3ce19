"""WebDataset tars as manifests: what the public library writes is read, and no tar can do harm or end in silence."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from producer.manifest import webdataset as reader
from producer.manifest.open import open_manifest
from producer.manifest.options import Form, ManifestOptions
from producer.manifest.row import BadRow, ManifestError, ManifestRow

DEFAULT = ManifestOptions()


def picture(kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, kind)
    return data.getvalue()


PNG = picture()


def write(path: Path, *samples: Mapping[str, Any]) -> Path:
    """Write samples with the public library; (key, parts) come as {"__key__": key, ending: bytes}."""
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(dict(sample))
    return path


def pack(path: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
    """Write members as they are, with the standard library."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(source: Path | str, options: ManifestOptions = DEFAULT) -> list[ManifestRow | BadRow]:
    rows = list(open_manifest(str(source), options).rows())
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    return rows


def good(source: Path | str, options: ManifestOptions = DEFAULT) -> list[ManifestRow]:
    rows = read(source, options)
    assert all(isinstance(row, ManifestRow) for row in rows), rows
    return [row for row in rows if isinstance(row, ManifestRow)]


def data_of(row: ManifestRow) -> dict[str, bytes]:
    found = {}
    for field, content in row.files.items():
        with content.open() as file:
            found[field] = file.read()
    return found


def bad(source: Path | str, options: ManifestOptions = DEFAULT) -> BadRow:
    (row,) = [row for row in read(source, options) if isinstance(row, BadRow)]
    return row


# --- what the public library writes


def test_what_the_public_writer_writes_is_read_with_its_fields(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    mask = picture("WEBP")
    fields = {"prompt": "a café", "seed": 5, "size": "512*512", "sku": "x-1", "tags": ["a", 1]}
    path = write(
        tmp_path / "data.tar",
        {"__key__": "000", "image.png": pixels, "mask.webp": mask, "json": fields},
        {"__key__": "a/001", "image.jpg": picture("JPEG"), "mask.png": PNG, "txt": "a dog\n"},
        {"__key__": "002", "png": PNG, "cls": 7},
    )
    first, second, third = good(path)
    assert (first.custom_id, first.body) == ("000", {"prompt": "a café", "seed": 5, "size": "512*512"})
    assert first.extra == {"sku": "x-1", "tags": ["a", 1]}
    image = data_of(first)["image"]
    assert Image.open(io.BytesIO(image)).size == (4, 4)
    assert data_of(first)["mask_image"] == mask
    assert (second.custom_id, second.body, set(second.files)) == ("a/001", {"prompt": "a dog"}, {"image", "mask_image"})
    assert (third.custom_id, third.body, set(third.files)) == ("002", {}, {"image"})


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz"])
def test_shards_of_the_public_writer_are_one_manifest(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / f"shard-%03d.{ending}"), maxcount=4, verbose=0) as writer:
        for n in range(11):
            writer.write({"__key__": f"{n:05}", "image.png": PNG, "json": {"seed": n}})
    assert len(list(folder.iterdir())) == 3
    for source in (folder, folder / f"shard-{{000..002}}.{ending}", folder / f"shard-{{000,001,002}}.{ending}"):
        rows = good(source)
        assert [row.body["seed"] for row in rows] == list(range(11))
        assert [row.custom_id for row in rows] == [f"{n:05}" for n in range(11)]
    assert [row.body["seed"] for row in good(folder / f"shard-00{{2..1}}.{ending}")] == [8, 9, 10, 4, 5, 6, 7]


def test_a_key_that_another_shard_has_too_gets_its_shards_name(tmp_path: Path) -> None:
    for shard in "abc":
        write(tmp_path / f"{shard}.tar", *({"__key__": key, "png": PNG} for key in ("0", shard, "1")))
    ids = [row.custom_id for row in good(tmp_path)]
    assert ids == ["0", "a", "1", "b/0", "b", "b/1", "c/0", "c", "c/1"]


def test_it_can_be_read_again_and_says_what_it_is(tmp_path: Path) -> None:
    manifest = open_manifest(str(write(tmp_path / "data.tar", {"__key__": "0", "png": PNG})), DEFAULT)
    assert (manifest.form, manifest.name) == (Form.WEBDATASET, "data.tar")
    assert [row.where for row in manifest.rows()] == [row.where for row in manifest.rows()] == ["data.tar, 0"]


def test_constants_columns_and_one_mask_hold_for_samples_that_say_nothing(tmp_path: Path) -> None:
    path = write(
        tmp_path / "data.tar",
        {"__key__": "0", "png": PNG, "json": {"caption": "mine", "key": "000"}},
        {"__key__": "1", "png": PNG, "mask.png": PNG},
    )
    options = ManifestOptions(
        columns={"prompt": "caption", "custom_id": "key"},
        constants={"prompt": "for all", "seed": 3},
        mask="https://example.com/m.png",
    )
    first, second = good(path, options)
    assert (first.custom_id, first.body) == (
        "000", {"prompt": "mine", "seed": 3, "mask_image": "https://example.com/m.png"},
    )  # fmt: skip
    assert (second.custom_id, second.body) == ("1", {"prompt": "for all", "seed": 3})


def test_the_jsons_prompt_wins_over_the_text(tmp_path: Path) -> None:
    path = write(tmp_path / "d.tar", {"__key__": "0", "png": PNG, "json": {"prompt": "json"}, "txt": "text"})
    assert good(path)[0].body == {"prompt": "json"}


def test_a_sample_may_name_its_image_by_url(tmp_path: Path) -> None:
    path = write(tmp_path / "d.tar", {"__key__": "0", "json": {"image": "https://example.com/a.png"}})
    assert good(path)[0].body == {"image": "https://example.com/a.png"}


def test_the_server_looks_at_no_file_that_a_sample_names(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    path = write(tmp_path / "d.tar", {"__key__": "0", "json": {"image": "a.png"}})
    assert set(good(path)[0].files) == {"image"}
    row = bad(path, ManifestOptions(local_files=False))
    assert (row.field, row.custom_id) == ("image", "0")
    assert "the server cannot read your files" in row.reason


def test_folders_hidden_members_and_a_leading_dot_are_no_samples(tmp_path: Path) -> None:
    path = pack(tmp_path / "d.tar", {"./._a.png": b"x", "./a.png": PNG, ".git/b.png": PNG, "noending": b"x"})
    with tarfile.open(path, "a") as tar:
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert [row.custom_id for row in good(path)] == ["a"]


# --- samples that cannot be rows


@pytest.mark.parametrize(
    ("members", "field", "reason"),
    [
        ({"b.gif": b"GIF8"}, "image", "has no image: add b.image.png (or .jpg, .webp), or name one in its .json; it"),
        ({"b.json": b'{"prompt": "x"}'}, "image", "has no image"),
        ({"b.png": PNG, "b.json": b"{"}, "row", "is not JSON"),
        ({"b.png": PNG, "b.json": b"[1]"}, "row", "is not an object"),
        ({"b.png": PNG, "b.json": b'{"promt": "x"}'}, "promt", "looks like the field prompt"),
        ({"b.png": PNG, "b.json": b"\xff"}, "json", "byte 1 is not UTF-8"),
        ({"b.png": PNG, "b.txt": b"caf\xe9"}, "prompt", "byte 4 is not UTF-8"),
        ({"b.png": PNG, "b.jpg": PNG}, "image", "is a second one beside b.png; keep one of them"),
        ({"b.png": b""}, "image", "is empty"),
        ({"b.png": PNG, "b.txt": b"x" * (reader.MAX_TEXT_BYTES + 1)}, "prompt", "bytes; at most 1048576 are allowed"),
        ({"../b.png": PNG}, "image", "has a path that leads out of the tar"),
        ({"/etc/b.png": PNG}, "image", "has a path that leads out of the tar"),
    ],
)  # fmt: skip
def test_a_sample_that_cannot_be_a_row_is_a_bad_one_and_the_others_go_on(
    tmp_path: Path, members: dict[str, bytes], field: str, reason: str
) -> None:
    path = pack(tmp_path / "d.tar", {"a.png": PNG, **members, "c.png": PNG})
    row = bad(path)
    assert (row.number, row.field) == (2, field)
    assert reason in row.reason
    assert row.where.startswith("d.tar, ")
    assert len(read(path)) == 3


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_bad_rows_and_followed_by_nobody(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "d.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = kind, "/etc/passwd"
        tar.addfile(link)
    row = bad(path)
    assert "is a link or a device, not a file" in row.reason
    assert (row.field, row.value, row.custom_id) == ("image", "'a.png'", "a")


def test_a_member_that_is_too_large_is_a_bad_row_and_never_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "d.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file, tarfile.open(fileobj=file, mode="w|") as tar:
        for name, size in (("a.png", 200 * 2**20), ("b.png", 10)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, _Zeros())  # type: ignore[arg-type]
    manifest = open_manifest(str(path), DEFAULT)
    tracemalloc.start()
    try:
        first, second = manifest.rows()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(first, BadRow)
    assert "has 209715200 bytes; at most 52428800 are allowed" in first.reason
    assert isinstance(second, ManifestRow)
    assert peak < 8 * 2**20


class _Zeros:
    def read(self, size: int) -> bytes:
        return b"\0" * size


def test_the_members_of_a_long_tar_are_not_kept(tmp_path: Path) -> None:
    path = pack(tmp_path / "d.tar", {f"{n:06}.png": b"x" for n in range(5000)})
    manifest = open_manifest(str(path), DEFAULT)
    tracemalloc.start()
    try:
        assert sum(1 for _ in manifest.rows()) == 5000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20  # the read buffer has 1 MiB of it


# --- tars that cannot be read on


def _cut_in_data(data: bytes) -> bytes:
    return data[: 2 * 1024 + 512 + 20]  # each member of a small file takes 1024 bytes


def _cut_in_header(data: bytes) -> bytes:
    return data[: 2 * 1024 + 100]


def _cut_between(data: bytes) -> bytes:
    return data[: 2 * 1024]


def _bad_header(data: bytes) -> bytes:
    return data[: 2 * 1024] + b"garbage" * 73 + data[2 * 1024 + 511 :]


def _cut_gzip(data: bytes) -> bytes:
    zipped = gzip.compress(data)
    return zipped[: len(zipped) // 2]


def _bad_gzip(data: bytes) -> bytes:
    zipped = bytearray(gzip.compress(data))
    zipped[len(zipped) // 2 : len(zipped) // 2 + 40] = bytes(range(40))
    return bytes(zipped)


@pytest.mark.parametrize(
    ("break_it", "words", "rows"),
    [
        (_cut_in_data, r"ends too early inside its member 'c.png' \(row 2 is the last good one\)", 2),
        (_cut_in_header, r"ends too early after its member 'b.png' \(row 1 is the last good one\)", 1),
        (_cut_between, r"ends too early after its member 'b.png' \(row 1 is the last good one\)", 1),
        (_bad_header, r"is damaged after its member 'b.png' \(row 1 is the last good one\): a header", 1),
        (_cut_gzip, r"ends too early (inside|after) its member", None),
        (_bad_gzip, r"is damaged (inside|after) its member", None),
    ],
)
def test_a_tar_that_is_cut_off_or_damaged_never_ends_in_silence(
    tmp_path: Path, break_it: Callable[[bytes], bytes], words: str, rows: int | None
) -> None:
    noise = np.random.default_rng(0)
    members = {f"{key}.png": noise.bytes(300) for key in "abcdefgh"}
    members |= {f"z{key:03}.png": noise.bytes(300) for key in range(200)}
    data = pack(tmp_path / "whole.tar", members).read_bytes()
    path = tmp_path / "broken.tar"
    path.write_bytes(break_it(data))
    got: list[ManifestRow | BadRow] = []
    with pytest.raises(ManifestError, match=r"broken\.tar " + words) as caught:
        got.extend(open_manifest(str(path), DEFAULT).rows())
    assert "copy it again" in caught.value.message
    assert rows is None or [row.number for row in got] == list(range(1, rows + 1))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"not a tar at all " * 100, "is not a tar or tar.gz"),
        (b"\x1f\x8b" + b"x" * 100, "is damaged"),
        (picture("JPEG"), "is not a tar or tar.gz|ends too early"),
    ],
)
def test_what_is_no_tar_is_said_to_be_none(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "d.tar"
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=rf"d\.tar ({words})"):
        read(path)


def test_a_tar_without_samples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"holds no rows: no member is called KEY\.image\.png"):
        read(pack(tmp_path / "d.tar", {"README": b"hello"}))
    with pytest.raises(ManifestError, match="holds no rows"):
        read(pack(tmp_path / "e.tar", {}))


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    info.type, info.size = tarfile.XHDTYPE, 4 * 2**30
    path = tmp_path / "d.tar"
    path.write_bytes(pack(tmp_path / "x.tar", {"b.png": PNG}).read_bytes()[:1024] + info.tobuf() + b"\0" * 4096)
    with pytest.raises(ManifestError, match="a header has an impossible size"):
        read(path)


def test_a_negative_size_does_not_send_the_reader_in_circles(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    info.pax_headers = {"size": "-512"}
    path = tmp_path / "d.tar"
    path.write_bytes(info.tobuf(tarfile.PAX_FORMAT) + b"\0" * 4096)
    with pytest.raises(ManifestError, match=r"d\.tar "):
        read(path)


def test_headers_nested_without_end_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 10
    path = tmp_path / "d.tar"
    path.write_bytes((info.tobuf() + b"x" * 512) * 5000)
    with pytest.raises(ManifestError, match=r"d\.tar "):
        read(path)


def test_a_missing_shard_and_too_many_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path / "s-0.tar", {"__key__": "0", "png": PNG})
    with pytest.raises(ManifestError, match=r"there is no file .*s-1\.tar"):
        open_manifest(str(tmp_path / "s-{0..3}.tar"), DEFAULT)
    for pattern in ("s-{0..999999999}.tar", "s-{0..999}{0..999}.tar"):
        with pytest.raises(ManifestError, match="names more than 100000 shards"):
            open_manifest(str(tmp_path / pattern), DEFAULT)


def test_a_tar_whose_own_name_has_braces_is_that_tar(tmp_path: Path) -> None:
    assert len(good(write(tmp_path / "s-{0..3}.tar", {"__key__": "0", "png": PNG}))) == 1


def test_a_folder_of_masks_does_not_go_with_a_tar(tmp_path: Path) -> None:
    path = write(tmp_path / "d.tar", {"__key__": "0", "png": PNG})
    with pytest.raises(ManifestError, match=r"KEY\.mask\.png"):
        open_manifest(str(path), ManifestOptions(masks=tmp_path))
