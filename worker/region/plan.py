"""Where a fill needs the model: boxes around what is masked, at the picture's own resolution, or the canvas as a whole.

A crop costs fewer tokens, and the model sees less of the picture. So everything here errs towards more context, and
says "the whole canvas" wherever a crop would save little or show too little. Plain geometry: no pixel is changed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from worker.canvas import MODEL_MULTIPLE
from worker.region.islands import Islands, Mask, Numbers, find_islands

BUCKET: Final = 64
"""Sides are multiples of this, or the canvas's own: a compiled model sees few shapes."""
MIN_SIDE: Final = 256
"""The smallest side that the contract lets anybody ask for: the model is not asked for less here, either."""
FLOOR_PIXELS: Final = 384 * 384
"""No area has fewer, 0.15 megapixels: FLUX.1 was made for 0.1 to 2, and near its lower end a face is but a few tokens.
A narrow stroke may have it as 640 x 256, which shows more of what the stroke goes through than a square does."""
MARGIN_PIXELS: Final = 64
"""At least so much is kept around an island: four tokens a side, enough to see what a hairline's ground goes on as."""
MARGIN_SHARE: Final = 1 / 3
"""Of the side of a square as large as what is filled: more is invented, so more must be seen. With it a solid square
fills 36 % of its crop; with half a side it would fill 25 %, and cost half as much again."""
LEAST_SAVING: Final = 1.15
"""How many times cheaper than the whole canvas it has to be. For less, the sight of the whole is not given up."""
MOST_FILLED: Final = 0.5
"""The most of a crop that may be filled: from there on it holds more that is invented than that is known."""
OUTPAINTED_BORDER: Final = 0.5
"""A border of which so much is filled is outpainted: bars take whole sides, things that end there rarely half of one.
What lies beyond a picture depends on all of it."""
TEXT_TOKENS: Final = 512
"""Paid again for each area: the prompt's, of which every step attends to all."""
_TOKENS_OF_EQUAL_COST: Final = 6 * 3072
"""With so many tokens attention costs as much as everything else: 24 d² operations a token against 4 d a pair, in each
of FLUX.1's layers, where d is 3072."""


@dataclass(frozen=True)
class Box:
    """One area, in the canvas's pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom, as Pillow wants them."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    @property
    def window(self) -> tuple[slice, slice]:
        """The same as rows and columns, as numpy wants them."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def plan_regions(mask: Mask) -> tuple[Box, ...]:
    """Return the areas to generate, from top to bottom; none where the whole canvas is to be generated.

    The sides of `mask` are multiples of 16. Each of its pixels lies in exactly one box. Boxes may share what is only
    context.
    """
    height, width = mask.shape
    if not mask.any() or _is_outpainted(mask):
        return ()
    islands = find_islands(mask)
    together = islands.together()
    apart = _grouped(islands, width, height)
    if _cost(*_sides(together, width, height)).sum() <= _cost(*_sides(apart, width, height)).sum():
        apart = together
    if cost_of(width, height) < LEAST_SAVING * float(_cost(*_sides(apart, width, height)).sum()):
        return ()
    boxes = _boxes(apart, width, height)
    if any(mask[box.window].mean() > MOST_FILLED for box in boxes):
        return ()
    return boxes


def cost_of(width: int, height: int) -> float:
    """Return what a step on so many pixels costs, in tokens of a model whose attention is free."""
    return float(_cost(np.array(width), np.array(height)))


def _cost(width: Numbers, height: Numbers) -> npt.NDArray[np.float64]:
    tokens = width * height / MODEL_MULTIPLE**2 + TEXT_TOKENS
    cost: npt.NDArray[np.float64] = tokens * (1 + tokens / _TOKENS_OF_EQUAL_COST)
    return cost


def _is_outpainted(mask: Mask) -> bool:
    borders = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    return any(border.mean() >= OUTPAINTED_BORDER for border in borders)


def _grouped(islands: Islands, width: int, height: int) -> Islands:
    """Return them with those united that are cheaper together, or of which one lies in another's area."""
    while len(islands) > 1:
        own = _cost(*_sides(islands, width, height))
        saved = np.add.outer(own, own) - _cost(*_sides(islands.with_every_other(), width, height))
        saved[_one_holds_of_the_other(islands, width, height)] = np.inf
        np.fill_diagonal(saved, -np.inf)
        one, other = divmod(int(saved.argmax()), len(islands))
        if saved[one, other] < 0:
            break
        islands = islands.joined(one, other)
    return islands


def _one_holds_of_the_other(islands: Islands, width: int, height: int) -> Mask:
    # Else the model would see in one area, as something to go on with, what another area is about to take away.
    wide, high = _sides(islands, width, height)
    left, top = _corners(islands, wide, high, width, height)
    holds: Mask = (
        (left[:, None] < islands.right)
        & ((left + wide)[:, None] > islands.left)
        & (top[:, None] < islands.bottom)
        & ((top + high)[:, None] > islands.top)
    )
    return holds | holds.T


def _sides(islands: Islands, width: int, height: int) -> tuple[Numbers, Numbers]:
    """Return the width and height of each island's area on a canvas of this size."""
    margin = np.maximum(MARGIN_PIXELS, MARGIN_SHARE * np.sqrt(islands.pixels))
    wide, high = islands.right - islands.left + 2 * margin, islands.bottom - islands.top + 2 * margin
    square = FLOOR_PIXELS**0.5
    at_least_wide = np.maximum(MIN_SIDE, FLOOR_PIXELS / np.maximum(high, square))
    at_least_high = np.maximum(MIN_SIDE, FLOOR_PIXELS / np.maximum(wide, square))
    return _bucketed(np.maximum(wide, at_least_wide), width), _bucketed(np.maximum(high, at_least_high), height)


def _bucketed(side: npt.NDArray[np.float64], most: int) -> Numbers:
    bucketed: Numbers = np.minimum(np.ceil(side / BUCKET) * BUCKET, most).astype(np.int64)
    return bucketed


def _corners(islands: Islands, wide: Numbers, high: Numbers, width: int, height: int) -> tuple[Numbers, Numbers]:
    # The island in the middle; at a border the area is moved in, so that it keeps its size and shows more elsewhere.
    left = ((islands.left + islands.right - wide) // 2).clip(0, width - wide)
    top = ((islands.top + islands.bottom - high) // 2).clip(0, height - high)
    return left, top


def _boxes(islands: Islands, width: int, height: int) -> tuple[Box, ...]:
    wide, high = _sides(islands, width, height)
    left, top = _corners(islands, wide, high, width, height)
    found = zip(left.tolist(), top.tolist(), wide.tolist(), high.tolist(), strict=True)
    return tuple(sorted((Box(*one) for one in found), key=lambda box: (box.top, box.left)))
