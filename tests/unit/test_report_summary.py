"""What a report says of all rows: counts, causes, origins, workers, and times to within some percent in flat memory."""

from __future__ import annotations

import random
from datetime import timedelta
from itertools import pairwise

import pytest

from common.contract import Status
from producer.report.figures import duration
from producer.report.latencies import Latencies
from producer.report.summary import LoraFile
from producer.report.timeline import MAX_BINS, Timeline
from tests.support.report import report_row, summary_of
from tests.support.results import LORA, MORNING


def test_rows_are_counted_by_state_and_cancelled_ones_apart_from_failed_ones() -> None:
    rows = [report_row(1), report_row(2), report_row(3, Status.FAILED), report_row(4, Status.PROCESSING)]
    rows += [report_row(5, Status.CREATED), report_row(6, Status.FAILED, error_code="cancelled", error="cancelled")]
    summary = summary_of(rows)
    assert summary.rows == 6
    assert summary.states == {"completed": 2, "failed": 1, "processing": 1, "created": 1, "cancelled": 1}


def test_causes_are_counted_over_all_rows_with_one_that_says_why() -> None:
    rows = [report_row(n, Status.FAILED, error_code="late", error=f"late {n}", retryable=n < 3) for n in range(1, 6)]
    rows += [report_row(9, Status.FAILED, error_code="torn", error="x" * 5000)]
    causes = summary_of(rows).causes
    assert (causes["late"].rows, causes["late"].retryable, causes["late"].example) == (5, 2, "late 1")
    assert causes["late"].example_row == 1
    assert len(causes["torn"].example) < 600


def test_versions_loras_and_workers_are_those_of_the_rows() -> None:
    version = {"model": "demo", "torch": "2"}
    rows = [report_row(number, worker="w1") for number in (1, 2, 4)]
    rows += [report_row(number, worker="w2", model_version=version) for number in (5, 6)]
    rows += [report_row(7, Status.FAILED, worker="w2", error_code="late")]
    summary = summary_of(rows)
    assert summary.versions == {'{"model":"demo","revision":"r1"}': 3, '{"model":"demo","torch":"2"}': 2}
    assert summary.loras == {LoraFile(LORA, "c" * 64, "v2"): 2}
    first, second = summary.workers["w1"], summary.workers["w2"]
    assert (first.completed, first.failed, first.images) == (3, 0, sum(len(row["outputs"]) for row in rows[:3]))
    assert (second.completed, second.failed) == (2, 1)
    assert (first.first, first.last) == (MORNING + timedelta(seconds=1), MORNING + timedelta(seconds=5))
    assert first.device_share == pytest.approx(0.012 / 4)


def test_images_a_minute_count_outputs_between_the_first_start_and_the_last_end() -> None:
    rows = [report_row(number, outputs=["s3://b/1", "s3://b/2"]) for number in range(1, 60)]
    summary = summary_of(rows)
    assert summary.seconds == 59
    assert summary.images_per_minute == pytest.approx(60 * 118 / 59)
    assert summary_of([report_row(1, Status.CREATED)]).images_per_minute is None


def test_names_that_rows_choose_freely_do_not_grow_the_summary() -> None:
    rows = [report_row(n, worker=f"w{n}", model_version={"model": str(n)}) for n in range(1, 1000)]
    rows += [report_row(n, Status.FAILED, error_code=f"cause-{n}") for n in range(1000, 2000)]
    summary = summary_of(rows)
    assert max(len(summary.workers), len(summary.versions), len(summary.causes)) == 200
    assert summary.unnamed > 2000
    assert summary.states == {"completed": 999, "failed": 1000}


def test_a_row_of_which_nothing_is_known_is_counted() -> None:
    summary = summary_of([{"status": "completed"}, {"status": "failed"}, {}])
    assert summary.rows == 3
    assert summary.seconds is None


def test_quantiles_are_right_to_within_two_percent() -> None:
    chance = random.Random(1)  # noqa: S311 - no secret
    values = [chance.lognormvariate(8, 1.5) for _ in range(20_000)]
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    values.sort()
    for part in (0.05, 0.5, 0.95, 0.99):
        assert latencies.quantile(part) == pytest.approx(values[round(part * len(values)) - 1], rel=0.02)
    assert (latencies.shortest, latencies.longest) == (values[0], values[-1])
    assert latencies.quantile(0) >= values[0]
    assert latencies.quantile(1) == pytest.approx(values[-1], rel=0.02)


def test_a_single_duration_is_every_quantile_of_itself() -> None:
    for value in (0, 1, 7, 86_400_000):
        latencies = Latencies()
        latencies.add(value)
        assert latencies.quantile(0.5) == latencies.quantile(0.95) == value


def test_durations_that_cannot_be_are_left_out() -> None:
    latencies = Latencies()
    for value in (None, -5):
        latencies.add(value)
    assert latencies.number == 0
    assert latencies.columns(10) == []
    with pytest.raises(ValueError, match="no durations"):
        latencies.quantile(0.5)


def test_a_histogram_has_few_columns_and_every_duration_in_one_of_them() -> None:
    latencies = Latencies()
    for value in (0, 1, 3, 10, 500, 500, 86_400_000):
        latencies.add(value)
    columns = latencies.columns(40)
    assert len(columns) <= 40
    assert sum(column.number for column in columns) == 7
    assert all(before.end == pytest.approx(after.start) for before, after in pairwise(columns))


@pytest.mark.parametrize("seconds", [0, 1, 59, 3600, 86_400, 40 * 86_400, 3000 * 86_400])
def test_a_timeline_has_few_bins_however_long_the_batch_took(seconds: int) -> None:
    timeline = Timeline()
    chance = random.Random(seconds)  # noqa: S311 - no secret
    for number in range(500):
        timeline.add(MORNING + timedelta(seconds=chance.uniform(0, seconds)), completed=number % 5 > 0)
    bins = timeline.bins()
    assert 1 <= len(bins) <= MAX_BINS
    assert sum(one.completed for one in bins) == 400
    assert sum(one.failed for one in bins) == 100
    assert bins[0].start <= MORNING + timedelta(seconds=seconds)
    assert all(after.start - before.start == timedelta(seconds=timeline.seconds)
               for before, after in pairwise(bins))  # fmt: skip


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 ms"), (85, "85 ms"), (2400, "2.4 s"), (59_990, "60 s"), (200_000, "3 min 20 s"), (60_000, "1 min"),
        (4 * 3_600_000 + 300_000, "4 h 5 min"), (51 * 3_600_000, "2 d 3 h"),
    ],
)  # fmt: skip
def test_durations_are_written_in_their_largest_units(milliseconds: float, text: str) -> None:
    assert duration(milliseconds) == text
