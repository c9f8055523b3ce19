"""How well a model fills scenes that it never saw: colour, shape and background, each as a number with a bar.

The figures of docs/quality.md and the tests come from here. Nothing here knows how a picture was made, and no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np

from infra.demo_model.backgrounds import KINDS
from infra.demo_model.scenes import HELD_OUT, Scene, draw_scene
from infra.demo_model.shapes import COLOURS, Pixels

SIDE: Final = 512
PSNR_BAR: Final = 20.0
"""dB from which on a continued background counts as continued."""

Fill = Callable[[Scene, int], Pixels]
"""Fills a scene with a seed: height x width x 3, from 0 to 1."""


@dataclass(frozen=True)
class Drawn:
    """How a prompt was obeyed in one scene."""

    prompt: str
    background: str
    iou: float
    """Intersection over union of the wanted shape and what has its colour rather than the background's."""
    nearest: str
    """The palette's colour that is nearest to the mean inside the wanted shape."""
    wanted: str

    @property
    def colour_is_right(self) -> bool:
        """Whether the prompt's colour fills its shape."""
        return self.nearest == self.wanted


@dataclass(frozen=True)
class Continued:
    """How an empty prompt continued one scene's background."""

    background: str
    psnr: float
    """Inside the mask, in dB."""


@dataclass(frozen=True)
class Quality:
    """All that was filled."""

    drawn: tuple[Drawn, ...]
    continued: tuple[Continued, ...]

    @property
    def colour_share(self) -> float:
        """The share of prompts whose colour fills their shape."""
        return fmean(one.colour_is_right for one in self.drawn)

    @property
    def mean_iou(self) -> float:
        """The mean over all prompts."""
        return fmean(one.iou for one in self.drawn)

    @property
    def continued_share(self) -> float:
        """The share of empty prompts with at least PSNR_BAR."""
        return fmean(one.psnr >= PSNR_BAR for one in self.continued)

    @property
    def median_psnr(self) -> float:
        """Of the empty prompts, in dB."""
        return float(np.median([one.psnr for one in self.continued]))


def measure(
    fill: Fill, numbers: Sequence[int], *, side: int = SIDE, hole: tuple[float, float] | None = None
) -> Quality:
    """Fill the held-out scenes of these numbers, each once with a prompt and once without, and judge them.

    `side` and `hole`: of the pictures and of their masks, as in held_out.
    """
    drawn, continued = [], []
    for number in numbers:
        background = KINDS[number % len(KINDS)]
        scene = held_out(number, empty=False, side=side, hole=hole)
        drawn.append(judge_drawn(scene, fill(scene, number), background))
        scene = held_out(number, empty=True, side=side, hole=hole)
        continued.append(Continued(background, psnr(scene, fill(scene, number))))
    return Quality(tuple(drawn), tuple(continued))


def held_out(number: int, *, empty: bool, side: int = SIDE, hole: tuple[float, float] | None = None) -> Scene:
    """Return the scene of this number, which no training has seen; its background goes by turns.

    `side` is the picture's in pixels, `hole` how large the mask is, as in draw_scene.
    """
    seed, background = HELD_OUT + 2 * number + empty, KINDS[number % len(KINDS)]
    return draw_scene(seed, side, side, empty=empty, background=background, plain_words=True, hole=hole)


def judge_drawn(scene: Scene, made: Pixels, background: str) -> Drawn:
    """Return how well `made` shows what the scene's prompt names. Raises ValueError where it names nothing."""
    figure = scene.wanted
    if figure is None:
        raise ValueError("this scene has no prompt")
    height, width = scene.mask.shape
    palette = np.array(COLOURS[figure.colour], dtype=np.float32)
    shape = figure.outside(width, height) <= 0
    is_coloured = np.linalg.norm(made - palette, axis=2) < np.linalg.norm(made - scene.before, axis=2)
    found = is_coloured & scene.mask
    mean = made[shape].mean(axis=0)
    nearest = min(COLOURS, key=lambda name: float(np.linalg.norm(mean - np.array(COLOURS[name]))))
    return Drawn(
        prompt=scene.prompt,
        background=background,
        iou=float((found & shape).sum() / max(1, (found | shape).sum())),
        nearest=nearest,
        wanted=figure.colour,
    )


def psnr(scene: Scene, made: Pixels) -> float:
    """Return the peak signal-to-noise ratio between `made` and the scene's truth inside the mask, in dB."""
    square = float(((made - scene.truth)[scene.mask] ** 2).mean())
    return float(10 * np.log10(1 / max(square, 1e-10)))
