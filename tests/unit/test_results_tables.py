"""The results table in its forms, read as users read it: pandas and DuckDB see the same values in all three."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import FillfleetError
from producer.results.columns import Row, column_names
from producer.results.csv import write_csv
from producer.results.ndjson import read_ndjson, time_text, write_ndjson
from producer.results.parquet import write_parquet
from producer.results.row import flatten
from producer.results.schema import table_schema
from tests.support.results import AWKWARD, BUCKET, stored_job, stored_jobs

EXTRAS = ["sku", "price", "Status", "tags"]
COUNT = 200


def table(count: int = COUNT) -> list[Row]:
    """Return rows of every kind."""
    return [flatten(job, bucket=BUCKET) for job in stored_jobs(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same table in all forms."""
    target = tmp_path_factory.mktemp("tables")
    (target / "t.jsonl").write_bytes(b"".join(write_ndjson(table())))
    (target / "t.csv").write_bytes(b"".join(write_csv(table(), EXTRAS)))
    (target / "t.parquet").write_bytes(b"".join(write_parquet(table(), EXTRAS, group_rows=64)))
    return target


def asked(question: str) -> list[tuple[Any, ...]]:
    """Return DuckDB's answer."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return list(connection.execute(question).fetchall())


def as_text(row: Row, name: str) -> str:
    """Return what the cell of a CSV says."""
    value = row[name]
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if name.endswith("_at"):
        return time_text(value)
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return str(value)


def test_ndjson_is_one_object_a_line_that_comes_back_as_it_was() -> None:
    lines = b"".join(write_ndjson(table())).splitlines()
    assert len(lines) == COUNT
    assert list(read_ndjson(lines)) == table()
    first = json.loads(lines[0])
    assert first["created_at"] == "2026-05-01T08:00:00.250001Z"
    assert first["extra"]["tags"] == ["a", "ü"]
    assert isinstance(first["model_version"], dict)


@pytest.mark.parametrize("line", ['{"row": 1', "[]", "", "3"])
def test_a_line_that_is_cut_off_is_named(line: str) -> None:
    with pytest.raises(FillfleetError, match="line 2 of the results"):
        list(read_ndjson(["{}", line]))


def test_parquet_holds_every_value_with_its_type(folder: Path) -> None:
    read = pq.read_table(folder / "t.parquet")
    assert read.schema.equals(table_schema(EXTRAS))
    rows = read.to_pylist()
    assert len(rows) == COUNT
    for got, row in zip(rows, table(), strict=True):
        wanted = {name: row[name] for name in column_names()}
        if wanted["model_version"] is not None:
            wanted["model_version"] = json.dumps(wanted["model_version"], separators=(",", ":"))
        assert {name: got[name] for name in column_names()} == wanted


def test_parquet_has_row_groups_and_zstd(folder: Path) -> None:
    metadata = pq.read_metadata(folder / "t.parquet")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [64, 64, 64, 8]
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_passthrough_columns_are_text_with_json_for_what_is_none(folder: Path) -> None:
    rows = pq.read_table(folder / "t.parquet").to_pylist()
    assert [rows[0][name] for name in ("sku", "price", "extra_Status", "tags")] == ["000001", "1.5", "new", '["a","ü"]']
    assert [rows[6][name] for name in ("sku", "price", "extra_Status", "tags")] == [None] * 4


def test_csv_quotes_as_the_rfc_says_and_alters_no_value(folder: Path) -> None:
    data = (folder / "t.csv").read_bytes()
    assert not data.startswith(b"\xef\xbb\xbf")
    read = list(csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True))
    assert len(read) == COUNT
    for got, row in zip(read, table(), strict=True):
        assert {name: got[name] for name in column_names()} == {name: as_text(row, name) for name in column_names()}
    assert {row["prompt"] for row in read} == set(AWKWARD)
    assert read[0]["sku"] == "000001"


def test_pandas_reads_the_same_from_every_form(folder: Path) -> None:
    parquet = pd.read_parquet(folder / "t.parquet")
    lines = pd.read_json(folder / "t.jsonl", lines=True, dtype=False)
    cells = pd.read_csv(folder / "t.csv", dtype={"sku": str}, keep_default_na=False)
    assert len(parquet) == len(lines) == len(cells) == COUNT
    assert list(parquet["prompt"]) == list(lines["prompt"]) == list(cells["prompt"])
    assert list(parquet["seed"]) == list(lines["seed"]) == list(cells["seed"])
    assert str(parquet["created_at"].dtype) == "datetime64[us, UTC]"
    assert list(parquet["created_at"]) == list(pd.to_datetime(lines["created_at"], utc=True))
    assert list(parquet["created_at"]) == list(pd.to_datetime(cells["created_at"], utc=True))
    done = parquet["status"] == "completed"
    outputs = [list(value) for value in parquet["outputs"][done]]
    assert outputs == list(lines["outputs"][done]) == [json.loads(cell) for cell in cells["outputs"][done]]
    assert parquet["outputs"][~done].isna().all()


def test_duckdb_reads_the_same_from_every_form(folder: Path) -> None:
    question = """
        SELECT status, count(*), sum(seed), max(created_at)::TIMESTAMPTZ::VARCHAR, min(coalesce(prompt, ''))
        FROM '{}' GROUP BY status ORDER BY status
    """
    answers = [asked(question.format(folder / f"t.{form}")) for form in ("parquet", "csv", "jsonl")]
    assert answers[0] == answers[1] == answers[2]
    assert [row[:2] for row in answers[0]] == [("completed", 80), ("created", 40), ("failed", 40), ("processing", 40)]
    per_output = asked(f"SELECT count(*) FROM (SELECT unnest(outputs) FROM '{folder / 't.parquet'}')")  # noqa: S608
    assert per_output == [(sum(len(row["outputs"] or ()) for row in table()),)]
    revision = f"SELECT DISTINCT model_version->>'$.revision' FROM '{folder / 't.parquet'}' WHERE outputs IS NOT NULL"  # noqa: S608
    assert asked(revision) == [("r1",)]
    mixed = f"SELECT status, extra_Status FROM '{folder / 't.parquet'}' WHERE row = 1"  # noqa: S608
    assert asked(mixed) == [("completed", "new")]


def test_a_table_without_rows_has_its_columns() -> None:
    assert b"".join(write_ndjson([])) == b""
    assert b"".join(write_csv([], ["sku"])).decode().rstrip("\r\n").split(",") == [*column_names(), "sku"]
    empty = pq.read_table(pa.BufferReader(b"".join(write_parquet([], ["sku"]))))
    assert empty.num_rows == 0
    assert empty.schema.equals(table_schema(["sku"]))


@pytest.mark.parametrize("write", [write_ndjson, write_csv, write_parquet])
def test_a_table_comes_in_pieces_while_its_rows_come(write: Any) -> None:
    taken = 0

    def rows() -> Iterator[Row]:
        nonlocal taken
        row = flatten(stored_job(1), bucket=BUCKET)
        while True:
            taken += 1
            yield row

    first = list(islice(write(rows()), 2))
    assert len(first) == 2
    assert all(first)
    assert taken <= 20_000


def test_a_table_that_breaks_off_is_no_parquet_file() -> None:
    def rows() -> Iterator[Row]:
        yield from table(70)
        raise FillfleetError("database_unavailable", "the database does not answer")

    pieces = write_parquet(rows(), group_rows=64)
    came = next(pieces)
    with pytest.raises(FillfleetError):
        next(pieces)
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(pa.BufferReader(came))


@pytest.mark.parametrize("write", [write_ndjson, write_csv])
def test_memory_stays_flat_however_many_rows_come(write: Any) -> None:
    row = flatten(stored_job(1), bucket=BUCKET)
    tracemalloc.start()
    try:
        size = sum(map(len, write(row for _ in range(3_000))))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 2_000_000
    assert peak < 800_000
