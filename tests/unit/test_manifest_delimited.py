"""Manifests as CSV and TSV, good and bad."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer.manifest import text
from producer.manifest.options import Form
from producer.manifest.row import BadRow, ManifestRow
from tests.support.manifests import bad, error, good, read, write

HEADER = "image,prompt,sku\n"


def test_a_table_that_pandas_wrote_as_csv_tsv_and_gzipped_is_read_back_the_same(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "custom_id": [101, 102],
            "image": ["https://x.example/1.png", "s3://b/2.png"],
            "prompt": ['a "red" vase,\nwith a line break', "ünïcödé\tand a tab"],
            "num_inference_steps": [28, None],  # becomes floats
            "enable_safety_checker": [True, False],
            "loras": ["a/b:0.5;https://x.example/c.safetensors:1", None],
            "sku": ["A-1", None],
        }
    )
    bodies = [
        {
            "image": "https://x.example/1.png",
            "prompt": 'a "red" vase,\nwith a line break',
            "num_inference_steps": 28,
            "enable_safety_checker": True,
            "loras": [{"path": "a/b", "scale": 0.5}, {"path": "https://x.example/c.safetensors", "scale": 1}],
        },
        {"image": "s3://b/2.png", "prompt": "ünïcödé\tand a tab", "enable_safety_checker": False},
    ]
    for name, separator in (("t.csv", ","), ("t.tsv", "\t"), ("t.csv.gz", ","), ("t.tsv.gz", "\t")):
        table.to_csv(tmp_path / name, sep=separator)  # with the index, as people do
        rows = good(tmp_path / name)
        assert [row.body for row in rows] == bodies
        assert [row.custom_id for row in rows] == ["101", "102"]
        assert [row.extra for row in rows] == [{"sku": "A-1"}, {"sku": ""}]
        assert [row.where for row in rows] == [f"{name}, line 2", f"{name}, line 4"]
        assert [row.number for row in rows] == [1, 2]


cells = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=5), separator=st.sampled_from(",\t"))
def test_any_text_that_the_csv_module_writes_comes_back_the_same(
    tmp_path: Path, rows: list[tuple[str, str]], separator: str
) -> None:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator)
    writer.writerow(["image", "prompt", "note"])
    writer.writerows([("https://x.example/1.png", *row) for row in rows])
    path = write(tmp_path, "any.tsv" if separator == "\t" else "any.csv", file.getvalue())
    assert [(row.body.get("prompt", ""), row.extra["note"]) for row in good(path)] == rows


def test_a_bom_crlf_and_blank_lines_change_nothing(tmp_path: Path) -> None:
    path = write(
        tmp_path, "t.csv", "\ufeffimage,sku\r\n\r\nhttps://x.example/1.png,1\r\n\r\nhttps://x.example/2.png,2\r\n"
    )
    rows = good(path)
    assert [row.extra for row in rows] == [{"sku": "1"}, {"sku": "2"}]
    assert [row.where for row in rows] == ["t.csv, line 3", "t.csv, line 5"]


def test_an_empty_cell_leaves_the_field_out_so_that_the_constant_holds(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", HEADER + "https://x.example/1.png,,1\nhttps://x.example/2.png,own,2\n")
    assert [row.body["prompt"] for row in good(path, constants={"prompt": "a cat"})] == ["a cat", "own"]
    assert "prompt" not in good(path)[0].body


def test_a_ragged_row_is_a_bad_one_that_names_the_cells_and_the_others_go_on(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "t.csv",
        HEADER + "https://x.example/1.png,a, b,1\nhttps://x.example/2.png,b\nhttps://x.example/3.png,c,3\n",
    )
    first, second, third = read(path)
    assert isinstance(first, BadRow)
    assert (first.number, first.where, first.field) == (1, "t.csv, line 2", "row")
    assert "has 4 cells, but the header has 3 cells" in first.reason
    assert "quotation marks" in first.reason
    assert isinstance(second, BadRow)
    assert "has 2 cells" in second.reason
    assert isinstance(third, ManifestRow)
    assert third.number == 3


def test_a_table_without_rows_says_so(tmp_path: Path) -> None:
    for content in ("", HEADER, HEADER + "\n\n", "\ufeff", "\n"):
        assert error(write(tmp_path, "t.csv", content)).startswith("t.csv holds no rows")


def test_bytes_that_are_not_utf8_and_nul_make_a_bad_row_that_names_the_line(tmp_path: Path) -> None:
    content = (
        HEADER.encode() + b'https://x.example/1.png,"two\nlines caf\xe9",1\nu,b\x00c,2\nhttps://x.example/3.png,c,3\n'
    )
    first, second, third = read(write(tmp_path, "t.csv", content))
    assert isinstance(first, BadRow)
    assert first.where == "t.csv, lines 2 to 3"
    assert first.reason == "line 3: byte 10 is not UTF-8; save the file as UTF-8"
    assert isinstance(second, BadRow)
    assert "line 4 holds a NUL character" in second.reason
    assert isinstance(third, ManifestRow)


def test_a_header_that_is_not_utf8_stops_the_table(tmp_path: Path) -> None:
    message = error(write(tmp_path, "t.csv", b"image,caf\xe9\nu,1\n"))
    assert message.startswith("t.csv, line 1: the header cannot be read")
    assert "UTF-8" in message


def test_what_excel_saves_as_unicode_text_or_a_workbook_is_told_apart(tmp_path: Path) -> None:
    assert "is text in UTF-16; save it as UTF-8" in error(write(tmp_path, "t.csv", HEADER.encode("utf-16")))
    assert "Excel workbook" in error(write(tmp_path, "t.csv", b"PK\x03\x04 and so on"))


@pytest.mark.parametrize(
    ("separator", "words"), [(";", "semicolons; save it with commas"), ("\t", "tabs; say --form tsv")]
)
def test_another_separator_is_recognised(tmp_path: Path, separator: str, words: str) -> None:
    path = write(tmp_path, "t.csv", HEADER.replace(",", separator) + separator.join("abc") + "\n")
    assert error(path) == f"t.csv: its columns seem to be separated by {words}"
    assert len(good(write(tmp_path, "s.tsv", "image\thue\nhttps://x.example/1.png\t3\n"), form=Form.TSV)) == 1


def test_text_after_a_closing_quotation_mark_is_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", HEADER + 'https://x.example/1.png,"a" b,1\nhttps://x.example/2.png,12" pipe,2\n')
    first, second = read(path)
    assert isinstance(first, BadRow)
    assert first.where == "t.csv, line 2"
    assert "closing quotation mark" in first.reason
    assert isinstance(second, ManifestRow)
    assert second.body["prompt"] == '12" pipe'


def test_a_quotation_mark_that_is_never_closed_stops_the_table_at_its_row(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", HEADER + 'https://x.example/1.png,"a,1\nhttps://x.example/2.png,b,2\n')
    assert error(path).startswith("t.csv ends inside a cell of the row at line 2: close its quotation mark")
    long = "https://x.example/2.png,b,2\n" * 10_000
    path = write(tmp_path, "t.csv", HEADER + 'https://x.example/1.png,"a,1\n' + long)
    assert "the row at line 2 has a cell of more than" in error(path)


def test_a_row_without_end_is_an_error_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_RECORD_BYTES", 2**20)
    path = write(tmp_path, "t.csv", HEADER + "https://x.example/1.png,ok,1\n" + "x," * 2**20)
    message = error(path)
    assert message.startswith("t.csv, line 3: this row is longer than 1 MiB")
    path = write(tmp_path, "t.csv", HEADER + '"\n",' * 2**19)  # one row over any number of lines
    assert "this row is longer than 1 MiB" in error(path)


def test_a_truncated_or_damaged_gz_names_the_last_good_row(tmp_path: Path) -> None:
    lines = "".join(f"https://x.example/{i}.png,prompt {i * 7919 % 1000},{i}\n" for i in range(5000))
    whole = gzip.compress((HEADER + lines).encode())
    message = error(write(tmp_path, "t.csv.gz", whole[: len(whole) // 2]))
    assert message.startswith("t.csv.gz ends too early after line ")
    assert "is the last good one); copy it again" in message
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 0xFF
    message = error(write(tmp_path, "t.csv.gz", bytes(broken)))
    assert message.startswith("t.csv.gz is damaged after line ")
    assert "copy it again" in message


def test_gz_is_told_by_its_bytes_whatever_the_name(tmp_path: Path) -> None:
    plain = HEADER + "https://x.example/1.png,a,1\n"
    assert len(good(write(tmp_path, "t.csv", gzip.compress(plain.encode())))) == 1
    assert len(good(write(tmp_path, "t.csv.gz", plain))) == 1


def test_a_custom_id_that_is_too_long_is_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "custom_id,image\n" + "x" * 600 + ",https://x.example/1.png\n")
    (row,) = bad(path)
    assert (row.field, row.number) == ("custom_id", 1)
    assert "512" in row.reason
