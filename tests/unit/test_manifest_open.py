"""How the form of a manifest is told, and manifests that come through stdin."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.manifest.open import open_manifest
from producer.manifest.options import Form, ManifestOptions
from tests.support.manifests import error, good, read, write

URL = "https://x.example/1.png"
CSV = f"image,sku\n{URL},1\n"
TSV = CSV.replace(",", "\t")
JSONL = f'{{"image": "{URL}"}}\n'
READ = """
import sys
from producer.manifest.open import open_manifest
from producer.manifest.options import Form, ManifestOptions
from producer.manifest.row import ManifestError
try:
    manifest = open_manifest("-", ManifestOptions(form=Form(sys.argv[1]) if sys.argv[1:] else None))
    rows = list(manifest.rows())
    print(manifest.form, manifest.name, len(rows), rows[0].where, rows[0].body["image"])
    list(manifest.rows())
except ManifestError as error:
    print(error.message)
"""


def piped(content: bytes, *form: str) -> list[str]:
    command = [sys.executable, "-c", READ, *form]
    return subprocess.run(command, input=content, capture_output=True, check=True).stdout.decode().splitlines()


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("a.jsonl", JSONL, Form.JSONL),
        ("a.NDJSON", JSONL, Form.JSONL),
        ("a.json.gz", gzip.compress(JSONL.encode()), Form.JSONL),
        ("a.csv", CSV, Form.CSV),
        ("a.tsv.gz", gzip.compress(TSV.encode()), Form.TSV),
        ("rows", JSONL, Form.JSONL),
        ("rows.txt", CSV, Form.CSV),
        ("rows.txt", "\ufeff\n" + TSV, Form.TSV),
        ("rows.gz", gzip.compress(TSV.encode()), Form.TSV),
    ],
)
def test_the_form_is_told_by_the_name_else_by_the_content(
    tmp_path: Path, name: str, content: str | bytes, form: Form
) -> None:
    manifest = open_manifest(str(write(tmp_path, name, content)), ManifestOptions())
    assert (manifest.form, manifest.name) == (form, name)
    for _ in range(2):  # each pass is a fresh one
        assert [row.number for row in manifest.rows()] == [1]


def test_parquet_is_told_by_its_content_and_the_users_word_wins_over_a_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [URL]}), tmp_path / "rows.bin")
    assert open_manifest(str(tmp_path / "rows.bin"), ManifestOptions()).form is Form.PARQUET
    path = write(tmp_path, "t.csv", TSV)
    manifest = open_manifest(str(path), ManifestOptions(form=Form.TSV))
    assert (manifest.form, len(list(manifest.rows()))) == (Form.TSV, 1)


def test_a_manifest_that_is_not_there_or_no_file_says_so(tmp_path: Path) -> None:
    assert "there is no file or folder" in error(tmp_path / "missing.csv")
    assert "there is no file or folder" in error("nul\x00.csv")
    assert "is a folder that holds no csv file" in error(tmp_path, form=Form.CSV)
    assert "/dev/null' is neither a file nor a folder" in error("/dev/null")
    assert "cannot be read here" in error("s3://bucket/t.csv")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    assert "there is no file or folder" in error(tmp_path / "loop.csv")
    assert error(write(tmp_path, "rows", "")) == "rows holds no rows"
    assert "ends too early" in error(write(tmp_path, "rows", gzip.compress(CSV.encode())[:12]))


def test_a_folder_of_parts_is_one_table_whose_rows_are_numbered_through(tmp_path: Path) -> None:
    for number, rows in enumerate([2, 0, 3]):
        table = pa.table({"image": pa.array([f"{URL}?{number}"] * rows, pa.string())})
        pq.write_table(table, tmp_path / f"part-{number}.parquet")
    write(tmp_path, "_SUCCESS", "")
    write(tmp_path, ".part-0.parquet.crc", "crc")
    manifest = open_manifest(str(tmp_path), ManifestOptions())
    assert (manifest.form, manifest.name) == (Form.PARQUET, tmp_path.name)
    rows_of_parts = good(tmp_path)
    assert [row.number for row in rows_of_parts] == [1, 2, 3, 4, 5]
    assert [row.where for row in rows_of_parts][1:3] == ["part-0.parquet, row 2", "part-2.parquet, row 1"]


def test_parts_of_text_count_lines_in_each_and_bad_rows_too(tmp_path: Path) -> None:
    write(tmp_path, "1.csv", CSV + "ragged\n")
    write(tmp_path, "2.csv.gz", gzip.compress(CSV.encode()))
    found = [(row.number, row.where) for row in read(tmp_path)]
    assert found == [(1, "1.csv, line 2"), (2, "1.csv, line 3"), (3, "2.csv.gz, line 2")]
    write(tmp_path, "3.jsonl", JSONL)
    assert "holds tables of several forms (csv, jsonl); say which: --form FORM" in error(tmp_path)
    assert [row.number for row in good(tmp_path, form=Form.JSONL)] == [1]


def test_parts_without_a_row_and_a_part_with_a_wrong_header_are_errors(tmp_path: Path) -> None:
    write(tmp_path / "none", "1.csv", "image\n")
    assert error(tmp_path / "none") == "none holds no rows"
    write(tmp_path / "wrong", "1.csv", CSV)
    write(tmp_path / "wrong", "2.csv", "picture\nx\n")
    assert error(tmp_path / "wrong").startswith("2.csv: no column is the image")


@pytest.mark.parametrize(
    ("content", "form"),
    [(JSONL.encode(), "jsonl"), (CSV.encode(), "csv"), (gzip.compress(TSV.encode()), "tsv")],
    ids=["jsonl", "csv", "tsv.gz"],
)
def test_stdin_is_told_by_its_content_and_can_be_read_once(content: bytes, form: str) -> None:
    line = "1" if form == "jsonl" else "2"
    first, second = piped(content)
    assert first == f"{form} stdin 1 stdin, line {line} {URL}"
    assert second == "stdin can be read only once; write it to a file and name that"


def test_a_long_stdin_is_read_to_its_end() -> None:
    content = CSV.encode() + f"{URL},2\n".encode() * 50_000
    assert piped(gzip.compress(content), "csv")[0] == f"csv stdin 50001 stdin, line 2 {URL}"


def test_stdin_that_is_empty_or_parquet_says_what_to_do(tmp_path: Path) -> None:
    assert piped(b"") == ["stdin holds no rows"]
    pq.write_table(pa.table({"image": [URL]}), tmp_path / "t.parquet")
    expected = ["parquet cannot be read from stdin; write it to a file or folder and name that"]
    assert piped((tmp_path / "t.parquet").read_bytes()) == expected
