"""Rows and pages of reports for tests, with texts that try to break out of the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from common.contract import BatchState, Status
from common.lifecycle import Counts, Reject
from producer.batches import Batch
from producer.report.page import Contents, render_page
from producer.report.sample import Sample
from producer.report.summary import Summary
from producer.results.columns import Row
from producer.results.row import flatten
from tests.support.results import BATCH, BUCKET, MORNING, stored_job

HOSTILE: Final = (
    "</script><script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "<!--",
    "' onmouseover='alert(1)",
    "&lt;b&gt; stays as it is",
    "invoice\u202egpj.exe",
    "{{7*7}}${7*7}",
)


def report_row(number: int, status: Status = Status.COMPLETED, **columns: Any) -> Row:
    """A row of the results table as a report gets it, `number` seconds into the morning."""
    row = flatten(stored_job(1 + number % 900, status), bucket=BUCKET)
    started = MORNING + timedelta(seconds=number)
    ended = started + timedelta(seconds=1) if status.is_terminal else None
    mine = {"row": number, "custom_id": f"item-{number}", "started_at": started, "ended_at": ended}
    return row | mine | columns


def hostile_rows() -> Iterator[Row]:
    """Rows whose every free text is hostile, in several states."""
    for number, text in enumerate(HOSTILE, 1):
        status = Status.FAILED if number % 3 == 0 else Status.COMPLETED
        row = report_row(number, status, custom_id=text, prompt=text, image=f"https://example.com/{text}")
        row |= {"worker": text, "extra": {text: text}, "mask_image": f"s3://shop/{text}"}
        if status is Status.FAILED:
            row |= {"error_code": text, "error": text}
        else:
            row |= {"model_version": {"model": text}, "outputs": [f"s3://shop/{text}"]}
            row["loras"] = [{"path": text, "scale": 1.0, "sha256": text, "revision": text}]
        yield row


def a_batch(**fields: Any) -> Batch:
    """A batch that is done."""
    values: dict[str, Any] = {
        "id": BATCH,
        "owner": UUID(int=1),
        "name": "autumn",
        "state": BatchState.DONE,
        "counts": Counts(),
        "rejected": 0,
        "priority": 5,
        "strict": False,
        "defaults": {},
        "cursor": 0,
        "digest": "",
        "read_by_server": False,
        "extra_columns": (),
        "error": None,
        "webhook_url": None,
        "created_at": MORNING,
        "opened_at": MORNING,
        "ended_at": MORNING,
    }
    return Batch(**(values | fields))


def summary_of(rows: Sequence[Row]) -> Summary:
    """Sum rows up."""
    summary = Summary()
    for row in rows:
        summary.add(row)
    return summary


def page_of(rows: Sequence[Row], *, size: int = 200, rejects: Sequence[Reject] = (), **fields: Any) -> str:
    """Return the page of these rows, without pictures."""
    sample = Sample(size)
    for row in rows:
        sample.add(row)
    batch = a_batch(rejected=len(rejects), **fields)
    return render_page(Contents(batch, summary_of(rows), sample.rows(), {}, rejects, MORNING))
