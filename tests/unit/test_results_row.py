"""A job's row in the columns of the results table: every column filled, and nothing stored can stop the stream."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contract import Status
from common.errors import Rejected
from producer.results.columns import COLUMNS, EXTRA, column_names, extra_names
from producer.results.csv import write_csv
from producer.results.ndjson import write_ndjson
from producer.results.outputs import fetch_output, outputs_of
from producer.results.parquet import write_parquet
from producer.results.row import flatten
from producer.results.schema import table_schema
from tests.support.results import BATCH, BUCKET, LORA, MORNING, job_id, stored_job

FROM_THE_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


class NoStore:
    """A store that nobody may ask."""

    def fetch(self, uri: str, *, max_bytes: int) -> bytes:
        """See OutputStore."""
        pytest.fail(f"{uri} was fetched")


def test_a_completed_row_fills_every_column() -> None:
    row = flatten(stored_job(3), bucket=BUCKET)
    assert row == {
        "custom_id": "item-3",
        "row": 3,
        "job_id": job_id(3).hex,
        "batch_id": BATCH.hex,
        "status": "completed",
        "error_code": None,
        "error": None,
        "attempts": 1,
        "failures": 0,
        "retryable": None,
        "image": "https://example.com/3.jpg",
        "mask_image": "s3://shop/inputs/mask-3.png",
        "image_sha256": "a" * 64,
        "mask_sha256": "b" * 64,
        "outputs": ["s3://shop/outputs/3/1-0.png", "s3://shop/outputs/3/1-1.png"],
        "output_sha256": [f"{3:063x}0", f"{3:063x}1"],
        "output_bytes": [1003, 1003],
        "output_format": "png",
        "output_width": 640,
        "output_height": 480,
        "seeds": [9_999_999_003, 9_999_999_004],
        "nsfw": [None, None],
        "nsfw_policy": [None, None],
        "prompt": "=1+1",
        "size": "match",
        "num_inference_steps": 28,
        "guidance_scale": 30.0,
        "seed": 9_999_999_003,
        "num_images": 2,
        "enable_safety_checker": True,
        "loras": [{"path": LORA, "scale": 0.5, "sha256": "c" * 64, "revision": "v2"}],
        "region": None,
        "regions": None,
        "crop_box": None,
        "mask_coverage": 0.25,
        "max_difference_outside_mask": 1,
        "model_version": {"model": "demo", "revision": "r1"},
        "created_at": MORNING,
        "started_at": MORNING + timedelta(seconds=3),
        "ended_at": MORNING + timedelta(seconds=4),
        "queue_ms": 1,
        "fetch_ms": 2,
        "wait_ms": 3,
        "inference_ms": 4,
        "upload_ms": 3,
        "worker": "host-1",
        "extra": {"sku": "000003", "price": 3.5, "Status": "new", "tags": ["a", "ü"]},
    }


def test_what_is_stored_of_flagged_outputs_is_said_and_a_dropped_one_keeps_its_place() -> None:
    job = stored_job(3)
    dropped = {"nsfw": True, "policy": "drop", "key": None, "sha256": None, "bytes": None}
    job["result"]["outputs"] = [
        job["result"]["outputs"][0] | change
        for change in (dropped, {"nsfw": False}, {"nsfw": True, "policy": "blur"}, {"nsfw": True, "policy": "allow"})
    ]
    row = flatten(job, bucket=BUCKET)
    assert row["nsfw"] == [True, False, True, True]
    assert row["nsfw_policy"] == ["drop", None, "blur", "allow"]
    for name in ("outputs", "output_sha256", "output_bytes"):
        assert [value is None for value in row[name]] == [True, False, False, False], name
    assert (row["output_width"], row["output_height"], row["seeds"][0]) == (640, 480, 9_999_999_003)
    outputs = outputs_of(row)
    assert [output.dropped for output in outputs] == [True, False, False, False]
    with pytest.raises(Rejected, match="nothing of it was stored") as caught:
        fetch_output(outputs[0], NoStore())
    assert caught.value.code == "output_dropped"


def test_a_flagged_output_of_an_older_worker_is_a_blank() -> None:
    row = flatten(stored_job(2, result={"outputs": [{"key": "outputs/2/1-0.png", "nsfw": True}]}), bucket=BUCKET)
    assert (row["nsfw"], row["nsfw_policy"]) == ([True], ["blank"])
    assert not outputs_of(row)[0].dropped


def test_an_output_whose_place_is_unknown_is_none_that_was_dropped() -> None:
    (output,) = outputs_of({"outputs": [None], "nsfw": [None], "nsfw_policy": [None]})
    with pytest.raises(Rejected, match="does not say where it lies"):
        fetch_output(output, NoStore())


def test_a_failed_row_says_why_and_keeps_its_parameters_and_the_inputs_seen() -> None:
    row = flatten(stored_job(3, Status.FAILED), bucket=BUCKET)
    assert (row["error_code"], row["error"]) == ("image_truncated", "image: the file ends too early")
    assert (row["retryable"], row["failures"]) == (False, 1)
    assert row["image_sha256"] == "a" * 64
    assert row["seed"] == 9_999_999_003
    assert row["loras"] == [{"path": LORA, "scale": 0.5, "sha256": None, "revision": None}]
    assert row["outputs"] is row["seeds"] is row["nsfw"] is row["inference_ms"] is None


def test_the_columns_of_a_row_are_those_of_the_table() -> None:
    assert list({*flatten(stored_job(1), bucket=BUCKET)} - {"extra"}).sort() == list(column_names()).sort()
    assert {*flatten(stored_job(1), bucket=BUCKET)} == {*column_names(), "extra"}
    assert {*flatten({}, bucket=BUCKET)} == {*column_names(), "extra"}
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)


def test_a_row_of_an_older_version_has_the_defaults_that_it_ran_with() -> None:
    row = flatten(stored_job(1, request={"image": "https://example.com/a.png", "seed": 5}), bucket=BUCKET)
    assert (row["size"], row["prompt"], row["guidance_scale"], row["num_images"]) == ("1024*1024", "", 30.0, 1)
    assert (row["output_format"], row["enable_safety_checker"], row["loras"]) == ("png", True, [])


def test_regions_are_shown_with_the_box_around_them_and_under_which_mode() -> None:
    result = {"region": "auto", "regions": [[0, 256, 384, 384], [640, 640, 384, 448]]}
    row = flatten(stored_job(3, result=result), bucket=BUCKET)
    assert (row["region"], row["regions"]) == ("auto", [[0, 256, 384, 384], [640, 640, 384, 448]])
    assert row["crop_box"] == [0, 256, 1024, 1088]
    table = pq.read_table(io.BytesIO(b"".join(write_parquet([row]))))
    assert table.column("regions").to_pylist() == [row["regions"]]
    assert b'"[[0,256,384,384],[640,640,384,448]]"' in b"".join(write_csv([row]))
    assert json.loads(b"".join(write_ndjson([row])))["regions"] == row["regions"]


@pytest.mark.parametrize(
    "stored", [None, [], 3, [[1, 2, 3]], [[1, 2, 3, 4], None], [[1, 2, 3, 2**70]], [[1, 2, -3, 4]]]
)
def test_regions_that_cannot_be_read_are_null(stored: object) -> None:
    row = flatten(stored_job(3, result={"regions": stored}), bucket=BUCKET)
    assert row["regions"] is row["crop_box"] is None


def test_a_row_that_waits_says_which_region_it_asked_for() -> None:
    job = stored_job(3, Status.CREATED)
    assert flatten(job, bucket=BUCKET)["region"] is None
    job["request"]["region"] = "auto"
    assert flatten(job, bucket=BUCKET)["region"] == "auto"


def test_a_lora_revision_is_shown_where_the_result_has_it() -> None:
    result = {"loras": [{"path": LORA, "sha256": "d" * 64}]}
    row = flatten(stored_job(3, result=result), bucket=BUCKET)
    assert row["loras"][0] == {"path": LORA, "scale": 0.5, "sha256": "d" * 64, "revision": None}


def test_times_are_utc_whatever_zone_the_database_speaks() -> None:
    local = datetime(2026, 5, 1, 10, 0, tzinfo=timezone(timedelta(hours=2)))
    assert flatten(stored_job(1, created_at=local), bucket=BUCKET)["created_at"] == datetime(2026, 5, 1, 8, tzinfo=UTC)


@given(st.fixed_dictionaries(dict.fromkeys(("request", "result", "pins", "extra"), FROM_THE_JSON)))
def test_whatever_is_stored_becomes_a_row_that_every_form_can_write(stored: dict[str, Any]) -> None:
    row = flatten(stored_job(1, **stored), bucket=BUCKET)
    for form in (write_ndjson([row]), write_csv([row], ["sku"]), write_parquet([row], ["sku"])):
        assert b"".join(form)


@given(
    st.sampled_from(["outputs", "loras", "timings", "inputs", "model_version", "mask_coverage", "regions", "region"]),
    FROM_THE_JSON,
)
def test_a_result_with_one_unreadable_part_keeps_the_others(part: str, value: object) -> None:
    job = stored_job(3)
    job["result"][part] = value
    row = flatten(job, bucket=BUCKET)
    assert row["worker"] == "host-1"
    assert row["max_difference_outside_mask"] == 1
    assert b"".join(write_parquet([row]))


def test_numbers_that_no_column_can_hold_are_null() -> None:
    job = stored_job(1)
    job["result"]["timings"] = {"queue": 10**30, "fetch": True, "wait": "3", "inference": 4.0, "upload": 4.5}
    job["result"]["mask_coverage"] = 10**400
    row = flatten(job, bucket=BUCKET)
    assert [row[f"{name}_ms"] for name in ("queue", "fetch", "wait", "inference", "upload")] == [
        None, None, None, 4, None,
    ]  # fmt: skip
    assert row["mask_coverage"] is None


def test_passthrough_columns_keep_their_names_unless_the_table_has_them() -> None:
    names = extra_names(["sku", "Status", "", "extra_Status", "sku", "files", "Sku"])
    assert names == {
        "sku": "sku",
        "Status": "extra_extra_Status",
        "": "extra_",
        "extra_Status": "extra_Status",
        "files": "extra_files",
        "Sku": "Sku",
    }
    assert [field.name for field in table_schema(["sku", "Status"])][-2:] == ["sku", "extra_Status"]


def test_the_schema_says_what_each_column_means_and_types_depend_on_no_row() -> None:
    schema = table_schema(["sku"], saved=True)
    assert all(field.metadata[b"meaning"] for field in schema)
    assert schema.field("sku").type == pa.string()
    assert schema.field("outputs").type == pa.list_(pa.string())
    assert json.loads(b"".join(write_ndjson([flatten({}, bucket=BUCKET)])))["row"] is None


def test_long_texts_that_are_passed_through_make_smaller_row_groups() -> None:
    rows = [{"row": number, EXTRA: {"note": "n" * 60_000}} for number in range(1, 1201)]
    file = pq.ParquetFile(io.BytesIO(b"".join(write_parquet(rows, ["note"]))))
    assert file.metadata.num_rows == 1200
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [560, 560, 80]
