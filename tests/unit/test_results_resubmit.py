"""Failed rows as a manifest: it can be submitted as it is, and asks for the same images under the same ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.contract import FillRequest, Status
from producer.manifest import ManifestRow
from producer.manifest.open import open_manifest
from producer.manifest.options import ManifestOptions
from producer.results.resubmit import resubmit_line, write_resubmit
from producer.results.row import flatten
from tests.support.results import BUCKET, LORA, request_of, stored_job, stored_jobs


def line_of(row: int, **columns: Any) -> dict[str, Any]:
    """Return the line of a failed row."""
    return resubmit_line(flatten(stored_job(row, Status.FAILED, **columns), bucket=BUCKET))


def test_only_failed_rows_are_written_each_as_a_line() -> None:
    rows = [flatten(job, bucket=BUCKET) for job in stored_jobs(20)]
    lines = [json.loads(line) for line in write_resubmit(rows)]
    assert [line["custom_id"] for line in lines] == ["item-2", "item-7", "item-12", "item-17"]


def test_a_line_says_what_differs_from_the_defaults_and_the_drawn_seed() -> None:
    assert line_of(6) == {
        "custom_id": "item-6",
        "body": {
            "image": "https://example.com/6.jpg",
            "mask_image": "s3://shop/inputs/mask-6.png",
            "prompt": " blanks around ",
            "loras": [{"path": LORA, "scale": 0.5}],
            "seed": 9_999_999_006,
        },
        "sku": "000006",
        "price": 6.5,
        "Status": "new",
        "tags": ["a", "ü"],
    }
    changed = request_of(8, size="1024*1024", num_inference_steps=4, guidance_scale=31.5, output_format="webp",
                         region="auto")  # fmt: skip
    assert line_of(8, request=changed.model_dump(mode="json"), extra=None)["body"] == {
        "image": "https://example.com/8.jpg",
        "prompt": "a fox",
        "size": "1024*1024",
        "num_inference_steps": 4,
        "guidance_scale": 31.5,
        "output_format": "webp",
        "region": "auto",
        "seed": 9_999_999_008,
    }


def test_a_row_without_an_id_is_known_by_its_number_from_then_on() -> None:
    assert line_of(5)["custom_id"] == "row-5"
    again = line_of(1, custom_id="row-5")
    assert again["custom_id"] == "row-5"


def test_passthrough_columns_keep_their_names_but_for_the_two_that_a_line_needs() -> None:
    line = line_of(1, extra={"body": "a text", "custom_id": 3, "prompt": "kept", "extra_body": "x"})
    assert line["custom_id"] == "item-1"
    assert isinstance(line["body"], dict)
    passed = {name: value for name, value in line.items() if name not in {"custom_id", "body"}}
    assert passed == {"extra_extra_body": "a text", "extra_custom_id": 3, "prompt": "kept", "extra_body": "x"}


def test_the_manifest_reads_back_to_the_same_requests(tmp_path: Path) -> None:
    jobs = [stored_job(row, Status.FAILED) for row in range(1, 25)]
    target = tmp_path / "failed.jsonl"
    target.write_bytes(b"".join(write_resubmit(flatten(job, bucket=BUCKET) for job in jobs)))
    rows = list(open_manifest(str(target), ManifestOptions()).rows())
    assert len(rows) == len(jobs)
    for row, job in zip(rows, jobs, strict=True):
        assert isinstance(row, ManifestRow)
        asked = FillRequest.model_validate({"size": "match"} | dict(row.body))
        assert asked.model_dump(mode="json") == job["request"]
        assert row.extra == (job["extra"] or {})


def test_an_unreadable_row_is_written_too_so_that_it_is_named_when_submitted() -> None:
    assert line_of(3, request={"prompt": 7}, extra=None) == {"custom_id": "item-3", "body": {"size": "1024*1024"}}
