"""Manifests of one JSON object a line, good and bad."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer.manifest import text
from producer.manifest.row import BadRow, ManifestRow
from tests.support.manifests import bad, error, good, read, write

URL = "https://x.example/1.png"


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson", "t.json", "t.jsonl.gz"])
def test_a_table_that_pandas_wrote_as_lines_is_read_back_the_same(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame(
        {"custom_id": [1, 2], "image": [URL, URL], "prompt": ["a", None], "seed": [7.0, None], "sku": ["x", "y"]}
    )
    table.to_json(tmp_path / name, orient="records", lines=True)
    first, second = good(tmp_path / name)
    assert (first.custom_id, first.body, first.extra) == ("1", {"image": URL, "prompt": "a", "seed": 7}, {"sku": "x"})
    assert (second.custom_id, second.body, second.extra) == ("2", {"image": URL}, {"sku": "y"})
    assert second.where == f"{name}, line 2"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(passed=st.lists(values, min_size=1, max_size=4), escaped=st.booleans())
def test_any_json_value_passes_through_unchanged(tmp_path: Path, passed: list[Any], escaped: bool) -> None:
    content = "".join(json.dumps({"image": URL, "note": value}, ensure_ascii=escaped) + "\n" for value in passed)
    assert [row.extra["note"] for row in good(write(tmp_path, "any.jsonl", content))] == passed


def test_a_wrapped_row_keeps_its_body_and_passes_its_other_keys_through(tmp_path: Path) -> None:
    row = {"custom_id": "a", "method": "POST", "url": "/v1/x", "body": {"image": URL, "promt": "x", "prompt": None}}
    (found,) = good(write(tmp_path, "t.jsonl", lines(row)), constants={"prompt": "a cat"})
    assert found.custom_id == "a"
    assert found.body == {"image": URL, "promt": "x", "prompt": "a cat"}  # the intake names the unknown one
    assert found.extra == {"method": "POST", "url": "/v1/x"}


def test_keys_can_be_mapped_to_fields_in_both_styles(tmp_path: Path) -> None:
    path = write(tmp_path, "t.jsonl", lines({"id": 5, "pic": URL}, {"id": 6, "body": {"pic": URL}}))
    rows = good(path, columns={"image": "pic", "custom_id": "id"})
    assert [(row.custom_id, row.body, row.extra) for row in rows] == [
        ("5", {"image": URL}, {}),
        ("6", {"image": URL}, {}),
    ]


def test_blank_lines_are_skipped_and_line_numbers_stay_right(tmp_path: Path) -> None:
    rows = good(write(tmp_path, "t.jsonl", "\ufeff\r\n" + lines({"image": URL}) + "\n  \n" + lines({"image": URL})))
    assert [(row.number, row.where) for row in rows] == [(1, "t.jsonl, line 2"), (2, "t.jsonl, line 5")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"image": "u"', "is not JSON"),
        ("plain text", "is not JSON"),
        ('["a"]', "is not an object"),
        ("17", "is not an object"),
        ('{"image": "u", "image": "v"}', "has the key 'image' twice"),
        ('{"image": "u", "note": NaN}', "NaN, which is not JSON"),
        ('{"image": "u", "note": -Infinity}', "-Infinity, which is not JSON"),
        ('{"image": "u", "note": 1e999}', "too large for a number"),
        ('{"image": "u", "note": ' + "9" * 4500 + "}", "a number of 4500 digits"),
        ('{"image": "u", "note": ' + "[" * 40 + "]" * 40 + "}", "nested deeper than 32"),
        ('{"image": "u", "note": ' + "[" * 99_999 + "]" * 99_999 + "}", "nested deeper than 32"),
        ('{"image": "u", "note": "\\u0000"}', "NUL"),
        ('{"image": "u", "note": {"a": ["\\ud800"]}}', "surrogate"),
        ('{"image": "u", "promt": "x"}', "looks like the field prompt"),
        ('{"image": "u", "Mask": "x"}', "looks like the field mask_image"),
        ('{"body": "x"}', "must be an object with the fields of a request"),
        ('{"custom_id": [1], "image": "https://x.example/1.png"}', "a text or a number"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_good_row_is_a_bad_one_with_its_line_and_the_others_go_on(
    tmp_path: Path, line: str, reason: str
) -> None:
    before, found, after = read(
        write(tmp_path, "t.jsonl", lines({"image": URL}) + "\n" + line + "\n" + lines({"image": URL}))
    )
    assert isinstance(found, BadRow)
    assert reason in found.reason
    assert (found.number, found.where) == (2, "t.jsonl, line 3")
    assert len(found.value) < 200
    assert isinstance(before, ManifestRow)
    assert isinstance(after, ManifestRow)
    assert after.number == 3


def test_non_utf8_bytes_are_a_bad_row_with_line_and_byte(tmp_path: Path) -> None:
    (row,) = bad(write(tmp_path, "t.jsonl", lines({"image": URL}).encode() + b'{"image": "caf\xe9"}\n'))
    assert (row.number, row.where) == (2, "t.jsonl, line 2")
    assert row.reason == "line 2: byte 15 is not UTF-8; save the file as UTF-8"


def test_a_json_array_or_spread_out_object_says_how_to_convert_it(tmp_path: Path) -> None:
    message = error(write(tmp_path, "t.json", json.dumps([{"image": URL}])))
    assert "is one JSON array" in message
    assert "jq -c '.[]' t.json > rows.jsonl" in message
    message = error(write(tmp_path, "t.json", json.dumps({"image": URL}, indent=1)))
    assert "spreads an object over several lines" in message
    assert "jq -c . t.json" in message


def test_an_empty_file_says_that_it_holds_no_rows(tmp_path: Path) -> None:
    assert error(write(tmp_path, "t.jsonl", "\n\n")) == "t.jsonl holds no rows"
    assert error(write(tmp_path, "t.jsonl.gz", gzip.compress(b""))) == "t.jsonl.gz holds no rows"


def test_a_line_without_end_is_an_error_also_when_a_small_gz_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "MAX_RECORD_BYTES", 2**20)
    content = lines({"image": URL}).encode() + b" " * 2**20 + b"{}" + b" " * 2**25
    message = error(write(tmp_path, "t.jsonl.gz", gzip.compress(content)))
    assert message.startswith("t.jsonl.gz, line 2: this row is longer than 1 MiB")


def test_a_truncated_gz_names_the_last_good_row(tmp_path: Path) -> None:
    whole = gzip.compress(lines(*({"image": URL, "n": i * 7919 % 10_007} for i in range(5000))).encode())
    message = error(write(tmp_path, "t.jsonl.gz", whole[:-9]))
    assert message.startswith("t.jsonl.gz ends too early after line ")
    assert "copy it again" in message
