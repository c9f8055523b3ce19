"""The promises that the demo checks on each job, on the very files that a user would download."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from PIL import Image

from common.contract import Status
from infra.demo.dataset import OWN_COLUMN
from infra.demo.drawing_checks import judge_drawing
from infra.demo.drawings import Drawing
from infra.demo.fleet import FAILURE, SUCCESS
from infra.demo.jobs import ImageBy
from infra.demo.outcome import Check, Judged, Outcome

KEPT_BELOW: Final = 8
"""Mask values under this snap to 0: those pixels are the original's."""
FILLED_FROM: Final = 128
NEW_SHARE: Final = 0.5
DRAWN_NEW_SHARE: Final = 0.1
"""Of a mask on a drawn scene: a star covers a fifth of it, and a perfect fill has the ground around it as it was.
Whether the right thing is there, the scores of infra/demo/drawing_checks.py say."""
_LOSSLESS: Final = frozenset({"png", "webp"})
_NO_RETRY: Final = 1


def judge(outcomes: Sequence[Outcome]) -> tuple[Judged, ...]:
    """Return each outcome with its checks; some compare two jobs."""
    by_name = {outcome.job.name: outcome for outcome in outcomes}
    return tuple(Judged(outcome, tuple(_checks(outcome, by_name))) for outcome in outcomes)


def _checks(outcome: Outcome, others: Mapping[str, Outcome]) -> Iterator[Check]:
    job, prediction = outcome.job, outcome.prediction
    ended = prediction.status is job.expected
    yield Check(f"ends {job.expected.value}", ended, "" if ended else f"{prediction.status.value} {prediction.error}")
    if not ended:
        return
    yield _in_flower(outcome)
    if job.call is None:
        yield _in_table(outcome)
    if job.expected is Status.FAILED:
        yield from _failure_checks(outcome)
        return
    yield _count(outcome)
    if len(outcome.pictures) != job.images:
        return
    yield _sizes(outcome)
    yield _format(outcome)
    yield _flags(outcome)
    yield _same_as_recorded(outcome)
    fits = all(one.size == outcome.material.size for one in outcome.pictures)
    if fits and job.output_format in _LOSSLESS:
        yield _kept(outcome)
    yield _something_new(outcome)
    if fits and job.is_scored:
        yield from judge_drawing(outcome)
    if job.images > 1:
        yield _all_different(outcome)
    if job.same_as is not None:
        yield _same_bytes(outcome, others[job.same_as])
    for name in job.differs_from:
        yield _other_bytes(outcome, others[name])


def _failure_checks(outcome: Outcome) -> Iterator[Check]:
    error = outcome.prediction.error
    if outcome.job.image_by is ImageBy.GONE:
        clear = "image" in error and "404" in error
        yield Check("names the field and the cause", clear, error or "no error was given")
    attempts = outcome.trail.attempts if outcome.trail else 0
    yield Check("is not retried", attempts == _NO_RETRY, _counted(attempts, "attempt"))
    yield Check("has no outputs", not outcome.prediction.outputs, _counted(len(outcome.prediction.outputs), "output"))


def _in_flower(outcome: Outcome) -> Check:
    wanted = FAILURE if outcome.job.expected is Status.FAILED else SUCCESS
    shown = outcome.in_flower
    return Check("Flower shows its end", shown == wanted, shown or "unknown there")


def _in_table(outcome: Outcome) -> Check:
    job, row = outcome.job, outcome.row or {}
    wanted: dict[str, object] = {
        "custom_id": job.name,
        "status": outcome.prediction.status.value,
        "job_id": outcome.prediction.id,
        "output_sha256": list(outcome.sha256),
        "seeds": list(outcome.prediction.seeds),
        OWN_COLUMN: job.shows,
    }
    different = [name for name, value in wanted.items() if (row.get(name) or []) != value]
    found = f"{', '.join(different)} not as it is" if different else f"row {row['row']}"
    return Check("results.parquet says the same", not different, found if row else "no such row")


def _count(outcome: Outcome) -> Check:
    wanted, found = outcome.job.images, len(outcome.files)
    return Check("as many images as asked for", found == wanted, f"{found} of {wanted}")


def _sizes(outcome: Outcome) -> Check:
    wanted = outcome.material.size
    found = sorted({picture.size for picture in outcome.pictures})
    names = ", ".join(f"{width}*{height}" for width, height in found)
    expected = "" if found == [wanted] else f", expected {wanted[0]}*{wanted[1]}"
    return Check("exact size", found == [wanted], names + expected)


def _format(outcome: Outcome) -> Check:
    wanted = outcome.job.output_format
    found = {(picture.format or "unknown").lower() for picture in outcome.pictures}
    return Check("format as asked for", found == {wanted}, ", ".join(sorted(found)))


def _flags(outcome: Outcome) -> Check:
    flags = outcome.prediction.flags
    sound = len(flags) == outcome.job.images and all(isinstance(flag, bool) for flag in flags)
    return Check("one has_nsfw flag per image", sound, ", ".join(str(flag).lower() for flag in flags) or "none")


def _same_as_recorded(outcome: Outcome) -> Check:
    result = outcome.trail.result if outcome.trail else None
    recorded = tuple(output.sha256 for output in result.outputs) if result else ()
    return Check("sha256 as recorded", recorded == outcome.sha256, ", ".join(one[:12] for one in outcome.sha256))


def _kept(outcome: Outcome) -> Check:
    keep = np.asarray(outcome.material.filled) < KEPT_BELOW
    original = _pixels(outcome.material.original)
    changed = max(int(np.any(_pixels(one) != original, axis=2)[keep].sum()) for one in outcome.pictures)
    kept = int(keep.sum())
    if kept == 0:
        return Check("unmasked pixels bit-exact", False, "the mask leaves nothing to compare")
    return Check("unmasked pixels bit-exact", changed == 0, f"{kept - changed:,} of {kept:,}")


def _something_new(outcome: Outcome) -> Check:
    fill = np.asarray(outcome.material.filled) >= FILLED_FROM
    original = _pixels(outcome.material.original).astype(np.int16)
    shares = [
        float(np.any(np.abs(_pixels(one).astype(np.int16) - original) > 2, axis=2)[fill].mean())
        for one in outcome.pictures
        if one.size == outcome.material.size
    ]
    share = min(shares, default=0.0)
    least = DRAWN_NEW_SHARE if isinstance(outcome.material.source, Drawing) else NEW_SHARE
    return Check("the mask is filled", share > least, f"{share:.0%} of its pixels are new")


def _all_different(outcome: Outcome) -> Check:
    different = len(set(outcome.sha256))
    return Check("each seed another image", different == outcome.job.images, f"{different} different")


def _same_bytes(outcome: Outcome, other: Outcome) -> Check:
    same = bool(outcome.sha256) and outcome.sha256 == other.sha256
    return Check(f"same bytes as {other.job.name}", same, " and ".join(one[0][:12] for one in _both(outcome, other)))


def _other_bytes(outcome: Outcome, other: Outcome) -> Check:
    different = bool(other.sha256) and outcome.sha256 != other.sha256
    return Check(
        f"differs from {other.job.name}", different, " and ".join(one[0][:12] for one in _both(outcome, other))
    )


def _both(outcome: Outcome, other: Outcome) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return outcome.sha256 or ("nothing",), other.sha256 or ("nothing",)


def _pixels(picture: Image.Image) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    pixels: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]] = np.asarray(picture.convert("RGB"))
    return pixels


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
