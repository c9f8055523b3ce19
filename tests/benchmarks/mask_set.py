"""The masks that the row `mask` is measured on: what people mask, what defects look like, and what no crop can help.

Drawn from fixed seeds, six of each kind, on 1024 x 1024; at most a tenth of it is filled. Areas, lengths
and places are drawn evenly from their ranges, and no mask was picked or left out for what it gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SIDE: Final = 1024
MOST: Final = 0.10
EACH: Final = 6
_AREAS: Final = (0.005, 0.10)
_DRAWS: Final = 1000

Random = np.random.Generator
Mask = npt.NDArray[np.bool_]


def masks() -> Iterator[tuple[str, Mask]]:
    """Yield a name and a mask, always the same ones in the same order; none fills more than MOST."""
    for kind, draw in KINDS.items():
        for number in range(EACH):
            random = np.random.default_rng([number, *kind.encode()])
            yield f"{kind} {number + 1}", _drawn(draw, random)


def _drawn(draw: Callable[[Random, ImageDraw.ImageDraw], None], random: Random) -> Mask:
    for _ in range(_DRAWS):  # the rare one that came out too large is drawn again
        image = Image.new("L", (SIDE, SIDE))
        draw(random, ImageDraw.Draw(image))
        mask = np.asarray(image) > 0
        if 0 < mask.mean() <= MOST:
            return mask
    raise AssertionError("no such mask is small enough")


def _blob(random: Random, pencil: ImageDraw.ImageDraw) -> None:
    """A thing with a smooth outline, anywhere inside."""
    radius = _radius(random)
    _lobed(random, pencil, _inside(random, radius * 1.3), radius)


def _box(random: Random, pencil: ImageDraw.ImageDraw) -> None:
    """What a rectangle tool or a detector gives: up to four times as long as it is wide."""
    area, aspect = _area(random), _even(random, 0.25, 4)
    width, height = min(SIDE, math.sqrt(area * aspect)), min(SIDE, math.sqrt(area / aspect))
    left, top = random.uniform(0, SIDE - width), random.uniform(0, SIDE - height)
    pencil.rectangle((left, top, left + width, top + height), fill=255)


def _at_border(random: Random, pencil: ImageDraw.ImageDraw) -> None:
    """A thing that goes on beyond a side of the picture, or a corner."""
    radius, along = _radius(random), random.uniform(0, SIDE)
    side = int(random.integers(4))
    edge = 0.0 if side < 2 else float(SIDE)
    _lobed(random, pencil, (edge, along) if side % 2 else (along, edge), radius)


def _islands(random: Random, pencil: ImageDraw.ImageDraw) -> None:
    """Two to five things anywhere, that have the area of one among them."""
    count = int(random.integers(2, 6))
    radius = _radius(random) / math.sqrt(count)
    for _ in range(count):
        _lobed(random, pencil, _inside(random, radius * 1.3), radius)


def _stroke(random: Random, pencil: ImageDraw.ImageDraw) -> None:
    """A brush's stroke over a wire, a lead, a crack: bent, 12 to 48 pixels wide."""
    _curve(random, pencil, length=random.uniform(0.15, 1.2) * SIDE, width=round(_even(random, 12, 48)))


def _hairline(random: Random, pencil: ImageDraw.ImageDraw) -> None:
    """A hair or a scratch, one to four pixels wide."""
    _curve(random, pencil, length=random.uniform(0.1, 1.2) * SIDE, width=int(random.integers(1, 5)))


def _diagonal(random: Random, pencil: ImageDraw.ImageDraw) -> None:
    """A straight line on a slant, at most from corner to corner: no box is close to it."""
    length, width = random.uniform(0.15, 1.3) * SIDE, round(_even(random, 2, 48))
    angle = math.radians(random.choice((45, 135)) + random.uniform(-15, 15))
    across, down = length / 2 * math.cos(angle), length / 2 * math.sin(angle)
    x, y = _inside(random, min(SIDE / 2, abs(down)))
    pencil.line((x - across, y - down, x + across, y + down), fill=255, width=width)


def _dots(random: Random, pencil: ImageDraw.ImageDraw) -> None:
    """Dust or spots, 8 to 60 of them, over a part of the picture or all of it."""
    spread = random.uniform(0.15, 1) * SIDE
    left, top = random.uniform(0, SIDE - spread), random.uniform(0, SIDE - spread)
    for _ in range(int(random.integers(8, 61))):
        x, y = random.uniform(left, left + spread), random.uniform(top, top + spread)
        pencil.circle((x, y), _even(random, 1, 10), fill=255)


def _text(random: Random, pencil: ImageDraw.ImageDraw) -> None:
    """One to three lines of letters, as a caption or a watermark: boxes with gaps between letters and words."""
    height, lines = _even(random, 16, 64), int(random.integers(1, 4))
    length = random.uniform(0.2, 0.9) * SIDE
    left, top = random.uniform(0, SIDE - length), random.uniform(0, max(1, SIDE - 1.5 * lines * height))
    for line in range(lines):
        x, y = left, top + 1.5 * line * height
        while x < left + length:
            wide = random.uniform(0.3, 0.7) * height
            if random.uniform() > 0.17:  # else a gap between two words
                pencil.rectangle((x, y, min(x + wide, left + length), y + height), fill=255)
            x += wide + 0.15 * height


def _even(random: Random, least: float, most: float) -> float:
    return float(np.exp(random.uniform(np.log(least), np.log(most))))


def _area(random: Random) -> float:
    return random.uniform(*_AREAS) * SIDE**2


def _radius(random: Random) -> float:
    return math.sqrt(_area(random) / math.pi)


def _inside(random: Random, radius: float) -> tuple[float, float]:
    room = min(radius, SIDE / 2)
    return random.uniform(room, SIDE - room), random.uniform(room, SIDE - room)


def _lobed(random: Random, pencil: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float) -> None:
    angles = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    lobes = [random.uniform(0, 0.3 / n) * np.cos(n * angles + random.uniform(0, 6.3)) for n in range(2, 6)]
    reach = radius * (1 + np.sum(lobes, axis=0))
    points = zip(centre[0] + reach * np.cos(angles), centre[1] + reach * np.sin(angles), strict=True)
    pencil.polygon([(float(x), float(y)) for x, y in points], fill=255)


def _curve(random: Random, pencil: ImageDraw.ImageDraw, *, length: float, width: int) -> None:
    steps, turn, bend = 60, random.uniform(0, 2 * np.pi), random.uniform(-1.5, 1.5)
    angles = turn + bend * np.linspace(0, 1, steps)
    x, y = np.cumsum(np.cos(angles)) * length / steps, np.cumsum(np.sin(angles)) * length / steps
    x += random.uniform(-x.min(), max(-x.min(), SIDE - x.max()))
    y += random.uniform(-y.min(), max(-y.min(), SIDE - y.max()))
    pencil.line([(float(a), float(b)) for a, b in zip(x, y, strict=True)], fill=255, width=width, joint="curve")


KINDS: Final[Mapping[str, Callable[[Random, ImageDraw.ImageDraw], None]]] = {
    "blob": _blob,
    "box": _box,
    "at the border": _at_border,
    "islands": _islands,
    "stroke": _stroke,
    "hairline": _hairline,
    "diagonal": _diagonal,
    "dots": _dots,
    "text": _text,
}
