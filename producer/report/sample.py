"""Chooses the rows that a report shows: the first and the last, some of every kind, the rest at random.

Rows pass once and only those that may be shown are kept, cut to what a page needs. Chance is a digest of the row
itself: the same rows give the same sample, whenever and in whatever pieces they are read.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice, zip_longest
from typing import Any, Final

from common.contract import Status
from common.lifecycle.counts import CANCELLED
from producer.report.markup import clip
from producer.results.cells import extra_cell
from producer.results.columns import EXTRA, Row

MAX_STRATA: Final = 40
"""Kinds of rows that are kept apart; any further ones count as one."""
OTHER: Final = "other"
FLAGGED: Final = "completed, flagged"
_FAILED: Final = f"{Status.FAILED} "
_EDGE: Final = 3
"""So many of the first and of the last rows are shown."""
_TEXT_CHARACTERS: Final = 1500
_LONG_TEXTS: Final = ("prompt", "error")
_EXTRA_CHARACTERS: Final = 200
_EXTRA_COLUMNS: Final = 12

_Kept = tuple[int, int, Row]
"""(minus its digest, its place, the row): heapq puts the one on top that is given up next."""


class Sample:
    """Takes any number of rows and keeps at most `size` of each kind."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._edge = min(_EDGE, size // 4)
        self._seen = 0
        self._first: list[_Kept] = []
        self._last: deque[tuple[int, Row]] = deque(maxlen=self._edge)
        self._strata: dict[str, list[_Kept]] = {}
        self._numbers: Counter[str] = Counter()
        self._any: list[_Kept] = []

    def add(self, row: Row) -> None:
        """Look at the next row."""
        place = self._seen
        self._seen += 1
        stratum = stratum_of(row)
        if stratum not in self._strata and len(self._strata) >= MAX_STRATA:
            stratum = OTHER
        self._numbers[stratum] += 1
        kept = (-_digest(row), place, row)
        heaps = (self._strata.setdefault(stratum, []), self._any)
        taking = [heap for heap in heaps if self._takes(heap, kept)]
        if taking or len(self._first) < self._edge:
            kept = (kept[0], place, shortened(row))
        for heap in taking:
            (heapq.heappushpop if len(heap) == self._size else heapq.heappush)(heap, kept)
        if len(self._first) < self._edge:
            self._first.append(kept)
        else:
            self._last.append((place, row))

    def rows(self) -> list[Row]:
        """Return the rows to show, in their order: `size`, or all where there are fewer."""
        chosen: dict[int, Row] = {}
        for place, row in self._candidates():
            if len(chosen) == self._size:
                break
            chosen.setdefault(place, row)
        return [chosen[place] for place in sorted(chosen)]

    def _takes(self, heap: list[_Kept], kept: _Kept) -> bool:
        return len(heap) < self._size or kept[:2] > heap[0][:2]

    def _candidates(self) -> Iterator[tuple[int, Row]]:
        """Yield rows in the order in which they have a right to be shown; some come more than once."""
        yield from (kept[1:] for kept in self._first)
        yield from ((place, shortened(row)) for place, row in self._last)
        by_number = [name for name, _ in self._numbers.most_common()]
        drawn = {name: [kept[1:] for kept in sorted(heap, reverse=True)] for name, heap in self._strata.items()}
        yield from (drawn[name][0] for name in by_number)
        # Then failures and flagged rows by turns, but not so many that the others would have no room.
        rare = [drawn[name] for name in by_number if _is_rare(name)]
        turns = (kept for turn in zip_longest(*rare) for kept in turn if kept is not None)
        yield from islice(turns, self._size // 2)
        yield from (kept[1:] for kept in sorted(self._any, reverse=True))


def stratum_of(row: Row) -> str:
    """Return the row's kind: how it stands and, of a failed one, why."""
    status = str(row.get("status"))
    if status == Status.FAILED:
        return f"{_FAILED}{row.get('error_code')}"
    return FLAGGED if any(row.get("nsfw") or ()) else status


def shortened(row: Row) -> Row:
    """Return the row with its long texts cut, and only the first of its passthrough columns, as text."""
    cut = {name: clip(row[name], _TEXT_CHARACTERS) for name in _LONG_TEXTS if isinstance(row.get(name), str)}
    names = list(row.get(EXTRA) or ())[:_EXTRA_COLUMNS]
    extra = {clip(name, _EXTRA_CHARACTERS): clip(extra_cell(row, name) or "", _EXTRA_CHARACTERS) for name in names}
    return {**row, **cut, EXTRA: extra}


def _is_rare(stratum: str) -> bool:
    return stratum in {FLAGGED, OTHER} or (stratum.startswith(_FAILED) and stratum != _FAILED + CANCELLED)


def _digest(row: Row) -> int:
    identity: Any = (row.get("row"), row.get("custom_id"))
    return int.from_bytes(hashlib.blake2b(repr(identity).encode(), digest_size=8).digest())
