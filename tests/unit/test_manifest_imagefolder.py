"""Image folders with metadata, as the datasets library has them, their tables written by pandas."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas
import pytest
from PIL import Image

from producer.manifest.measure import Measure, measure
from producer.manifest.open import open_manifest
from producer.manifest.options import Form, ManifestOptions
from producer.manifest.row import BadRow, InlineContent, LocalFile, ManifestError, ManifestRow

DEFAULT = ManifestOptions()
COLUMNS: dict[str, list[Any]] = {
    "file_name": ["a.png", "sub/b.jpg"],
    "mask_file_name": ["masks/a.png", "masks/b.png"],
    "prompt": ["a café", "two\nlines"],
    "seed": [1, 2],
    "sku": ["x", "y"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the images that COLUMNS names."""
    made = tmp_path / "products"
    for name in COLUMNS["file_name"] + COLUMNS["mask_file_name"]:
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    return made


def save(folder: Path, form: str, columns: dict[str, list[Any]] | None = None) -> None:
    frame = pandas.DataFrame(columns or COLUMNS)
    if form == "jsonl":
        frame.to_json(folder / "metadata.jsonl", orient="records", lines=True)
    elif form == "csv":
        frame.to_csv(folder / "metadata.csv", index=False)
    else:
        frame.to_parquet(folder / "metadata.parquet")


def read(folder: Path, options: ManifestOptions = DEFAULT) -> list[ManifestRow | BadRow]:
    rows = list(open_manifest(str(folder), options).rows())
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    return rows


def paths(row: ManifestRow | BadRow, folder: Path) -> dict[str, str]:
    assert isinstance(row, ManifestRow), row
    files = {field: content for field, content in row.files.items() if isinstance(content, LocalFile)}
    return {field: file.path.relative_to(folder).as_posix() for field, file in files.items()}


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_metadata_names_images_masks_and_fields(folder: Path, form: str) -> None:
    save(folder, form)
    first, second = read(folder)
    assert paths(first, folder) == {"image": "a.png", "mask_image": "masks/a.png"}
    assert paths(second, folder) == {"image": "sub/b.jpg", "mask_image": "masks/b.png"}
    assert isinstance(second, ManifestRow)
    assert second.body == {"prompt": "two\nlines", "seed": 2}
    assert second.extra == {"file_name": "sub/b.jpg", "sku": "y"}
    assert first.where.startswith(f"metadata.{form}, ")


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("column", ["mask_image", "mask", "mask_image_file_name"])
def test_the_mask_may_be_called_otherwise(folder: Path, form: str, column: str) -> None:
    save(folder, form, {"file_name": ["a.png"], column: ["masks/a.png"]})
    (row,) = read(folder)
    assert paths(row, folder) == {"image": "a.png", "mask_image": "masks/a.png"}


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_metadata_without_masks_and_with_columns_of_the_users_own(folder: Path, form: str) -> None:
    save(folder, form, {"file_name": ["a.png", "gone.png"], "text": ["x", "y"], "key": ["k1", "k2"]})
    options = ManifestOptions(columns={"prompt": "text", "custom_id": "key"}, constants={"seed": 4})
    first, second = read(folder, options)
    assert isinstance(first, ManifestRow)
    assert (first.custom_id, first.body, set(first.files)) == ("k1", {"prompt": "x", "seed": 4}, {"image"})
    assert isinstance(second, BadRow)
    assert (second.number, second.field, second.value) == (2, "image", "'gone.png'")
    assert "names no file below" in second.reason


