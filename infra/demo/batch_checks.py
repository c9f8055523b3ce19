"""The promises that the demo checks on its batch as a whole; those on each row are in checks.py."""

from __future__ import annotations

from collections.abc import Iterator

from common.contract import BatchState
from infra.demo.batch import Batch
from infra.demo.jobs import BAD_ROW
from infra.demo.outcome import Check

_BAD_FIELD = next(name for name in BAD_ROW if name != "custom_id")


def judge_batch(batch: Batch) -> tuple[Check, ...]:
    """Return the checks of the batch."""
    return tuple(_checks(batch))


def _checks(batch: Batch) -> Iterator[Check]:
    yield Check("the batch is done", batch.state == BatchState.DONE, batch.state)
    wanted = [row["custom_id"] for row in batch.dataset.rows]
    found = [row["custom_id"] for row in batch.table]
    yield Check("one result for each good row, in order", found == wanted, f"{len(found)} of {len(wanted)}")
    yield _bad_row(batch)
    yield _nothing_twice(batch)
    missing = [name for name in wanted if name not in batch.page]
    yield Check("its page shows every row", not missing, ", ".join(missing) or f"{len(wanted)} rows")


def _bad_row(batch: Batch) -> Check:
    named = [(row["custom_id"], row["field"]) for row in batch.rejects]
    detail = "; ".join(f"{row['where']}: {row['field']}: {row['value']} {row['reason']}" for row in batch.rejects)
    return Check("the bad row is named, and it alone", named == [(BAD_ROW["custom_id"], _BAD_FIELD)], detail or "none")


def _nothing_twice(batch: Batch) -> Check:
    jobs, again = ([(row["job_id"], row["attempts"]) for row in rows] for rows in (batch.before, batch.after))
    new = len({job for job, _ in again} - {job for job, _ in jobs})
    return Check("submitted again, no row runs twice", again == jobs, f"{new} new, {len(again) - new} already there")
