"""What lies behind the shapes of a scene: plain colours, gradients, large stripes, and clouds like a blurred photo.

Drawn from a numpy generator, so that a scene's seed decides every pixel. No torch.
"""

from __future__ import annotations

import colorsys
from typing import Final

import numpy as np
from PIL import Image

from infra.demo_model.shapes import Pixels

KINDS: Final = ("plain", "gradient", "stripes", "clouds")
_SHARES: Final = (0.2, 0.32, 0.2, 0.28)
_STRIPE_PIXELS: Final = (40, 120)


def draw_background(
    random: np.random.Generator, width: int, height: int, *, unlike: tuple[float, float, float] | None, kind: str = ""
) -> Pixels:
    """Return a background of a random kind, or of `kind`, whose colours keep away from the colour `unlike`."""
    kind = kind or str(random.choice(KINDS, p=_SHARES))
    first = _colour(random, unlike)
    if kind == "plain":
        return np.broadcast_to(first, (height, width, 3)).copy()
    second = _colour(random, unlike)
    if kind != "stripes":  # all colours between the two must keep away, too
        second = _near(random, first, unlike)
    if kind == "gradient":
        return _mix(_slope(random, width, height), first, second)
    if kind == "stripes":
        return _mix(_stripes(random, width, height), first, second)
    return _mix(_clouds(random, width, height), first, second)


def _colour(random: np.random.Generator, unlike: tuple[float, float, float] | None) -> Pixels:
    while True:
        saturation = random.uniform(0, 0.65) * random.uniform(0.3, 1)
        rgb = colorsys.hsv_to_rgb(random.uniform(), saturation, random.uniform(0.2, 0.98))
        if unlike is None or _is_far(np.array(rgb), unlike):
            return np.array(rgb, dtype=np.float32)


def _near(random: np.random.Generator, first: Pixels, unlike: tuple[float, float, float] | None) -> Pixels:
    while True:
        second = _colour(random, unlike)
        if unlike is None or _is_far((first + second) / 2, unlike):
            return second


def _is_far(rgb: Pixels, unlike: tuple[float, float, float]) -> bool:
    return bool(np.linalg.norm(rgb - np.array(unlike)) > 0.42)


def _mix(share: Pixels, first: Pixels, second: Pixels) -> Pixels:
    return (first + (second - first) * share[..., None]).astype(np.float32)


def _slope(random: np.random.Generator, width: int, height: int) -> Pixels:
    angle = random.uniform(0, 2 * np.pi)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    along = x * np.cos(angle) + y * np.sin(angle)
    made: Pixels = ((along - along.min()) / (along.max() - along.min())).astype(np.float32)
    return made


def _stripes(random: np.random.Generator, width: int, height: int) -> Pixels:
    across = bool(random.integers(2))
    wide = random.uniform(*_STRIPE_PIXELS)
    at = np.arange(height if across else width, dtype=np.float32) + np.float32(random.uniform(0, 2 * wide))
    # A triangle wave, made steep: one pixel from one colour to the other.
    wave = np.clip((np.abs(at / wide % 2 - 1) - 0.5) * np.float32(wide) + 0.5, 0, 1)
    line = wave[:, None] if across else wave[None, :]
    return np.broadcast_to(line, (height, width)).astype(np.float32)


def _clouds(random: np.random.Generator, width: int, height: int) -> Pixels:
    total = np.zeros((height, width), dtype=np.float32)
    for cells, weight in ((2, 1.0), (4, 0.5), (8, 0.2)):
        shape = (max(2, round(cells * height / 256)), max(2, round(cells * width / 256)))
        noise = Image.fromarray(random.uniform(-1, 1, shape).astype(np.float32))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) * np.float32(weight)
    low, high = total.min(), total.max()
    made: Pixels = ((total - low) / max(float(high - low), 1e-3)).astype(np.float32)
    return made
