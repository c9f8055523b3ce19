"""The workload of `headline`: fills of every kind, all dealt from the decks below by one fixed seed.

How often each size, mask, LoRA, number of images, step count and prompt comes is fixed; which of them come together is
left to the shuffle, and nothing here knows who is measured. The first decks had small pictures, to save time: on seven
of their ten jobs nothing could be cropped. These have the sizes that the endpoint is asked for, its default most often,
and masks from 1 to 40% in even steps of proportion, as things in photographs come; they were not changed again.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from PIL import Image, ImageDraw, ImageOps

from tests.benchmarks.seam_pairs import photographs

T = TypeVar("T")

JOBS: Final = 10
_SEED: Final = 20260101

_SIZES: Final = (
    *((1024, 1024),) * 5,
    *((1024, 768),) * 2,
    (768, 1024),
    (768, 768),
    (512, 512),
)
_MASKS: Final = (
    *(
        (shape, share)
        for shape, share in zip(
            ("rectangle", "ellipse", "stroke", "islands") * 2,
            (0.01, 0.082, 0.017, 0.049, 0.40, 0.24, 0.029, 0.14),
            strict=True,
        )
    ),
    ("outpainting", 0.25),
    ("all", 1.0),
)
"""Shapes, and the share of the area that each is to fill."""
_LORAS: Final = (*(None,) * 6, *("striped", "outlined") * 2)
_SCALES: Final = (*(1.0,) * 4, *(0.8, 0.6) * 3)
_IMAGES: Final = (*(1,) * 9, 3)
_STEPS: Final = (*(10,) * 5, *(7,) * 3, *(4,) * 2)
"""A third of what is usual (28, 20 and 12), so that the row takes minutes."""
_PROMPTS: Final = (
    *("a red circle",) * 3,
    *("",) * 2,
    "a green square",
    "a blue star on the wall",
    "a picture of a white triangle",
    "one big yellow ring",
    "a cross",
)
"""Half of the jobs share two prompts; the others have one of their own each."""


@dataclass(frozen=True)
class Fill:
    """One job of the workload."""

    number: int
    photo: int
    width: int
    height: int
    shape: str
    share: float
    prompt: str
    steps: int
    images: int
    lora: str | None
    scale: float

    @property
    def seed(self) -> int:
        """The seed of its first image."""
        return 1000 + 10 * self.number


def workload() -> tuple[Fill, ...]:
    """Return the jobs, always the same and in this order."""
    chance = random.Random(_SEED)  # noqa: S311 - no secret comes of it
    decks = zip(
        _dealt([number % 6 for number in range(JOBS)], chance),
        _dealt(_SIZES, chance),
        _dealt(_MASKS, chance),
        _dealt(_PROMPTS, chance),
        _dealt(_STEPS, chance),
        _dealt(_IMAGES, chance),
        _dealt(_LORAS, chance),
        _dealt(_SCALES, chance),
        strict=True,
    )
    return tuple(
        Fill(number, photo, width, height, shape, share, prompt, steps, images, lora, scale)
        for number, (photo, (width, height), (shape, share), prompt, steps, images, lora, scale) in enumerate(decks)
    )


def _dealt(deck: Sequence[T], chance: random.Random) -> list[T]:
    return chance.sample(deck, len(deck))


def draw(fills: Sequence[Fill]) -> list[tuple[Image.Image, Image.Image]]:
    """Return each job's picture (RGB) and mask (L, black and white), both of its size."""
    photos = [photo.convert("RGB") for _, photo in photographs()]
    drawn = []
    for fill in fills:
        size = (fill.width, fill.height)
        picture = ImageOps.fit(photos[fill.photo], size, Image.Resampling.LANCZOS)
        mask = Image.new("L", size)
        _draw_mask(fill, ImageDraw.Draw(mask), random.Random(f"mask {fill.number}"))  # noqa: S311
        if fill.shape == "outpainting":
            picture.paste((128, 128, 128), mask=mask)
        drawn.append((picture, mask))
    return drawn


def _draw_mask(fill: Fill, pencil: ImageDraw.ImageDraw, chance: random.Random) -> None:
    width, height = fill.width, fill.height
    area = fill.share * width * height
    match fill.shape:
        case "rectangle" | "ellipse":
            # Of the canvas's own proportions, give or take a fifth; an ellipse fills less of its box.
            scale = math.sqrt(fill.share * (4 / math.pi if fill.shape == "ellipse" else 1.0))
            lean = chance.uniform(0.8, 1.25)
            across, down = width * min(0.98, scale * lean), height * min(0.98, scale / lean)
            left, top = chance.uniform(0, width - across), chance.uniform(0, height - down)
            box = (left, top, left + across, top + down)
            pencil.ellipse(box, fill=255) if fill.shape == "ellipse" else pencil.rectangle(box, fill=255)
        case "stroke":
            points = [(x * width, chance.uniform(0.15, 0.85) * height) for x in (0.1, 0.4, 0.7, 0.9)]
            length = sum(math.dist(one, other) for one, other in itertools.pairwise(points))
            pencil.line(points, fill=255, width=max(2, round(area / length)), joint="curve")
        case "islands":
            radius = math.sqrt(area / 3 / math.pi)
            for x, y in ((0.22, 0.25), (0.78, 0.3), (0.45, 0.78)):
                pencil.circle((x * width, y * height), radius, fill=255)
        case "outpainting":
            pencil.rectangle((0, 0, width, height), fill=255)
            beside = (0, 0, round(width * (1 - fill.share)) - 1, height)
            below = (0, round(height * fill.share), width, height)
            pencil.rectangle(chance.choice((beside, below)), fill=0)
        case _:
            pencil.rectangle((0, 0, width, height), fill=255)
