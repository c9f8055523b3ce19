"""The rows that a report shows: every kind of failure, both ends, chance for the rest, and flat memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from common.contract import Status
from producer.report.sample import MAX_STRATA, Sample
from producer.results.columns import Row


def row(number: int, code: str | None = None, **columns: Any) -> Row:
    """A row with just what the sample looks at; with a code it failed."""
    status = Status.COMPLETED if code is None else Status.FAILED
    return {"row": number, "custom_id": f"item-{number}", "status": status.value, "error_code": code, **columns}


def chosen(rows: Iterable[Row], size: int) -> list[int]:
    """The numbers of the rows that are shown."""
    sample = Sample(size)
    for one in rows:
        sample.add(one)
    return [one["row"] for one in sample.rows()]


def test_of_few_rows_all_are_shown_in_their_order() -> None:
    assert chosen((row(number) for number in range(1, 51)), 50) == list(range(1, 51))
    assert chosen((row(number) for number in range(1, 8)), 200) == list(range(1, 8))
    assert chosen([], 200) == []


@pytest.mark.parametrize("size", [1, 2, 5, 12, 13, 200])
def test_there_are_as_many_as_were_asked_for(size: int) -> None:
    found = chosen((row(number, "late" if number % 7 == 0 else None) for number in range(1, 1001)), size)
    assert len(found) == len(set(found)) == size
    assert found == sorted(found)


def test_a_failure_that_came_once_in_thousands_of_rows_is_shown() -> None:
    odd = {1234: "image_truncated", 4321: "mask_missing", 2999: "fetch_timeout"}
    common = {number: "host_busy" for number in range(2, 5000, 3) if number not in odd}
    found = chosen((row(number, (odd | common).get(number)) for number in range(1, 5001)), 30)
    assert set(odd) < set(found)


def test_both_ends_are_shown() -> None:
    found = chosen((row(number) for number in range(1, 5001)), 40)
    assert found[:3] == [1, 2, 3]
    assert found[-3:] == [4998, 4999, 5000]


def test_frequent_failures_leave_room_for_what_went_well() -> None:
    rows = [row(number, f"cause-{number % 9}" if number % 10 else None) for number in range(1, 5001)]
    found = set(chosen(rows, 100))
    causes = Counter(one["error_code"] for one in rows if one["row"] in found)
    assert set(causes) == {None, *(f"cause-{n}" for n in range(9))}
    assert causes[None] >= 3


def test_flagged_and_unfinished_rows_are_shown_too() -> None:
    rows = [row(number) for number in range(1, 3001)]
    rows[1500] |= {"nsfw": [False, True]}
    rows[1600] |= {"status": "processing"}
    rows[1700] |= {"status": "created"}
    assert {1501, 1601, 1701} < set(chosen(rows, 20))


def test_the_same_rows_give_the_same_sample_and_no_part_of_them_is_preferred() -> None:
    rows = [row(number) for number in range(1, 8001)]
    found = chosen(rows, 200)
    assert found == chosen([dict(one) for one in rows], 200)
    quarters = Counter((number - 1) // 2000 for number in found)
    assert all(30 <= quarters[quarter] <= 70 for quarter in range(4))


def test_what_is_kept_does_not_grow_with_rows_or_with_kinds_of_failure() -> None:
    sample = Sample(10)
    for number in range(1, 3001):
        sample.add(
            row(number, f"cause-{number}", prompt="x" * 9000, extra={f"column {n}": "y" * 9000 for n in range(50)})
        )
    kept = sum(len(heap) for heap in sample._strata.values())
    assert len(sample._strata) <= MAX_STRATA + 1
    assert kept <= (MAX_STRATA + 1) * 10
    for one in sample.rows():
        assert len(one["prompt"]) < 1600
        assert len(one["extra"]) == 12
        assert all(len(value) < 250 for value in one["extra"].values())


def test_a_cut_text_says_how_long_it_was() -> None:
    sample = Sample(5)
    sample.add(row(1, prompt="word " * 2000))
    assert sample.rows()[0]["prompt"].endswith("… (10,000 characters)")
