"""`python -m tests.benchmarks.sparse_tokens`: what masked-token steps would save, and what they would cost in quality.

Operations are counted on FLUX.1 Fill's real configuration, quality is the bundled model's on drawn scenes. Beside them
stands what costs as little without them: crops around the mask, and fewer steps. It is no row of `make bench`, since
nothing that is shipped depends on it: docs/decisions/0017 says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean, median
from typing import Final

import click
import diffusers
import numpy as np
import torch
from PIL import Image

from infra.demo_model.measuring import fill_scene
from infra.demo_model.quality import PSNR_BAR, held_out, judge_drawn, psnr
from infra.demo_model.scenes import Scene
from infra.demo_model.shapes import Pixels
from tests.benchmarks.flux_flops import TOKEN, count_step, flux_transformer
from tests.benchmarks.sparse_steps import Plan, mask_tokens, sparse_steps
from tests.support.fills import FillSettings
from worker.canvas import draw_canvas
from worker.model import FluxFillModel, load_model
from worker.region.areas import areas_of

SHARES: Final = (0.03, 0.05, 0.1, 0.2, 0.4)
EVERY: Final = (2, 3, 4, 6, 8)
FLUX_SIDE: Final = 1024
FLUX_STEPS: Final = 28
STEPS: Final = 20
SIDE: Final = 512
TRIED_AT: Final = 0.1
"""The mask at which the variants are compared."""
VARIANTS: Final = {
    "k = 4, no ring": Plan(4, ring=0),
    "k = 4, ring of 2": Plan(4, ring=2),
    "k = 4, without text": Plan(4, asks_text=False),
    "k = 4, without text, ring of 2": Plan(4, asks_text=False, ring=2),
    "by noise level, as many as k = 4": Plan(noise_span=4 / STEPS),
    "k = 20: the first step alone is whole": Plan(20),
}
FEWEST: Final = (4, 2)
"""Numbers of whole steps that show how much this model minds."""


@dataclass(frozen=True)
class Area:
    """What is generated at once with the real model: its image tokens, and those that the mask and the ring take."""

    tokens: int
    rows: int

    @property
    def asked(self) -> float:
        """The share of tokens that a sparse step computes."""
        return self.rows / self.tokens


@dataclass(frozen=True)
class Score:
    """One fill: how near it is to all steps whole, and how well it does by itself."""

    near: float
    """PSNR inside the mask, in dB, to what all steps whole make of the same scene and seed."""
    iou: float | None = None
    colour_is_right: bool | None = None
    truth: float | None = None
    """PSNR inside the mask, in dB, to the background that goes on; of empty prompts only."""


def square(share: float) -> tuple[list[Area], list[Area]]:
    """Return what is generated of 1024 x 1024 with a square in the middle masked: under region full, and under auto."""
    half = round(FLUX_SIDE * share**0.5 / 2)
    middle = slice(FLUX_SIDE // 2 - half, FLUX_SIDE // 2 + half)
    mask = np.zeros((FLUX_SIDE, FLUX_SIDE), dtype=np.uint8)
    mask[middle, middle] = 255
    canvas = draw_canvas(Image.new("RGB", (FLUX_SIDE, FLUX_SIDE)), Image.fromarray(mask), None)
    full, auto = ([_area(part.mask) for part in areas_of(canvas, mode).parts] for mode in ("full", "auto"))
    return full, auto


def _area(mask: Image.Image) -> Area:
    rows = mask_tokens(torch.from_numpy(np.asarray(mask) / 255), TOKEN, Plan().ring)
    return Area(mask.width * mask.height // TOKEN**2, len(rows))


def operations(areas: Sequence[Area], plan: Plan) -> int:
    """Return what all FLUX_STEPS steps take by `plan`, which counts its whole steps by `every`."""
    whole = -(-FLUX_STEPS // plan.every)
    total = 0
    for area in areas:
        of_whole, of_sparse = _step_of_each(area, plan.asks_text)
        total += whole * of_whole + (FLUX_STEPS - whole) * of_sparse
    return total


@cache
def _step_of_each(area: Area, asks_text: bool) -> tuple[int, int]:
    rows = torch.empty(area.rows, dtype=torch.long, device="meta")
    with sparse_steps(flux_transformer(), Plan(2, asks_text=asks_text), rows):
        return count_step(area.tokens), count_step(area.tokens)


def operation_lines() -> Iterator[str]:
    """Yield the table of how many times fewer operations the real model's steps take than the whole canvas's."""
    yield (
        "| mask | tokens asked | "
        + " | ".join(f"k = {k}" for k in EVERY)
        + " | k = 4, without text | region auto |"
        + (" tokens asked in it | region auto and k = 4 | and without text |")
    )
    yield "|---" * (len(EVERY) + 7) + "|"
    silent = Plan(4, asks_text=False)
    for share in SHARES:
        full, auto = square(share)
        dense = operations(full, Plan())
        plans = [(full, Plan(k)) for k in EVERY] + [(full, silent), (auto, Plan())]
        more = [(auto, Plan(4)), (auto, silent)]
        ratios, with_region = ([f"{dense / operations(*one):.2f}x" for one in some] for some in (plans, more))
        yield (
            f"| {share:.0%} | {full[0].asked:.0%} | {' | '.join(ratios)} | {fmean(one.asked for one in auto):.0%} "
            f"| {' | '.join(with_region)} |"
        )
    config, tokens = flux_transformer().config, (FLUX_SIDE // TOKEN) ** 2 + 512
    blocks, width = config.num_layers + config.num_single_layers, config.num_attention_heads * config.attention_head_dim
    kept = blocks * 2 * tokens * width * 2
    yield f"Keys and values kept at {FLUX_SIDE}x{FLUX_SIDE} in bf16: {kept / 2**30:.2f} GiB an image."


class Filler:
    """The bundled model, and what it made of each scene in whole steps."""

    def __init__(self, model: FluxFillModel) -> None:
        self._model = model
        self._whole: dict[tuple[int, bool, float], Pixels] = {}

    def score(self, share: float, number: int, *, empty: bool, steps: int, plan: Plan | None) -> Score:
        """Fill one scene in so many steps, by `plan` or all whole, and judge it."""
        half = share**0.5 / 2
        scene = held_out(number, empty=empty, side=SIDE, hole=(half, half))
        key = (number, empty, share)
        if key not in self._whole:
            self._whole[key] = self._fill(scene, number, STEPS, None)
        made = self._fill(scene, number, steps, plan) if plan or steps != STEPS else self._whole[key]
        near = psnr(replace(scene, truth=self._whole[key]), made)
        if empty:
            return Score(near, truth=psnr(scene, made))
        drawn = judge_drawn(scene, made, "")
        return Score(near, iou=drawn.iou, colour_is_right=drawn.colour_is_right)

    def _fill(self, scene: Scene, seed: int, steps: int, plan: Plan | None) -> Pixels:
        pipe = self._model._pipe
        by_plan = nullcontext() if plan is None else sparse_steps(pipe.transformer, plan, self._rows(scene, plan))
        with by_plan:
            return fill_scene(self._model, scene, seed, steps=steps)

    def _rows(self, scene: Scene, plan: Plan) -> torch.Tensor:
        return mask_tokens(torch.from_numpy(scene.mask), self._model._pipe.vae_scale_factor * 2, plan.ring)


def ways(share: float) -> dict[str, tuple[int, Plan | None]]:
    """Return by name in how many steps, and by which plan, masks of this share are filled.

    To each k belong as many whole steps as cost no more with the real model and this mask.
    """
    full, _ = square(share)
    dense = operations(full, Plan())
    found: dict[str, tuple[int, Plan | None]] = {f"{STEPS} whole steps": (STEPS, None)}
    for k in EVERY:
        fewer = int(STEPS * operations(full, Plan(k)) / dense)
        found |= {f"k = {k}": (STEPS, Plan(k)), f"{fewer} whole steps": (fewer, None)}
    if share == TRIED_AT:
        found |= {name: (STEPS, plan) for name, plan in VARIANTS.items()}
        found |= {f"{steps} whole steps": (steps, None) for steps in FEWEST}
    return found


def quality_lines(filler: Filler, numbers: Sequence[int], shares: Sequence[float]) -> Iterator[str]:
    """Yield the table of how the bundled model's fills fare each way: each scene with a prompt, and without one."""
    yield f"| mask | way | to {STEPS} whole steps | lowest | colour right | IoU | empty prompt | ≥ {PSNR_BAR:.0f} dB |"
    yield "|---" * 8 + "|"
    for share in shares:
        for name, (steps, plan) in ways(share).items():
            scores = [
                filler.score(share, number, empty=empty, steps=steps, plan=plan)
                for number in numbers
                for empty in (False, True)
            ]
            yield f"| {share:.0%} | {name} | {_summary(scores)} |"


def _summary(scores: Sequence[Score]) -> str:
    near = [one.near for one in scores]
    truths = [one.truth for one in scores if one.truth is not None]
    ious = [one.iou for one in scores if one.iou is not None]
    right = [one.colour_is_right for one in scores if one.colour_is_right is not None]
    return (
        f"{median(near):.1f} dB | {min(near):.1f} dB | {fmean(right):.0%} | {fmean(ious):.3f} "
        f"| {median(truths):.1f} dB | {fmean(one >= PSNR_BAR for one in truths):.0%}"
    )


@click.command()
@click.option(
    "--scenes", type=click.IntRange(1), default=6, show_default=True, help="Held-out scenes of each mask size."
)
@click.option("--share", "shares", type=float, multiple=True, default=SHARES, help="Masks' shares of the picture.")
def main(scenes: int, shares: tuple[float, ...]) -> None:
    """Count the operations, fill the scenes, and print both tables."""
    diffusers.utils.logging.set_verbosity_error()
    for line in operation_lines():
        click.echo(line)
    for line in quality_lines(Filler(load_model(FillSettings())), range(scenes), shares):
        click.echo(line)


if __name__ == "__main__":
    main()
