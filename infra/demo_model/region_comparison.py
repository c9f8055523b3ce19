"""Region auto against full, on the same scenes with the same seeds: what it costs in quality, and what it saves.

The masks are small, as those are that auto is for; a scene of which auto would generate all is no news, and left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np

from infra.demo_model.measuring import by_worker, canvas_of
from infra.demo_model.quality import PSNR_BAR, Fill, Quality, held_out, measure
from infra.demo_model.scenes import Scene
from infra.demo_model.shapes import Pixels
from worker.region.areas import areas_of

HOLE: Final = (0.06, 0.15)
"""A mask's half-side, as shares of the picture's: it fills from 1 % of the picture to 9 %, or 16 % where it is long."""
WORSE_BY: Final = 3.0
"""dB by which one fill of a scene must be behind another to be called worse: half the error again and more."""


@dataclass(frozen=True)
class Comparison:
    """The same scenes, filled both ways."""

    side: int
    full: Quality
    auto: Quality
    share: float
    """Of the pixels that are generated under full, those that are under auto."""
    changed_outside: int
    """Pixels that are not masked and that differ from the original, over all scenes and both ways."""

    @property
    def gains(self) -> list[float]:
        """By how many dB auto continues each scene's background better than full."""
        return [one.psnr - other.psnr for one, other in zip(self.auto.continued, self.full.continued, strict=True)]

    @property
    def worse(self) -> int:
        """In how many scenes auto is clearly worse."""
        return sum(gain < -WORSE_BY for gain in self.gains)

    @property
    def better(self) -> int:
        """In how many scenes auto is clearly better."""
        return sum(gain > WORSE_BY for gain in self.gains)


def compare(side: int, scenes: Sequence[int], steps: int) -> Comparison:
    """Fill held-out scenes of side x side pixels both ways with the bundled model."""
    numbers = [number for number in scenes if all(_is_cropped(number, side, empty=empty) for empty in (False, True))]
    full, auto = _Watched(by_worker(steps, region="full")), _Watched(by_worker(steps, region="auto"))
    made = [_generated(_scene(number, side, empty=empty)) for number in numbers for empty in (False, True)]
    return Comparison(
        side,
        full=measure(full, numbers, side=side, hole=HOLE),
        auto=measure(auto, numbers, side=side, hole=HOLE),
        share=sum(made) / len(made) / side**2,
        changed_outside=full.changed_outside + auto.changed_outside,
    )


def as_lines(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Return the figures as the lines of a Markdown table."""
    yield f"| canvas | region | generated | colour right | IoU | empty prompt: at least {PSNR_BAR:.0f} dB | median |"
    yield "|---|---|---|---|---|---|---|"
    for one in comparisons:
        for name, quality, share in (("full", one.full, 1.0), ("auto", one.auto, one.share)):
            yield (
                f"| {one.side} x {one.side} ({len(quality.drawn)}) | {name} | {share:.0%} | {quality.colour_share:.0%} "
                f"| {quality.mean_iou:.2f} | {quality.continued_share:.0%} | {quality.median_psnr:.1f} dB |"
            )
    for one in comparisons:
        yield ""
        yield (
            f"{one.side} x {one.side}, scene by scene, empty prompt: auto less full is {median(one.gains):+.1f} dB "
            f"in the median; auto is worse by more than {WORSE_BY:.0f} dB in {one.worse} of {len(one.gains)}, "
            f"better by as much in {one.better}. Kept pixels that changed: {one.changed_outside}."
        )


def as_data(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return the same as JSON values."""
    return [
        {
            "side": one.side,
            "scenes": len(one.gains),
            "generated_share": round(one.share, 4),
            "median_gain_db": round(median(one.gains), 2),
            "worse": one.worse,
            "better": one.better,
            "changed_outside": one.changed_outside,
        }
        | {
            name: {
                "colour_share": round(quality.colour_share, 4),
                "mean_iou": round(quality.mean_iou, 4),
                "continued_share": round(quality.continued_share, 4),
                "median_psnr": round(quality.median_psnr, 2),
            }
            for name, quality in (("full", one.full), ("auto", one.auto))
        }
        for one in comparisons
    ]


class _Watched:
    """A Fill that counts what it changed where nothing was masked."""

    def __init__(self, fill: Fill) -> None:
        self._fill = fill
        self.changed_outside = 0

    def __call__(self, scene: Scene, seed: int) -> Pixels:
        made = self._fill(scene, seed)
        before = np.round(scene.before * 255).astype(np.uint8)
        differs = (np.round(made * 255).astype(np.uint8) != before).any(axis=2)
        self.changed_outside += int((differs & ~scene.mask).sum())
        return made


def _scene(number: int, side: int, *, empty: bool) -> Scene:
    return held_out(number, empty=empty, side=side, hole=HOLE)


def _is_cropped(number: int, side: int, *, empty: bool) -> bool:
    return bool(areas_of(canvas_of(_scene(number, side, empty=empty)), "auto").boxes)


def _generated(scene: Scene) -> int:
    return sum(part.width * part.height for part in areas_of(canvas_of(scene), "auto").parts)
