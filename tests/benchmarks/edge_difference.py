"""The seam along a mask's edge, as a number: by how much more the colours change across the edge than right beside it.

It knows neither how the picture was made nor what the original was, and its bands lie beyond the feather: blurring the
edge does not make it smaller. Colours of a photograph change everywhere, and more so where much is to be seen; that
part is measured next to the edge, where nothing was filled, and is no seam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from skimage.color import deltaE_ciede2000, rgb2lab

from worker.feather import feather_radius

BAND: Final = 4
"""Pixels that a band is wide."""
WINDOW: Final = 8
"""Pixels in each direction from one of the edge, within which a band's colour is averaged there."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EdgeDifference:
    """Both are CIEDE2000, the mean over the edge's pixels."""

    across: float
    """Between the band right outside the edge and the one inside it that begins beyond the feather."""
    beside: float
    """Between the same band outside and one as far from it as the inner one, but further outside."""

    @property
    def seam(self) -> float:
        """What the edge adds; 0 where colours change across it no more than beside it."""
        return max(0.0, self.across - self.beside)


def edge_difference(picture: Image.Image, filled: Bools) -> EdgeDifference:
    """Measure `picture` (RGB) along the edge of the mask `filled` (height x width).

    A band's colour is the mean Lab colour of its pixels within WINDOW. The picture's own border is no edge. Raises
    ValueError where there is no edge with room for the bands.
    """
    gap = feather_radius(picture.width, picture.height)
    inside = _shrunk(filled, gap) & ~_shrunk(filled, gap + BAND)
    outside = ~filled & ~_shrunk(~filled, BAND)
    further = _shrunk(~filled, BAND + gap) & ~_shrunk(~filled, 2 * BAND + gap)
    lab: Floats = rgb2lab(np.asarray(picture))
    (inner, has_inner), (outer, has_outer), (far, has_far) = (_colour(lab, band) for band in (inside, outside, further))
    seen = filled & ~_shrunk(filled, 1) & has_inner & has_outer & has_far
    if not seen.any():
        raise ValueError("the mask has no edge with room for the bands on both sides")
    return EdgeDifference(
        across=float(deltaE_ciede2000(inner[seen], outer[seen]).mean()),
        beside=float(deltaE_ciede2000(far[seen], outer[seen]).mean()),
    )


def _shrunk(where: Bools, by: int) -> Bools:
    # Pillow's filter goes on beyond the border with what is at it, so the border itself is no edge.
    shrunk: Bools = np.asarray(Image.fromarray(where).convert("L").filter(ImageFilter.MinFilter(2 * by + 1))) > 0
    return shrunk


def _colour(lab: Floats, band: Bools) -> tuple[Floats, Bools]:
    """Return the band's mean colour around each pixel, and where there is any."""
    count = _sums(band[..., None].astype(np.float64))
    return _sums(lab * band[..., None]) / np.maximum(count, 1), count[..., 0] >= 1


def _sums(values: Floats) -> Floats:
    # Over squares of 2 * WINDOW + 1 pixels, as differences of running sums.
    size = 2 * WINDOW + 1
    for _ in range(2):
        running = np.pad(values, [(WINDOW + 1, WINDOW), (0, 0), (0, 0)]).cumsum(axis=0)
        values = (running[size:] - running[:-size]).swapaxes(0, 1)
    return values
