"""Rows that name files of this machine: what is found, and what is refused."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from producer.manifest.row import LocalFile
from tests.support.manifests import bad, brought, error, good, write

URL = "https://x.example/1.png"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder data/ with photos/a.png, and a file beside data/."""
    write(tmp_path, "data/photos/a.png", b"an image")
    write(tmp_path, "data/photos/empty.png", b"")
    write(tmp_path, "outside.png", b"a secret")
    return tmp_path / "data"


def listed(folder: Path, image: str) -> Path:
    return write(folder, "t.csv", f'image\n"{image}"\n')


def test_a_relative_path_is_found_beside_the_manifest_and_comes_along_as_a_file(folder: Path) -> None:
    (row,) = good(listed(folder, "photos/a.png"))
    file = row.files["image"]
    assert isinstance(file, LocalFile)
    assert (file.name, file.path, brought(row)) == (
        "photos/a.png",
        (folder / "photos/a.png").resolve(),
        b"an image",
    )
    assert "image" not in row.body


def test_a_root_takes_the_place_of_the_manifests_own_folder(folder: Path) -> None:
    assert "image" in good(listed(folder, "a.png"), root=folder / "photos")[0].files
    assert "image" in good(listed(folder, "../data/photos/a.png"))[0].files  # out and in again stays inside


def test_an_absolute_path_that_the_user_wrote_is_taken_as_it_stands(folder: Path) -> None:
    (row,) = good(listed(folder, str(folder.parent / "outside.png")))
    assert brought(row) == b"a secret"


def test_urls_stay_in_the_row(folder: Path) -> None:
    for url in (URL, "s3://bucket/key.png", "HTTP://x.example/1.png"):
        (row,) = good(listed(folder, url))
        assert row.body["image"] == url
        assert not row.files


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("photos/missing.png", "names no file below {root}/; check the path"),
        ("photos/a.png/x", "names no file below {root}/; check the path"),
        ("/nowhere/missing.png", "names no file; check the path"),
        ("../outside.png", "leads out of {root}/"),
        ("photos/../../outside.png", "leads out of {root}/"),
        ("../../etc/missing", "leads out of {root}/"),
        ("photos/empty.png", "is an empty file"),
        ("photos", "is a folder, not a file"),
        (".", "leads out of {root}/"),
        ("x" * 5000, "too long to be a path"),
        ("ftp://x.example/a.png", "name an http, https or s3 URL"),
        ("file:///etc/passwd", "name an http, https or s3 URL"),
        ("data:image/png;base64,AAAA", "name an http, https or s3 URL"),
    ],
)
def test_a_path_that_gives_no_image_is_a_bad_row_that_says_why(folder: Path, image: str, reason: str) -> None:
    (row,) = bad(listed(folder, image))
    assert (row.field, row.number, row.where) == ("image", 1, "t.csv, line 2")
    assert reason.format(root=folder) in row.reason
    assert len(row.value) < 200


def test_a_symlink_may_not_lead_out_but_may_stay_inside(folder: Path) -> None:
    (folder / "link.png").symlink_to("photos/a.png")
    (folder / "out.png").symlink_to(folder.parent / "outside.png")
    (folder / "up").symlink_to(folder.parent)
    assert brought(good(listed(folder, "link.png"))[0]) == b"an image"
    assert "leads out of" in bad(listed(folder, "out.png"))[0].reason
    assert "leads out of" in bad(listed(folder, "up/outside.png"))[0].reason
    assert brought(good(listed(folder, "up/data/photos/a.png"))[0]) == b"an image"


def test_a_symlink_loop_is_a_bad_row(folder: Path) -> None:
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("one")
    for image in ("one", "one/a.png"):
        assert "a symlink that leads back to itself" in bad(listed(folder, image))[0].reason


def test_only_regular_files_are_read(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    assert "not a regular file" in bad(listed(folder, "pipe.png"))[0].reason
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "s"))
        assert "not a regular file" in bad(listed(folder, "s"))[0].reason


def test_a_server_looks_at_no_path_at_all(folder: Path) -> None:
    for image in ("photos/a.png", "/etc/passwd", "../outside.png"):
        (row,) = bad(listed(folder, image), local_files=False)
        assert "the server cannot read your files; name a URL" in row.reason
    assert "the server cannot read" in error(listed(folder, URL), local_files=False, mask="/etc/passwd")


def test_one_mask_serves_all_rows_that_name_none(folder: Path) -> None:
    path = write(folder, "t.csv", f"image,mask_image\n{URL},\n{URL},https://x.example/own.png\n{URL},photos/a.png\n")
    first, second, third = good(path, mask=str(folder.parent / "outside.png"))
    assert brought(first, "mask_image") == b"a secret"
    assert (second.body["mask_image"], dict(second.files)) == ("https://x.example/own.png", {})
    assert brought(third, "mask_image") == b"an image"
    first, second, _ = good(path, mask="s3://bucket/all.png")
    assert (first.body["mask_image"], second.body["mask_image"]) == ("s3://bucket/all.png", "https://x.example/own.png")


def test_one_mask_for_all_that_is_missing_stops_the_manifest(folder: Path) -> None:
    message = error(listed(folder, URL), mask="no-such-mask.png")
    assert message == "the mask for all rows, 'no-such-mask.png', names no file; check the path"


def test_a_folder_of_masks_does_not_go_with_a_table(folder: Path) -> None:
    assert "name each row's mask in a column" in error(listed(folder, URL), masks=folder)
