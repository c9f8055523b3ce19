"""Manifests as Parquet, good and bad."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer.manifest.row import BadRow, ManifestRow
from tests.support.manifests import bad, error, good, read, write

URL = "https://x.example/1.png"


def table(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table({"image": [URL] * len(next(iter(columns.values()))), **columns}), folder / "t.parquet")
    return folder / "t.parquet"


def test_a_table_that_pandas_wrote_is_read_back_the_same(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "custom_id": [101, 102],
            "image": [URL, "s3://b/2.png"],
            "prompt": pd.Categorical(["a vase", None]),
            "num_inference_steps": [28, None],  # becomes floats
            "seed": ["7", ""],
            "enable_safety_checker": [True, False],
            "loras": [[{"path": "a/b", "scale": 0.5}], None],
            "sku": ["A-1", None],
            "price": [12.5, float("nan")],
            "day": pd.to_datetime(["2026-01-02", None]),
        },
        index=["x", "y"],
    )
    frame.to_parquet(tmp_path / "t.parquet")
    first, second = good(tmp_path / "t.parquet")
    assert first.body == {
        "image": URL,
        "prompt": "a vase",
        "num_inference_steps": 28,
        "seed": 7,
        "enable_safety_checker": True,
        "loras": [{"path": "a/b", "scale": 0.5}],
    }
    assert type(first.body["num_inference_steps"]) is int
    assert second.body == {"image": "s3://b/2.png", "enable_safety_checker": False}
    assert (first.custom_id, second.custom_id) == ("101", "102")
    assert first.extra == {"sku": "A-1", "price": 12.5, "day": "2026-01-02T00:00:00"}
    assert second.extra == {"sku": None, "price": None, "day": None}
    assert (second.number, second.where) == (2, "t.parquet, row 2")


PLAIN = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(rows=st.lists(st.tuples(PLAIN, st.none() | st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=8))
def test_any_text_and_integer_comes_back_the_same(tmp_path: Path, rows: list[tuple[str, int | None]]) -> None:
    path = table(tmp_path, prompt=[row[0] for row in rows], note=pa.array([row[1] for row in rows], pa.int64()))
    assert [(row.body["prompt"], row.extra["note"]) for row in good(path)] == rows


def test_every_other_type_passes_through_as_a_json_value(tmp_path: Path) -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC)
    path = table(
        tmp_path,
        large=pa.array(["x"], pa.large_string()),
        view=pa.array(["x"], pa.string_view()),
        coded=pa.array(["x"]).dictionary_encode(),
        nanos=pa.array([1_767_323_045_678_901_234], pa.timestamp("ns")),
        zoned=pa.array([moment], pa.timestamp("ms", "Europe/Paris")),
        date=pa.array([moment.date()]),
        far=pa.array([9_000_000], pa.date32()),
        time=pa.array([1], pa.time64("ns")),
        took=pa.array([1_500_000_000], pa.duration("ns")),
        price=pa.array([decimal.Decimal("12.50")]),
        exact=pa.array([decimal.Decimal("0.12345678901234567890")]),
        huge=pa.array([2**64 - 1], pa.uint64()),
        half=pa.array([0.5], pa.float16()),
        infinite=pa.array([float("inf")]),
        nothing=pa.nulls(1),
        nested=pa.array([{"a": [1.5, float("nan")], "b": {"c": decimal.Decimal("1")}}]),
        pairs=pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
    )
    (row,) = good(path)
    assert json.loads(json.dumps(row.extra, allow_nan=False)) == {
        "large": "x",
        "view": "x",
        "coded": "x",
        "nanos": "2026-01-02T03:04:05.678901",
        "zoned": "2026-01-02T03:04:05.678000+00:00",
        "date": "2026-01-02",
        "far": "26611-03-02",
        "time": "00:00:00",
        "took": 1.5,
        "price": 12.5,
        "exact": "0.12345678901234567890",
        "huge": 2**64 - 1,
        "half": 0.5,
        "infinite": None,
        "nothing": None,
        "nested": {"a": [1.5, None], "b": {"c": 1}},
        "pairs": {"k": 1},
    }


def test_images_inside_the_table_come_along_as_the_datasets_library_writes_them(tmp_path: Path) -> None:
    images = [
        {"bytes": b"one", "path": "a/b/1.png"},
        {"bytes": b"two", "path": None},
        {"bytes": None, "path": URL},
        {"bytes": b"", "path": "4.png"},
        None,
    ]
    masks = pa.array([b"m1", None, None, None, None], pa.large_binary())
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": images, "mask_image": masks, "thumbnail": masks, "note": list("abcde")}), path)
    one, two, three, four, five = read(path)
    assert isinstance(one, ManifestRow)
    assert (one.files["image"].open().read(), one.files["image"].name) == (b"one", "1.png")
    assert one.files["mask_image"].open().read() == b"m1"
    assert (dict(one.body), one.extra) == ({}, {"note": "a"})  # bytes cannot stand in the results
    assert isinstance(two, ManifestRow)
    assert two.files["image"].open().read() == b"two"
    assert isinstance(three, ManifestRow)
    assert (three.body, dict(three.files)) == ({"image": URL}, {})
    assert isinstance(four, BadRow)
    assert (four.field, four.where) == ("image", "t.parquet, row 4")
    assert "holds no bytes" in four.reason
    assert isinstance(five, ManifestRow)
    assert not five.body


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("image", [1], "holds int64, but image needs text (a URL or path), or the bytes of image files"),
        ("image", [{"url": URL}], "holds struct<url: string>, but image needs text"),
        ("mask_image", [[URL]], "holds list<element: string>, but mask_image needs text"),
        ("prompt", [b"x"], "holds binary, but prompt needs text"),
        ("size", [1024], "holds int64, but size needs text"),
        ("seed", [True], "holds bool, but seed needs numbers"),
        ("guidance_scale", [[30.0]], "but guidance_scale needs numbers"),
        ("enable_safety_checker", [1], "holds int64, but enable_safety_checker needs true or false"),
        ("loras", [["a/b"]], "but loras needs a list of {path, scale}"),
        ("custom_id", [b"x"], "holds binary, but custom_id needs text or whole numbers"),
    ],
)
def test_a_column_of_the_wrong_type_stops_the_table_naming_column_and_type(
    tmp_path: Path, column: str, values: list[Any], words: str
) -> None:
    message = error(table(tmp_path, **{column: values}))
    assert message.startswith(f"t.parquet: the column '{column}' holds ")
    assert words in message
    assert message.endswith("convert it, or take another column")


def test_the_header_is_judged_as_that_of_any_table(tmp_path: Path) -> None:
    assert "looks like the field prompt" in error(table(tmp_path, promt=["x"]))
    pq.write_table(pa.table({"url": [URL]}), tmp_path / "u.parquet")
    assert "its columns are 'url'" in error(tmp_path / "u.parquet")
    assert good(tmp_path / "u.parquet", columns={"image": "url"})[0].body == {"image": URL}
    twice = pa.Table.from_arrays([pa.array([URL]), pa.array([URL])], names=["image", "image"])
    pq.write_table(twice, tmp_path / "w.parquet")
    assert "two columns are called 'image'" in error(tmp_path / "w.parquet")


def test_text_that_is_not_utf8_and_nul_are_bad_rows_and_the_others_go_on(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"caf\xe9", b"n\x00l", b"fine"])
    path = table(tmp_path, note=pa.StringArray.from_buffers(4, raw.buffers()[1], raw.buffers()[2]))
    first, second, third, fourth = read(path)
    assert isinstance(second, BadRow)
    assert (second.field, second.where) == ("note", "t.parquet, row 2")
    assert "is not UTF-8" in second.reason
    assert isinstance(third, BadRow)
    assert "NUL" in third.reason
    assert isinstance(first, ManifestRow)
    assert isinstance(fourth, ManifestRow)
    assert "NUL" in bad(table(tmp_path, note=["n\x00l"]))[0].reason
    assert "NUL" in bad(table(tmp_path, note=[["n\x00l"]]))[0].reason


def test_a_truncated_file_says_that_it_ends_too_early(tmp_path: Path) -> None:
    whole = table(tmp_path, note=list(range(1000))).read_bytes()
    for length in (len(whole) // 2, len(whole) - 1, 4, 9):
        message = error(write(tmp_path, "cut.parquet", whole[:length]))
        assert message.startswith("cut.parquet ends too early, or is damaged")
        assert "copy it again" in message
    assert error(write(tmp_path, "empty.parquet", b"")) == "empty.parquet holds no rows: it is empty"
    assert "is no Parquet file" in error(write(tmp_path, "text.parquet", "image\n" + URL))


def test_damage_in_the_middle_names_the_last_good_row(tmp_path: Path) -> None:
    rows = pa.table({"image": [f"{URL}?{i}" for i in range(20_000)]})
    path = tmp_path / "t.parquet"
    pq.write_table(rows, path, row_group_size=5000, compression="snappy", use_dictionary=False)
    third = pq.ParquetFile(path).metadata.row_group(2).column(0)
    data = bytearray(path.read_bytes())
    data[third.data_page_offset : third.data_page_offset + third.total_compressed_size] = (
        b"\xff" * third.total_compressed_size
    )
    message = error(write(tmp_path, "damaged.parquet", bytes(data)))
    assert message.startswith("damaged.parquet ends too early, or is damaged: row ")
    assert "is the last good one; copy it again" in message


def test_a_table_without_rows_says_so(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([], pa.string())}), tmp_path / "t.parquet")
    assert error(tmp_path / "t.parquet") == "t.parquet holds no rows"


def test_rows_are_numbered_through_all_row_groups_and_each_pass_is_fresh(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [URL] * 10_001}), tmp_path / "t.parquet", row_group_size=999)
    for _ in range(2):
        assert [row.number for row in good(tmp_path / "t.parquet")] == list(range(1, 10_002))