def test_each_subfolders_metadata_counts_for_that_subfolder(folder: Path) -> None:
    for part in ("train", "test"):
        (folder / part).mkdir()
        Image.new("RGB", (4, 4)).save(folder / part / "x.png")
    save(folder / "train", "csv", {"file_name": ["x.png"], "prompt": ["one"]})
    save(folder / "test", "jsonl", {"file_name": ["x.png", "y.png"], "prompt": ["two", "three"]})
    test, missing, train = read(folder)
    assert (paths(test, folder), paths(train, folder)) == ({"image": "test/x.png"}, {"image": "train/x.png"})
    assert isinstance(train, ManifestRow)
    assert train.extra == {"file_name": "train/x.png"}
    assert isinstance(missing, BadRow)
    assert missing.where == "test/metadata.jsonl, line 2"
    assert open_manifest(str(folder), DEFAULT).form is Form.IMAGEFOLDER


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_path_out_of_the_folder_is_a_bad_row(folder: Path, form: str) -> None:
    (folder.parent / "secret.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    save(folder, form, {"file_name": ["../secret.png", "link.png", "a.png"]})
    up, link, good = read(folder)
    for row in (up, link):
        assert isinstance(row, BadRow)
        assert "leads out of" in row.reason
    assert isinstance(good, ManifestRow)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_metadata_that_names_no_image_is_an_error(folder: Path, form: str) -> None:
    save(folder, form, {"text": ["x"]})
    with pytest.raises(ManifestError, match="has no column file_name"):
        open_manifest(str(folder), DEFAULT)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_misspelt_column_stops_the_table(folder: Path, form: str) -> None:
    save(folder, form, {"file_name": ["a.png"], "promt": ["x"]})
    with pytest.raises(ManifestError, match="'promt' looks like the field prompt"):
        read(folder)


@pytest.mark.parametrize(
    ("form", "data", "words"),
    [
        ("jsonl", b"", "products holds no rows"),
        ("csv", b"", "metadata.csv has no column file_name"),
        ("parquet", b"", "metadata.parquet holds no rows: it is empty|products holds no rows"),
        ("parquet", b"PAR1 cut off", "metadata.parquet"),
    ],
)
def test_broken_metadata_is_an_error_in_words(folder: Path, form: str, data: bytes, words: str) -> None:
    (folder / f"metadata.{form}").write_bytes(data)
    with pytest.raises(ManifestError, match=words):
        read(folder)


def test_two_metadata_files_in_one_folder_are_an_error(folder: Path) -> None:
    save(folder, "csv")
    save(folder, "jsonl")
    with pytest.raises(ManifestError, match="several metadata files; keep one"):
        read(folder)


def test_a_folder_without_metadata_says_what_was_looked_for(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"holds no metadata\.jsonl, metadata\.csv, metadata\.parquet"):
        open_manifest(str(folder), ManifestOptions(form=Form.IMAGEFOLDER))


# --- the measure of a row


def _row(**files: bytes) -> ManifestRow:
    return ManifestRow(1, "row 1", {}, files={field: InlineContent(data, field) for field, data in files.items()})


def _encoded(kind: str, size: tuple[int, int], **options: object) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size).save(data, kind, **options)
    return data.getvalue()


def test_the_measure_of_a_row_is_read_from_headers(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    mask = _encoded("PNG", (8, 8))
    for kind in ("PNG", "JPEG", "WEBP"):
        data = _encoded(kind, (30, 20))
        assert measure(_row(image=data, mask_image=mask)) == Measure(len(data) + len(mask), 30, 20)
        (tmp_path / "a").write_bytes(data[: len(data) // 2 + 60] if kind == "PNG" else data)
        assert measure(ManifestRow(1, "", {}, files={"image": LocalFile(tmp_path / "a", "a")})) is not None
    turned = _encoded("JPEG", (30, 20), exif=exif)
    assert measure(_row(image=turned)) == Measure(len(turned), 20, 30)


@pytest.mark.parametrize("data", [b"", b"GIF89a" + b"\0" * 50, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff" + b"x" * 50])
def test_what_is_no_image_has_no_measure(data: bytes, tmp_path: Path) -> None:
    assert measure(_row(image=data)) is None
    assert measure(ManifestRow(1, "", {"image": "https://example.com/a.png"})) is None
    assert measure(ManifestRow(1, "", {}, files={"image": LocalFile(tmp_path / "gone", "gone")})) is None
