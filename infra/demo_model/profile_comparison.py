"""Profile fast against exact, on the same scenes with the same seeds: how far apart the pictures are, what is saved.

The accelerations are the worker's own, set as an operator sets them. What is timed is the processor's time of this
process, so that it matters little what else the machine does; what a GPU would save, it does not tell.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import numpy as np

from common.settings import Settings
from infra.demo_model.backgrounds import KINDS
from infra.demo_model.measuring import fill_scene
from infra.demo_model.quality import PSNR_BAR, Continued, Drawn, Quality, held_out, judge_drawn, psnr
from infra.demo_model.scenes import Scene
from infra.demo_model.shapes import Pixels
from worker.model import FluxFillModel, load_model

FAST: Final = {"fill_profile": "fast"}
WAYS: Final[dict[str, dict[str, Any]]] = {
    "exact": {},
    "fast, step cache at 0.04": FAST | {"fill_step_cache_threshold": 0.04},
    "fast, step cache at 0.08 (default)": FAST,
    "fast, step cache at 0.15": FAST | {"fill_step_cache_threshold": 0.15},
    "fast, int8, no step cache": FAST | {"fill_step_cache": False, "fill_quantization": "int8"},
    "fast, int8 and step cache at 0.08": FAST | {"fill_quantization": "int8"},
}
"""What is compared, by its name in the table; the first is what the others are compared with."""


@dataclass
class Way:
    """One way to compute, and what came of it so far."""

    name: str
    steps: int
    model: FluxFillModel
    whole_steps: int = 0
    seconds: float = 0.0
    """Of the processor, all cores together."""
    distances: list[float] = field(default_factory=list)
    """PSNR to exact inside the mask, in dB, of each picture."""
    drawn: list[Drawn] = field(default_factory=list)
    continued: list[Continued] = field(default_factory=list)

    def fill(self, scene: Scene, seed: int) -> Pixels:
        """Fill one scene, and count what it took."""

        def count(*_: Any) -> None:
            self.whole_steps += 1

        # A step that is taken over in part never comes to the last block.
        hook = self.model._pipe.transformer.single_transformer_blocks[-1].register_forward_pre_hook(count)
        began = time.process_time()
        try:
            return fill_scene(self.model, scene, seed, steps=self.steps)
        finally:
            self.seconds += time.process_time() - began
            hook.remove()

    @property
    def quality(self) -> Quality:
        """How well it filled."""
        return Quality(tuple(self.drawn), tuple(self.continued))


def compare(steps: int, scenes: Sequence[int]) -> list[Way]:
    """Fill held-out scenes in every way with the bundled model, in turns; each once with a prompt and once without."""
    ways = [Way(name, steps, _load(settings)) for name, settings in WAYS.items()]
    for way in ways:
        way.fill(held_out(0, empty=True), 0)  # what is done once at the first job is nobody's cost
        way.whole_steps, way.seconds = 0, 0.0
    for number in scenes:
        for empty in (False, True):
            scene = held_out(number, empty=empty)
            exact = None
            for way in ways:
                made = way.fill(scene, number)
                exact = made if exact is None else exact
                way.distances.append(_distance(scene, made, exact))
                _judge(way, scene, made, KINDS[number % len(KINDS)])
    return ways


def as_lines(ways: Sequence[Way]) -> Iterator[str]:
    """Return the figures as the lines of a Markdown table."""
    exact = ways[0]
    yield (
        f"| {exact.steps} steps, {len(exact.drawn)} scenes | whole steps | processor's time | PSNR to exact: median, "
        f"lowest | colour right | IoU | empty prompt: at least {PSNR_BAR:.0f} dB | median |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for way in ways:
        one = _figures(way, exact)
        apart = "" if way is exact else f"{one['median_psnr_to_exact']:.1f} dB, {one['lowest_psnr_to_exact']:.1f} dB"
        yield (
            f"| {way.name} | {one['whole_steps']:.1f} | {one['time']:.2f} | {apart} | {one['colour_share']:.0%} "
            f"| {one['mean_iou']:.2f} | {one['continued_share']:.0%} | {one['median_psnr']:.1f} dB |"
        )


def as_data(ways: Sequence[Way]) -> dict[str, Any]:
    """Return the same as JSON values, by the way's name."""
    return {way.name: {"steps": way.steps, "scenes": len(way.drawn)} | _figures(way, ways[0]) for way in ways}


def _figures(way: Way, exact: Way) -> dict[str, float]:
    quality = way.quality
    return {
        "whole_steps": round(way.whole_steps / len(way.distances), 2),
        "time": round(way.seconds / exact.seconds, 4),
        "median_psnr_to_exact": round(median(way.distances), 2),
        "lowest_psnr_to_exact": round(min(way.distances), 2),
        "colour_share": round(quality.colour_share, 4),
        "mean_iou": round(quality.mean_iou, 4),
        "continued_share": round(quality.continued_share, 4),
        "median_psnr": round(quality.median_psnr, 2),
    }


def _load(settings: dict[str, Any]) -> FluxFillModel:
    return load_model(Settings.model_validate({"fill_model": "bundled", "fill_device": "cpu"} | settings))


def _judge(way: Way, scene: Scene, made: Pixels, background: str) -> None:
    if scene.wanted is None:
        way.continued.append(Continued(background, psnr(scene, made)))
    else:
        way.drawn.append(judge_drawn(scene, made, background))


def _distance(scene: Scene, made: Pixels, exact: Pixels) -> float:
    square = float(((made - exact)[scene.mask] ** 2).mean())
    return float(10 * np.log10(1 / max(square, 1e-10)))
