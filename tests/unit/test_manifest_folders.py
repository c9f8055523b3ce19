"""Folders of images as manifests: matched by name, the same rows each time, and what is wrong is said."""

from __future__ import annotations

import os
import random
import shutil
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from producer.manifest.folders import open_folder
from producer.manifest.open import open_manifest
from producer.manifest.options import Form, ManifestOptions
from producer.manifest.row import BadRow, LocalFile, ManifestError, ManifestRow

DEFAULT = ManifestOptions()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """An empty folder to put images into."""
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def put(folder: Path, *names: str) -> None:
    """Write an image file under each name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        kind = {"png": "PNG", "webp": "WEBP"}.get(name.rpartition(".")[2].lower(), "JPEG")
        Image.new("RGB", (4, 4)).save(folder / name, kind)


def read(folder: Path, options: ManifestOptions = DEFAULT) -> list[ManifestRow | BadRow]:
    rows = list(open_manifest(str(folder), options).rows())
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    return rows


def pairs(folder: Path, options: ManifestOptions = DEFAULT) -> dict[str | None, tuple[str, str | None]]:
    """custom_id → (image, mask), as paths relative to the folder above."""
    found: dict[str | None, tuple[str, str | None]] = {}
    for row in read(folder, options):
        assert isinstance(row, ManifestRow), row
        image, mask = (row.files.get(field) for field in ("image", "mask_image"))
        assert isinstance(image, LocalFile)
        assert mask is None or isinstance(mask, LocalFile)
        assert row.custom_id not in found
        above = folder.parent
        found[row.custom_id] = (
            image.path.relative_to(above).as_posix(),
            None if mask is None else mask.path.relative_to(above).as_posix(),
        )
    return found


def bad_rows(folder: Path, options: ManifestOptions = DEFAULT) -> list[BadRow]:
    return [row for row in read(folder, options) if isinstance(row, BadRow)]


# --- pairs


def test_an_image_and_its_mask_beside_it_are_a_pair_whatever_their_extensions(photos: Path) -> None:
    put(photos, "a.jpg", "a_mask.png", "b.PNG", "b_mask.JPEG", "deep/er/c.webp", "deep/er/c_mask.webp")
    assert pairs(photos) == {
        "deep/er/c": ("photos/deep/er/c.webp", "photos/deep/er/c_mask.webp"),
        "a": ("photos/a.jpg", "photos/a_mask.png"),
        "b": ("photos/b.PNG", "photos/b_mask.JPEG"),
    }


def test_pairs_are_matched_by_name_also_where_a_listing_would_interleave_them(photos: Path) -> None:
    names = ["x", "x1", "x10", "x_1", "x-1", "x_mas", "xa"]
    put(photos, *(f"{name}.png" for name in names), *(f"{name}_mask.png" for name in names))
    assert pairs(photos) == {name: (f"photos/{name}.png", f"photos/{name}_mask.png") for name in names}


def test_the_masks_ending_can_be_named(photos: Path) -> None:
    put(photos, "a.png", "a-hole.png", "a_mask.png", "a_mask-hole.png")
    options = ManifestOptions(mask_suffix="-hole")
    assert pairs(photos, options) == {
        "a": ("photos/a.png", "photos/a-hole.png"),
        "a_mask": ("photos/a_mask.png", "photos/a_mask-hole.png"),
    }


def test_two_folders_with_the_same_stems_are_pairs(photos: Path, tmp_path: Path) -> None:
    put(photos, "a.jpg", "sub/b.png", "sub/c.png", "a_mask.jpg")
    put(tmp_path / "holes", "a.png", "sub/b.webp", "sub/c_mask.png", "a_mask.png")
    options = ManifestOptions(masks=tmp_path / "holes")
    assert pairs(photos, options) == {
        "sub/b": ("photos/sub/b.png", "holes/sub/b.webp"),
        "sub/c": ("photos/sub/c.png", "holes/sub/c_mask.png"),
        "a": ("photos/a.jpg", "holes/a.png"),
        "a_mask": ("photos/a_mask.jpg", "holes/a_mask.png"),
    }


def test_images_and_masks_as_subfolders_are_found_by_themselves(photos: Path) -> None:
    put(photos, "images/a.jpg", "images/sub/b.jpg", "masks/a.png", "masks/sub/b.png")
    assert pairs(photos) == {
        "sub/b": ("photos/images/sub/b.jpg", "photos/masks/sub/b.png"),
        "a": ("photos/images/a.jpg", "photos/masks/a.png"),
    }


def test_a_folder_of_masks_inside_the_folder_of_images_is_not_read_as_images(photos: Path) -> None:
    put(photos, "a.jpg", "holes/a.png")
    assert pairs(photos, ManifestOptions(masks=photos / "holes")) == {"a": ("photos/a.jpg", "photos/holes/a.png")}


def test_one_mask_serves_all_that_have_none(photos: Path, tmp_path: Path) -> None:
    put(photos, "a.png", "b.png", "b_mask.png")
    put(tmp_path, "all.png")
    assert pairs(photos, ManifestOptions(mask=str(tmp_path / "all.png"))) == {
        "a": ("photos/a.png", "all.png"),
        "b": ("photos/b.png", "photos/b_mask.png"),
    }
    (row, _) = read(photos, ManifestOptions(mask="https://example.com/m.png"))
    assert isinstance(row, ManifestRow)
    assert row.body["mask_image"] == "https://example.com/m.png"


def test_images_alone_need_no_masks(photos: Path) -> None:
    put(photos, "a.png", "b.jpg")
    assert pairs(photos) == {"a": ("photos/a.png", None), "b": ("photos/b.jpg", None)}


def test_images_that_share_a_stem_keep_their_extension_in_the_id(photos: Path) -> None:
    put(photos, "a.png", "a.jpg", "a.png.webp", "a_mask.png", "a.png_mask.png", "b.png", "b_mask.png")
    assert pairs(photos) == {
        "a.png": ("photos/a.png", "photos/a_mask.png"),
        "a.jpg": ("photos/a.jpg", "photos/a_mask.png"),
        "a.png.webp": ("photos/a.png.webp", "photos/a.png_mask.png"),
        "b": ("photos/b.png", "photos/b_mask.png"),
    }


def test_the_same_files_have_the_same_numbers_in_whatever_order_they_were_made(tmp_path: Path) -> None:
    names = [f"{folder}{stem}{suffix}.png" for folder in ("", "b/", "b-c/", "é/") for stem in "azé" for suffix in
             ("", "_mask")]  # fmt: skip
    read_orders = []
    for seed in range(3):
        folder = tmp_path / str(seed) / "photos"
        random.Random(seed).shuffle(names)  # noqa: S311 - any order will do
        put(folder, *names)
        read_orders.append([(row.number, row.custom_id, row.where) for row in read(folder)])
    assert read_orders[0] == read_orders[1] == read_orders[2]
    assert [row[1] for row in read_orders[0]] == ["b-c/a", "b-c/z", "b-c/é", "b/a", "b/z", "b/é", "é/a", "é/z", "é/é",
                                                  "a", "z", "é"]  # fmt: skip


def test_a_text_beside_an_image_is_its_prompt(photos: Path) -> None:
    put(photos, "a.png", "b.png", "c.png")
    (photos / "a.txt").write_bytes(b"\xef\xbb\xbf a red caf\xc3\xa9\r\nin the rain \n")
    (photos / "c.txt").write_text("")
    (photos / "notes.txt").write_text("not a prompt")
    bodies = [row.body for row in read(photos, ManifestOptions(constants={"prompt": "nothing", "seed": 7}))
              if isinstance(row, ManifestRow)]  # fmt: skip
    assert bodies == [
        {"prompt": "a red café\r\nin the rain", "seed": 7},
        {"prompt": "nothing", "seed": 7},
        {"prompt": "nothing", "seed": 7},
    ]


def test_hidden_files_and_what_macs_leave_behind_are_skipped(photos: Path) -> None:
    put(photos, "a.png", "._a.png", ".hidden/b.png", "__MACOSX/a.png", ".DS_Store.png")
    (photos / "readme.md").write_text("hello")
    assert pairs(photos) == {"a": ("photos/a.png", None)}


def test_a_manifest_can_be_read_again_and_says_what_it_is(photos: Path) -> None:
    put(photos, "a.png", "a_mask.png")
    manifest = open_manifest(str(photos), DEFAULT)
    assert (manifest.form, manifest.name) == (Form.FOLDER, "photos")
    assert list(manifest.rows()) == list(manifest.rows())


def test_the_folder_may_be_named_with_a_slash_or_a_dot(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(photos, "a.png")
    monkeypatch.chdir(photos)
    for source in (".", "../photos/", str(photos) + "/"):
        manifest = open_manifest(source, DEFAULT)
        assert manifest.name == "photos"
        assert [row.custom_id for row in manifest.rows()] == ["a"]


# --- what is wrong


def test_an_image_without_a_mask_where_others_have_one_is_a_bad_row(photos: Path) -> None:
    put(photos, "a.png", "a_mask.png", "sub/b.jpg")
    (bad,) = bad_rows(photos)
    assert (bad.number, bad.field, bad.custom_id, bad.where) == (1, "mask_image", "sub/b", "photos/sub/b.jpg")
    assert "looked for sub/b_mask.png (or .jpg, .jpeg or .webp)" in bad.reason


def test_an_image_without_a_mask_in_the_folder_of_masks_is_a_bad_row(photos: Path, tmp_path: Path) -> None:
    put(photos, "a.png", "b.png", "only/c.png")
    put(tmp_path / "holes", "a.png")
    b, c = sorted(bad_rows(photos, ManifestOptions(masks=tmp_path / "holes")), key=lambda bad: bad.where)
    assert f"looked for {tmp_path}/holes/b.png" in b.reason
    assert f"looked for {tmp_path}/holes/only/c.png" in c.reason


def test_a_mask_without_an_image_is_a_bad_row(photos: Path, tmp_path: Path) -> None:
    put(photos, "a.png", "a_mask.png", "b_mask.png")
    (bad,) = bad_rows(photos)
    assert bad.where == "photos/b_mask.png"
    assert "is a mask without an image: there is no b.png" in bad.reason
    assert "--mask-suffix" in bad.reason
    put(tmp_path / "holes", "a.png", "a_mask.png", "b_mask.png", "sub/x.png")
    (bad,) = bad_rows(photos, ManifestOptions(masks=tmp_path / "holes"))
    assert bad.where.endswith("holes/sub/x.png")
    assert "there is no sub/x.png" in bad.reason


def test_two_masks_for_one_image_are_a_bad_row(photos: Path) -> None:
    put(photos, "a.png", "a_mask.png", "a_mask.jpg")
    (bad,) = bad_rows(photos)
    assert "has 2 masks, a_mask.jpg, a_mask.png; keep one" in bad.reason


def _loop_of_links(photos: Path) -> None:
    (photos / "b.png").symlink_to("c.png")
    (photos / "c.png").symlink_to("b.png")


def _folder_that_holds_itself(photos: Path) -> None:
    (photos / "sub").mkdir()
    (photos / "sub" / "again").symlink_to(photos)


def _folders_that_hold_each_other(photos: Path) -> None:
    put(photos, "one/x.png", "two/y.png")
    (photos / "one" / "other").symlink_to(photos / "two")
    (photos / "two" / "other").symlink_to(photos / "one")


def _link_out(photos: Path) -> None:
    put(photos.parent, "secret/s.png")
    (photos / "b.png").symlink_to(photos.parent / "secret" / "s.png")


def _folder_out(photos: Path) -> None:
    put(photos.parent, "secret/s.png")
    (photos / "b").symlink_to(photos.parent / "secret")


def _broken_link(photos: Path) -> None:
    (photos / "b.png").symlink_to("gone.png")


def _empty(photos: Path) -> None:
    (photos / "b.png").touch()


def _pipe(photos: Path) -> None:
    os.mkfifo(photos / "b.png")


def _socket(photos: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(photos / "b.png"))


def _not_utf8(photos: Path) -> None:
    shutil.copy(photos / "a.png", photos / os.fsdecode(b"b\xff.png"))


def _folder_not_utf8(photos: Path) -> None:
    put(photos, os.fsdecode(b"b\xff") + "/c.png")


@pytest.mark.parametrize(
    ("make", "reasons"),
    [
        (_loop_of_links, ["is a link in a circle"] * 2),
        (_folder_that_holds_itself, ["is a link in a circle: it leads to a folder that it lies in"]),
        (_folders_that_hold_each_other, ["is a link to a folder that is read already"] * 2),
        (_link_out, ["is a link that leads out of photos/"]),
        (_folder_out, ["is a link that leads out of photos/"]),
        (_broken_link, ["is a link to a file that does not exist"]),
        (_empty, ["is an empty file"]),
        (_pipe, ["is not a regular file"]),
        (_socket, ["is not a regular file"]),
        (_not_utf8, ["has a name that is not UTF-8"]),
        (_folder_not_utf8, ["has a name that is not UTF-8"]),
    ],
)
def test_what_cannot_be_read_is_a_bad_row_and_the_others_go_on(
    photos: Path, make: Callable[[Path], None], reasons: list[str]
) -> None:
    put(photos, "a.png")
    make(photos)
    rows = read(photos)
    bad = [row for row in rows if isinstance(row, BadRow)]
    assert len(bad) == len(reasons)
    for row, reason in zip(bad, reasons, strict=True):
        assert row.reason.startswith(reason)
        assert row.field == "image"
        (row.where + row.value).encode()
    assert "a" in [row.custom_id for row in rows if isinstance(row, ManifestRow)]


def test_a_mask_that_cannot_be_read_names_the_mask(photos: Path) -> None:
    put(photos, "a.png")
    (photos / "a_mask.png").touch()
    (bad,) = bad_rows(photos)
    assert (bad.field, bad.where) == ("mask_image", "photos/a.png")
    assert "its mask a_mask.png is an empty file" in bad.reason


def test_links_inside_the_folder_and_below_a_given_root_are_followed(photos: Path, tmp_path: Path) -> None:
    put(photos, "a.png")
    put(tmp_path, "pool/p.png", "pool/q.png")
    (photos / "b.png").symlink_to("a.png")
    (photos / "c.png").symlink_to(tmp_path / "pool" / "p.png")
    (photos / "more").symlink_to(tmp_path / "pool")
    assert set(pairs(photos, ManifestOptions(root=tmp_path))) == {"a", "b", "c", "more/p", "more/q"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"caf\xe9", "byte 4 is not UTF-8"), (b"x" * 50_000, "is longer than the 10000"), (b"a\x00b", "NUL")],
)
def test_a_prompt_that_cannot_be_one_is_a_bad_row(photos: Path, data: bytes, reason: str) -> None:
    put(photos, "a.png")
    (photos / "a.txt").write_bytes(data)
    (bad,) = bad_rows(photos)
    assert (bad.field, bad.where) == ("prompt", "photos/a.txt")
    assert reason in bad.reason


def test_an_empty_folder_is_an_error_that_says_what_is_looked_for(photos: Path) -> None:
    (photos / "readme.txt").write_text("x")
    (photos / "._a.png").touch()
    for options in (DEFAULT, ManifestOptions(mask="https://example.com/m.png"), ManifestOptions(masks=photos)):
        with pytest.raises(ManifestError, match=r"photos holds no images \(.png, .jpg, .jpeg, .webp\)"):
            open_manifest(str(photos), options)


@pytest.mark.parametrize("option", ["masks", "root"])
def test_a_folder_that_is_not_there_is_named(photos: Path, option: str) -> None:
    put(photos, "a.png")
    options = {"masks": ManifestOptions(masks=photos / "gone"), "root": ManifestOptions(root=photos / "gone")}
    with pytest.raises(ManifestError, match=r"there is no folder .*photos/gone"):
        open_manifest(str(photos), options[option])


def test_the_server_reads_no_folder_of_its_own(photos: Path) -> None:
    put(photos, "a.png")
    with pytest.raises(ManifestError, match="the server cannot read your files"):
        open_folder(str(photos), ManifestOptions(local_files=False), None)


def test_a_folder_that_vanishes_while_it_is_read_ends_the_reading(photos: Path) -> None:
    put(photos, "a.png")
    manifest = open_manifest(str(photos), DEFAULT)
    shutil.rmtree(photos)
    with pytest.raises(ManifestError, match="photos cannot be read"):
        list(manifest.rows())


def test_folders_nested_deeper_than_python_calls_are_read(photos: Path) -> None:
    put(photos, "a.png")
    inner = photos
    for _ in range(1200):
        inner = inner / "d"
        inner.mkdir()
    try:
        assert [row.custom_id for row in read(photos)] == ["a"]
    finally:
        while inner != photos:  # shutil.rmtree is the one that cannot
            inner.rmdir()
            inner = inner.parent


def test_of_many_files_only_one_folders_names_are_in_memory(photos: Path) -> None:
    for part in range(30):
        (photos / f"{part:02}").mkdir()
        for n in range(50):
            for name in (f"{n:04}.png", f"{n:04}_mask.png"):
                (photos / f"{part:02}" / name).write_bytes(b"x")
    manifest = open_manifest(str(photos), DEFAULT)
    tracemalloc.start()
    try:
        count = sum(isinstance(row, ManifestRow) for row in manifest.rows())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 1500
    assert peak < 500_000, "the paths of 3,000 files and their rows would take a megabyte"
