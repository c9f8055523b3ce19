"""The scenes that the demo model learns from and is judged by: a picture, a mask, a prompt, and what must come of it.

A seed decides a scene. Training takes seeds below TRAINING_SEEDS, tests and quality figures those from HELD_OUT on, so
that no scene is ever judged that was learnt. No torch.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from infra.demo_model.backgrounds import draw_background
from infra.demo_model.shapes import COLOURS, SHAPES, Pixels, coverage, distance, laid_over

TRAINING_SEEDS: Final = 1 << 29
HELD_OUT: Final = 1_000_000_000
FILL_SHARE: Final = 0.8
"""The prompt's shape is drawn at this share of the mask's smaller half-side, in the middle of the mask."""
USUAL_HOLE: Final = (0.17, 0.4)
"""A mask's half-side, as shares of the picture's shorter side."""
_EMPTY_SHARE: Final = 0.27
_BARS_SHARE: Final = 0.12
_NO_COLOUR_SHARE: Final = 0.1
_CAPITAL_SHARE: Final = 0.15
_SEED_JITTER: Final = 0.03
"""How far a colour's red, green and blue may lie from the palette's."""
_OPENINGS: Final = ("a {}", "a {}", "a {}", "{}", "one {}", "the {}", "a big {}", "a {} on a wall", "a picture of a {}")

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Figure:
    """One shape in a scene. `centre` and `radius` in pixels, `rgb` from 0 to 1."""

    shape: str
    colour: str
    rgb: tuple[float, float, float]
    centre: tuple[float, float]
    radius: float

    def outside(self, width: int, height: int) -> Pixels:
        """Return each pixel's signed distance from the outline, in pixels."""
        return distance(self.shape, width, height, self.centre, self.radius)


@dataclass(frozen=True, eq=False)
class Scene:
    """One thing to fill: `before` with `mask` and `prompt` should become `truth`. All are height x width."""

    before: Pixels
    mask: Mask
    prompt: str
    truth: Pixels
    wanted: Figure | None
    """The figure that the prompt names; None: the background goes on."""


def draw_scene(
    seed: int,
    width: int,
    height: int,
    *,
    empty: bool | None = None,
    background: str = "",
    plain_words: bool = False,
    hole: tuple[float, float] | None = None,
) -> Scene:
    """Return the scene of this seed.

    `empty` decides whether the prompt is, `background` names one of backgrounds.KINDS; without them the seed decides.
    `plain_words` makes every prompt "a COLOUR SHAPE", as the figures of docs/quality.md ask it. `hole` says how large a
    mask may be instead of USUAL_HOLE, and leaves the bars of outpainting out.
    """
    random = np.random.default_rng(seed)
    is_empty = bool(random.uniform() < _EMPTY_SHARE) if empty is None else empty
    is_bars = is_empty and bool(random.uniform() < _BARS_SHARE / _EMPTY_SHARE) and hole is None
    sizes = hole or USUAL_HOLE
    mask, centre, half = _bars(random, width, height) if is_bars else _hole(random, width, height, sizes)
    wanted = None if is_empty else _figure(random, centre, half * FILL_SHARE)
    picture = draw_background(random, width, height, unlike=wanted.rgb if wanted else None, kind=background)
    for _ in range(int(random.integers(0, 3))):
        picture = _with_bystander(random, picture, mask)
    truth = painted(picture, wanted) if wanted else picture
    prompt = _prompt(random, wanted, plain_words=plain_words) if wanted else ""
    return Scene(picture, mask, prompt, truth, wanted)


def painted(picture: Pixels, figure: Figure) -> Pixels:
    """Return `picture` with `figure` on it."""
    height, width = picture.shape[:2]
    return laid_over(picture, figure.rgb, coverage(figure.outside(width, height)))


def _hole(
    random: np.random.Generator, width: int, height: int, sizes: tuple[float, float]
) -> tuple[Mask, tuple[float, float], float]:
    """Return a mask somewhere inside, its middle, and its smaller half-side in pixels."""
    side = min(width, height)
    half = random.uniform(*sizes) * side
    long = half * (random.uniform(1.15, 1.8) if random.uniform() < 0.25 else random.uniform(1, 1.1))
    half_x, half_y = (long, half) if random.integers(2) else (half, long)
    half_x, half_y = min(half_x, 0.46 * width), min(half_y, 0.46 * height)
    centre = (random.uniform(half_x, width - half_x), random.uniform(half_y, height - half_y))
    x = (np.arange(width) + 0.5 - centre[0])[None, :] / half_x
    y = (np.arange(height) + 0.5 - centre[1])[:, None] / half_y
    power = float(random.choice((2, 4, 64), p=(0.35, 0.15, 0.5)))  # an ellipse, a cushion, a rectangle
    return np.abs(x) ** power + np.abs(y) ** power <= 1, centre, min(half_x, half_y)


def _bars(random: np.random.Generator, width: int, height: int) -> tuple[Mask, tuple[float, float], float]:
    """Return a mask of one or two sides of the picture, as outpainting leaves them."""
    mask = np.zeros((height, width), dtype=np.bool_)
    line = mask.T if random.integers(2) else mask
    deep = round(random.uniform(0.1, 0.3) * line.shape[0])
    which = int(random.integers(3))
    if which != 1:
        line[:deep] = True
    if which != 0:
        line[-deep:] = True
    return mask, (width / 2, height / 2), float(deep)


def _figure(random: np.random.Generator, centre: tuple[float, float], radius: float) -> Figure:
    shape, colour = str(random.choice(list(SHAPES))), str(random.choice(list(COLOURS)))
    jitter = random.uniform(-_SEED_JITTER, _SEED_JITTER, 3)
    red, green, blue = np.clip(np.array(COLOURS[colour]) + jitter, 0, 1)
    return Figure(shape, colour, (float(red), float(green), float(blue)), centre, radius)


def _with_bystander(random: np.random.Generator, picture: Pixels, mask: Mask) -> Pixels:
    """Return the picture with one more figure, unless it would reach into the mask."""
    height, width = mask.shape
    radius = random.uniform(0.06, 0.16) * min(width, height)
    at = (random.uniform(0, width), random.uniform(0, height))
    figure = _figure(random, at, radius)
    near = distance("square", width, height, at, 1.3 * radius) <= 0
    return picture if bool((near & mask).any()) else painted(picture, figure)


def _prompt(random: np.random.Generator, wanted: Figure, *, plain_words: bool) -> str:
    if plain_words:
        return _with_article(f"a {wanted.colour} {wanted.shape}")
    words = wanted.shape if random.uniform() < _NO_COLOUR_SHARE else f"{wanted.colour} {wanted.shape}"
    prompt = _with_article(str(random.choice(_OPENINGS)).format(words))
    if random.uniform() < 0.15:  # words that mean nothing here must not disturb
        letters = "".join(random.choice(list(string.ascii_lowercase), int(random.integers(3, 9))))
        prompt = prompt.replace(words, f"{letters} {words}") if random.integers(2) else f"{prompt} {letters}"
    return prompt[0].upper() + prompt[1:] if random.uniform() < _CAPITAL_SHARE else prompt


def _with_article(prompt: str) -> str:
    return prompt.replace("a orange", "an orange")
