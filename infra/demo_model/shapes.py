"""The shapes and colours that the demo model knows by name, and how each is drawn. Plain data and numpy; no torch.

A shape is a signed distance: how far a point lies outside the outline, negative inside. So it is drawn with smooth
edges at any size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.floating[Any]]
"""height x width x 3, sRGB from 0 to 1; a plane of distances or shares is height x width."""

COLOURS: Final[dict[str, tuple[float, float, float]]] = {
    "red": (0.86, 0.12, 0.14), "orange": (0.96, 0.55, 0.10), "yellow": (0.97, 0.86, 0.18),
    "green": (0.15, 0.62, 0.25), "blue": (0.14, 0.32, 0.82), "purple": (0.52, 0.20, 0.68),
    "pink": (0.96, 0.55, 0.72), "brown": (0.45, 0.27, 0.13), "black": (0.07, 0.07, 0.08),
    "white": (0.97, 0.97, 0.96),
}  # fmt: skip
"""sRGB from 0 to 1."""


def _circle(x: Pixels, y: Pixels) -> Pixels:
    return np.hypot(x, y) - 1


def _square(x: Pixels, y: Pixels) -> Pixels:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.84)


def _triangle(x: Pixels, y: Pixels) -> Pixels:
    # Upright; the bottom edge and the two slopes, each a half-plane.
    slope = (np.abs(x) * 1.85 - (y + 0.98)) / np.float32(np.hypot(1.85, 1))
    made: Pixels = np.maximum(slope, y - np.float32(0.78))
    return made


def _diamond(x: Pixels, y: Pixels) -> Pixels:
    return (np.abs(x) * 1.35 + np.abs(y) - 1) / np.float32(np.hypot(1.35, 1))


def _ring(x: Pixels, y: Pixels) -> Pixels:
    return np.abs(np.hypot(x, y) - np.float32(0.72)) - np.float32(0.28)


def _star(x: Pixels, y: Pixels) -> Pixels:
    # Every one of the ten half-points is the same wedge, mirrored; within it the outline is one straight line.
    angle = np.arctan2(x, -y)
    wedge = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    across, along = np.hypot(x, y) * np.sin(wedge), np.hypot(x, y) * np.cos(wedge)
    inner_x, inner_y = 0.44 * np.sin(np.pi / 5), 0.44 * np.cos(np.pi / 5)
    normal = np.array((1 - inner_y, inner_x)) / np.hypot(1 - inner_y, inner_x)
    distance: Pixels = (across * normal[0] + (along - 1) * normal[1]).astype(np.float32)
    return distance


def _heart(x: Pixels, y: Pixels) -> Pixels:
    # Two discs over a square that stands on its corner.
    side = np.abs(x)
    lobes = np.hypot(side - np.float32(0.45), y + np.float32(0.38)) - np.float32(0.53)
    point = (side * 0.93 + (y - 0.95) * 0.72) / np.float32(np.hypot(0.93, 0.72))
    body = np.maximum(point, np.float32(-0.42) - y)
    made: Pixels = np.minimum(lobes, np.maximum(body, side - np.float32(0.93)))
    return made


SHAPES: Final[dict[str, Callable[[Pixels, Pixels], Pixels]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "ring": _ring,
    "star": _star,
    "heart": _heart,
}
"""Signed distance of a shape of radius 1 around (0, 0); x runs right and y down."""


def distance(shape: str, width: int, height: int, centre: tuple[float, float], radius: float) -> Pixels:
    """Return how many pixels each pixel's middle lies outside the shape: height x width, negative inside."""
    x = ((np.arange(width, dtype=np.float32) + 0.5 - centre[0]) / radius)[None, :]
    y = ((np.arange(height, dtype=np.float32) + 0.5 - centre[1]) / radius)[:, None]
    return (SHAPES[shape](x, y) * radius).astype(np.float32)


def coverage(outside: Pixels) -> Pixels:
    """Return how much of each pixel the shape covers, 0..1, for its signed distance in pixels."""
    made: Pixels = np.clip(np.float32(0.5) - outside, 0, 1)
    return made


def laid_over(picture: Pixels, rgb: tuple[float, float, float], share: Pixels) -> Pixels:
    """Return `picture` with so much of the colour `rgb` in each pixel, 0..1; `share` is height x width."""
    laid: Pixels = (picture + (np.array(rgb, dtype=np.float32) - picture) * share[..., None]).astype(np.float32)
    return laid
