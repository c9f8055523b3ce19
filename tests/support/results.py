"""Jobs as the table stores them, for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from common.contract import FillRequest, LoraRef, Status
from common.result import JobResult, Output, Timings, UsedLora

BUCKET: Final = "shop"
BATCH: Final = UUID("01900000-0000-7000-8000-0000000000ba")
MORNING: Final = datetime(2026, 5, 1, 8, 0, 0, 250_001, tzinfo=UTC)
LORA: Final = "linoyts/yarn_art_Flux_LoRA"
AWKWARD: Final = [
    "a fox",
    "",
    'a "quoted", fox\r\non two lines',
    "=1+1",
    "ein Löwe 🦁 日本",
    "tab\tand \\ and 'quotes'",
    " blanks around ",
    "null",
]


def job_id(row: int) -> UUID:
    """Return the id of the job of a row."""
    return UUID(int=BATCH.int + (row << 64))


def request_of(row: int, **fields: Any) -> FillRequest:
    """Return a request whose values differ from row to row."""
    values: dict[str, Any] = {
        "image": f"https://example.com/{row}.jpg",
        "mask_image": None if row % 4 == 0 else f"s3://{BUCKET}/inputs/mask-{row}.png",
        "prompt": AWKWARD[row % len(AWKWARD)],
        "size": "match",
        "seed": 9_999_999_000 + row,
        "num_images": 1 + row % 2,
        "loras": (LoraRef(path=LORA, scale=0.5),) if row % 3 == 0 else (),
    }
    return FillRequest(**(values | fields))


def result_of(row: int, request: FillRequest) -> JobResult:
    """Return what a worker would have recorded."""
    outputs = tuple(
        Output(
            key=f"outputs/{row}/1-{n}.png",
            sha256=f"{row:063x}{n}",
            bytes=1000 + row,
            format=request.output_format,
            width=640,
            height=480,
            seed=request.seed + n,
            nsfw=[None, False, True][row % 3],
        )
        for n in range(request.num_images)
    )
    return JobResult(
        outputs=outputs,
        timings=Timings(queue=1, fetch=2, wait=3, inference=4, upload=row),
        model_version={"model": "demo", "revision": "r1"},
        worker="host-1",
        mask_coverage=0.25,
        max_difference_outside_mask=row % 2,
        inputs={"image": "a" * 64} | ({"mask_image": "b" * 64} if request.mask_image else {}),
        loras=tuple(UsedLora(path=one.path, sha256="c" * 64, scale=one.scale, revision="v2") for one in request.loras),
    )


def stored_job(row: int, status: Status = Status.COMPLETED, **columns: Any) -> dict[str, Any]:
    """Return a row of the jobs table, with `columns` changed."""
    request = request_of(row)
    failed, done = status is Status.FAILED, status is Status.COMPLETED
    job: dict[str, Any] = {
        "id": job_id(row),
        "batch_id": BATCH,
        "row_no": row,
        "custom_id": None if row % 5 == 0 else f"item-{row}",
        "status": status.value,
        "error_code": "image_truncated" if failed else None,
        "error": "image: the file ends too early" if failed else None,
        "attempt": 1,
        "failures": int(failed),
        "retryable": False if failed else None,
        "request": request.model_dump(mode="json"),
        "result": result_of(row, request).model_dump(mode="json") if done else None,
        "pins": {"image": "a" * 64},
        "extra": {"sku": f"{row:06d}", "price": row + 0.5, "Status": "new", "tags": ["a", "ü"]} if row % 7 else None,
        "worker_id": "host-1",
        "created_at": MORNING,
        "started_at": MORNING + timedelta(seconds=row),
        "ended_at": MORNING + timedelta(seconds=row + 1) if failed or done else None,
    }
    return job | columns


def stored_jobs(count: int) -> Iterator[dict[str, Any]]:
    """Yield jobs in every state, rows 1 to `count`."""
    states = (Status.COMPLETED, Status.COMPLETED, Status.FAILED, Status.PROCESSING, Status.CREATED)
    for row in range(1, count + 1):
        yield stored_job(row, states[row % len(states)])
