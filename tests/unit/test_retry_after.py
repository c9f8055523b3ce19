"""How long a server may ask to be left alone, whatever it writes into its header."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.retry_after import retry_after_seconds

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("0", 1.0),
        ("86400", 3600.0),
        ("9" * 20, 3600.0),
        ("Mon, 04 May 2026 12:00:30 GMT", 30.0),
        ("Mon, 04 May 2026 14:00:30 +0200", 30.0),
        ("Mon, 04 May 2026 12:00:30 -0000", 30.0),
        ("Monday, 04-May-26 12:00:30 GMT", 30.0),
        ("Sun, 03 May 2026 12:00:30 GMT", 1.0),
        ("Mon, 04 May 2027 12:00:30 GMT", 3600.0),
    ],
)
def test_seconds_and_dates_are_understood_and_bounded(header: str, seconds: float) -> None:
    assert retry_after_seconds(header, now=NOW) == seconds


@pytest.mark.parametrize(
    "header", [None, "", "soon", "-5", "1e9", "inf", "nan", "5 s", "٣", "9" * 21, "Mon, 99 May 2026 12:00:30 GMT"]
)
def test_anything_else_asks_for_nothing(header: str | None) -> None:
    assert retry_after_seconds(header, now=NOW) is None


def test_without_a_given_time_a_date_counts_from_now() -> None:
    soon = format_datetime(datetime.now(timezone(timedelta(hours=5))) + timedelta(seconds=100))
    assert 40 <= (retry_after_seconds(soon) or 0) <= 100


@given(st.text(max_size=60))
def test_no_header_breaks_it_or_leaves_the_bounds(header: str) -> None:
    seconds = retry_after_seconds(header)
    assert seconds is None or 1.0 <= seconds <= 3600.0
