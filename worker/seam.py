"""The seam: how far the model's colours are off beside the mask, and that difference taken back inside it.

A model makes the whole canvas anew, also what is kept, and its colours come out a little shifted. Outside the mask both
pictures are there, so the shift is measured there and carried inside, evenly and ever less: what the prompt asked for
keeps its colour. This never copies detail (one measure is a square of many pixels), never takes other content for a
shift of colour, and decides nothing about what is kept: that is the paste-back's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from worker.canvas import Canvas
from worker.feather import Bytes

Floats = npt.NDArray[np.float32]
"""Values on the grid of cells: height x width x channels."""
_Box = tuple[int, int, int, int]

_CELLS: int = 128
"""Cells along the shorter side: 8 pixels at 1024. What changes within one cell is texture, and no shift."""
_REACH: float = 8.0
"""Cells, a sixteenth of the shorter side, over which a shift of one place falls to a third on its way into the mask."""
_MARGIN: int = 4
"""Cells around the box of what is to be seen that are measured, too."""
_FIRMNESS: float = 2.0
"""How much being true to one cell's measure counts beside being even from cell to cell."""
_OTHER_CONTENT: float = 56.0
"""Levels of difference at which a measure counts half, and hardly at twice as many. By then it is no shift: something
else was drawn there, such as the end of a thing that reaches out of the mask, and its colours must not come in."""
_EVEN_SHIFT: float = 8.0
"""Levels by which places differ, in the median, when half of what they have in common is believed."""
_MOST_IN_COMMON: int = 12
"""Levels that are taken back everywhere, however deep inside. Colours stay what they are called."""
_ROUNDS: int = 8
"""Of smoothing, on each grid of the pyramid. On photographs the exact solution is half a level away in the mean."""
_ZERO: int = 128
"""The level that means no correction, in a correction that is kept as a picture."""


def mend_seam(canvas: Canvas, generated: Image.Image) -> Image.Image:
    """Return `generated` (RGB, the canvas's width x height) with its colours brought to the original's at the edge.

    Only where the mask is, and right around it, are they changed. Where nothing is known it comes back as it is.
    """
    side = cell_side(canvas.output_width, canvas.output_height)
    box = _around_mask(canvas, _MARGIN * side)
    made = generated.crop(box)
    share, shift = _measure(canvas.original.crop(box), made, canvas.mask.crop(box), side)
    if not share.any():
        return generated
    mended = generated.copy()
    mended.paste(_added(made, _carry_in(share, shift), side), box[:2])
    return mended


def cell_side(width: int, height: int) -> int:
    """Return the side of a cell in pixels for an output of this size: 8 at 1024."""
    return max(2, round(min(width, height) / _CELLS))


def _around_mask(canvas: Canvas, margin: int) -> _Box:
    width, height = canvas.output_width, canvas.output_height
    left, top, right, bottom = canvas.blend.getbbox() or (0, 0, width, height)  # all that shows, the faintest grey too
    return max(0, left - margin), max(0, top - margin), min(width, right + margin), min(height, bottom + margin)


def _measure(original: Image.Image, made: Image.Image, mask: Image.Image, side: int) -> tuple[Floats, Floats]:
    """Return, for each cell, the share of it that was kept, 0..1, and how far the original is from `made` there."""
    kept = (np.asarray(mask) == 0)[..., None]
    # Bars and what is transparent are filled, so here they are never kept: their colours are no original's.
    differences = np.subtract(np.asarray(original), np.asarray(made), dtype=np.int16) * kept
    count = _sums(kept.astype(np.int16), side)
    share: Floats = count / np.float32(side**2)
    shift: Floats = np.divide(_sums(differences, side), np.maximum(count, 1), dtype=np.float32)
    return share, shift


def _sums(values: npt.NDArray[np.int16], side: int) -> Floats:
    # The sum over each cell; the cells at the right and below may reach beyond the values.
    below, right = -values.shape[0] % side, -values.shape[1] % side
    whole = np.pad(values, [(0, below), (0, right), (0, 0)])
    rows, columns, channels = whole.shape[0] // side, whole.shape[1] // side, whole.shape[2]
    # First across the rows, where memory is contiguous: half the time. 12 x 255 fits 16 bits.
    bands = whole.reshape(rows, side, -1).sum(axis=1, dtype=np.int16)
    sums: Floats = bands.reshape(rows, columns, side, channels).sum(axis=2, dtype=np.int32).astype(np.float32)
    return sums


def _carry_in(share: Floats, shift: Floats) -> Floats:
    """Return the correction of every cell: true to `shift` where it was measured, inside going over to what is common.

    It is the smoothest there is, a membrane over what was measured, held back towards the common shift by _REACH.
    """
    common = _in_common(shift[share[..., 0] >= min(0.25, share.max())])
    own = shift - common
    strength = np.sqrt((own**2).mean(axis=2, keepdims=True)) / np.float32(_OTHER_CONTENT)
    weight = np.float32(_FIRMNESS) * share
    held_back = np.full_like(share, _REACH**-2)
    return common + _membrane(weight * own / (1 + strength**4), weight + held_back)


def _in_common(shifts: Floats) -> Floats:
    """Return the shift that is the same all around, of each channel; less of it, the less the places agree."""
    common = np.median(shifts, axis=0)
    disagreement = np.median(np.abs(shifts - common), axis=0)
    believed: Floats = common / (1 + (disagreement / np.float32(_EVEN_SHIFT)) ** 2)
    return believed.clip(-_MOST_IN_COMMON, _MOST_IN_COMMON)


def _membrane(pull: Floats, weight: Floats) -> Floats:
    """Return the u with weight * u = pull + the sum of its neighbours' differences from u, for each cell.

    Solved first on a grid of half as many cells a side, where far places are near, and then smoothed on this one.
    Sums are what a coarser grid takes over: in two dimensions the equation is then the same.
    """
    if max(weight.shape) > 2:
        coarse = _membrane(_halved(pull), _halved(weight))
        cells = coarse.repeat(2, axis=0).repeat(2, axis=1)[: pull.shape[0], : pull.shape[1]]
    else:
        cells = pull / weight
    for _ in range(_ROUNDS):
        edged = np.pad(cells, [(1, 1), (1, 1), (0, 0)], mode="edge")
        around = edged[:-2, 1:-1] + edged[2:, 1:-1] + edged[1:-1, :-2] + edged[1:-1, 2:]
        cells = (around + pull) / (4 + weight)
    return cells


def _halved(values: Floats) -> Floats:
    whole = np.pad(values, [(0, values.shape[0] % 2), (0, values.shape[1] % 2), (0, 0)])
    halved: Floats = whole[::2, ::2] + whole[1::2, ::2] + whole[::2, 1::2] + whole[1::2, 1::2]
    return halved


def _added(made: Image.Image, correction: Floats, side: int) -> Image.Image:
    # In Pillow's own loops, which leave the other threads alone; whole levels are enough, and none wraps around.
    levels: Bytes = (np.rint(correction) + _ZERO).clip(0, 255).astype(np.uint8)
    height, width = levels.shape[0] * side, levels.shape[1] * side
    smooth = Image.fromarray(levels).resize((width, height), Image.Resampling.BILINEAR)
    return ImageChops.add(made, smooth.crop((0, 0, *made.size)), scale=1, offset=-_ZERO)
