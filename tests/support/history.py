"""What the events of one job may say, written down a second time and apart from the code that writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Told:
    """The state of a job as its events tell it."""

    status: str = "unborn"
    attempt: int = 0
    marked: bool = False
    """Its owner wants it cancelled."""
    deleted: bool = False


def told_by(events: Sequence[tuple[str, int]]) -> Told:
    """Return the state that (event, attempt) in this order lead to. AssertionError where one could not follow.

    That covers: attempts rise by one and only at a claim, each life has one end at most and nothing after it, a job
    that is to be cancelled is never given back, a deleted one never comes back.
    """
    told = Told()
    for number, (event, attempt) in enumerate(events):
        told = _next(told, event, attempt, f"event {number} of {list(events)}")
    return told


def _next(told: Told, event: str, attempt: int, where: str) -> Told:
    expected = told.attempt + 1 if event == "claimed" else told.attempt
    assert attempt == expected, f"{where}: attempt {expected} expected"
    before, after = _STEPS[event]
    assert told.status in before, f"{where}: cannot follow on {told.status}"
    if event in {"claimed", "retried", "deleted"}:
        assert not told.deleted, f"{where}: it was deleted"
    if event in {"released", "rescued", "cancel_requested"}:
        assert not told.marked, f"{where}: it was to be cancelled"
    return replace(
        told,
        status=after or told.status,
        attempt=attempt,
        marked=event == "cancel_requested" or (told.marked and event != "retried"),
        deleted=told.deleted or event == "deleted",
    )


_STEPS: dict[str, tuple[frozenset[str], str | None]] = {
    "created": (frozenset({"unborn"}), "created"),
    "claimed": (frozenset({"created"}), "processing"),
    "released": (frozenset({"processing"}), "created"),
    "rescued": (frozenset({"processing"}), "created"),
    "cancel_requested": (frozenset({"processing"}), None),
    "completed": (frozenset({"processing"}), "completed"),
    "failed": (frozenset({"created", "processing"}), "failed"),
    "retried": (frozenset({"failed"}), "created"),
    "deleted": (frozenset({"processing", "completed", "failed"}), None),
}
