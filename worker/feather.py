"""The feather: a soft mask -> how much of the generated picture shows, rising over a few pixels inside the mask's edge.

It never reaches outside the mask, never lets more through than the mask's own grey, and never thins out a thin stroke:
what is narrower than two ramps gets a ramp that still reaches full weight along its middle.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
"""Values 0..255; a mask is height x width, a picture height x width x 3."""

_RAMP_SHARE = 256
"""A ramp of one pixel for so many pixels of the shorter side: 4 at 1024. Wider would show a ghost of what was there."""


def feather_radius(width: int, height: int) -> int:
    """Return the ramp's width in pixels for an output of this size: 1 at 256, 6 at 1536."""
    return max(1, round(min(width, height) / _RAMP_SHARE))


def feather(soft: Bytes, radius: int) -> Bytes:
    """Return the blend weights for the snapped mask `soft` (height x width): 0 where it is 0, never above it.

    From a hard edge the weight rises over `radius` pixels, 255 from there on. Grey keeps its own value where that is
    lower. At the canvas's own border there is nothing to blend towards, so it counts as the mask's inside.
    """
    rows, columns = np.flatnonzero(soft.any(axis=1)), np.flatnonzero(soft.any(axis=0))
    if rows.size == 0:
        return soft.copy()
    # Work only where the mask is, with one pixel around it to see its edge.
    box = (slice(max(0, rows[0] - 1), rows[-1] + 2), slice(max(0, columns[0] - 1), columns[-1] + 2))
    weights = np.zeros_like(soft)
    weights[box] = np.minimum(soft[box], _ramp(soft[box] > 0, radius))
    return weights


def _ramp(inside: npt.NDArray[np.bool_], radius: int) -> Bytes:
    # `depth` counts the pixels' distance from the outside, up to radius + 1. `room` is the largest k, up to radius, for
    # which a square of 2k + 1 pixels that contains this pixel lies inside: half the stroke's width, so to speak. A
    # pixel's weight is depth / (room + 1): every such square's middle has depth room + 1, the full weight.
    layers = [inside.astype(np.uint8)]
    for _ in range(radius):
        layers.append(_spread(layers[-1], np.minimum))
    depth = np.add.reduce(layers, axis=0, dtype=np.uint8)
    room = np.zeros_like(depth)
    for k in range(radius, 0, -1):  # a k that enters here is spread k times, as far as its square reaches
        room = _spread(np.maximum(room, layers[k] * np.uint8(k)), np.maximum)
    table = np.array(
        [[min(255, round(255 * d / (k + 1))) for d in range(radius + 2)] for k in range(radius + 1)], dtype=np.uint8
    )
    weights: Bytes = table[room, depth]
    return weights


def _spread(values: Bytes, pick: np.ufunc) -> Bytes:
    # Each pixel becomes the least (or greatest) of the nine around it; beyond the array the border goes on.
    down = values.copy()
    pick(down[1:], values[:-1], out=down[1:])
    pick(down[:-1], values[1:], out=down[:-1])
    across = down.copy()
    pick(across[:, 1:], down[:, :-1], out=across[:, 1:])
    pick(across[:, :-1], down[:, 1:], out=across[:, :-1])
    return across
