"""The demo's masks, for its photographs and its drawings: white is filled, black is kept, grey blends softly.

Coordinates are pixels of the picture that a mask belongs to; photos.py and drawings.py say how large each is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFilter

Size = tuple[int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]

_FINER: Final = 4
"""Shapes are drawn this many times larger and shrunk, so that their edges are smooth."""


def inside_the_cup(size: Size) -> Image.Image:
    """All within the cup's rim: for coffee."""
    return _softened(_ellipse(size, (184, 28, 398, 196)), 2)


def rocket(size: Size) -> Image.Image:
    """The rocket and the mast that holds it: for rocket."""
    return _softened(_polygon(size, [(321, 114), (342, 135), (347, 404), (297, 404), (302, 135)]), 3)


def patch_of_sky(size: Size) -> Image.Image:
    """A round patch of the sky that fades out softly: for china."""
    return _softened(_ellipse(size, (352, 22, 532, 202)), 10)


def ellipse_at_the_left(size: Size) -> Image.Image:
    """A wide ellipse: for drawings whose figures stand at the right."""
    return _softened(_ellipse(size, (40, 50, 360, 334)), 1.5)


def circle_at_the_left(size: Size) -> Image.Image:
    """A circle: for drawings whose figures stand at the right."""
    return _softened(_ellipse(size, (52, 42, 352, 342)), 1.5)


def box_at_the_left(size: Size) -> Image.Image:
    """A rectangle: for drawings whose figures stand at the right."""
    return _softened(_box(size, (52, 46, 352, 338)), 1.5)


def circle_at_the_right(size: Size) -> Image.Image:
    """A circle: for drawings whose figures stand at the left."""
    return _softened(_ellipse(size, (166, 42, 466, 342)), 1.5)


def box_at_the_right(size: Size) -> Image.Image:
    """A rectangle: for drawings whose figures stand at the left."""
    return _softened(_box(size, (166, 46, 466, 338)), 1.5)


def around_the_star(size: Size) -> Image.Image:
    """The large star with room around it: for meadow."""
    return _softened(_ellipse(size, (182, 72, 450, 340)), 1.5)


MASKS: Final[Mapping[str, Callable[[Size], Image.Image]]] = {
    "inside_the_cup": inside_the_cup,
    "rocket": rocket,
    "patch_of_sky": patch_of_sky,
    "ellipse_at_the_left": ellipse_at_the_left,
    "circle_at_the_left": circle_at_the_left,
    "box_at_the_left": box_at_the_left,
    "circle_at_the_right": circle_at_the_right,
    "box_at_the_right": box_at_the_right,
    "around_the_star": around_the_star,
}


def _blank(size: Size) -> Image.Image:
    return Image.new("L", (size[0] * _FINER, size[1] * _FINER))


def _polygon(size: Size, points: Sequence[Point]) -> Image.Image:
    drawn = _blank(size)
    ImageDraw.Draw(drawn).polygon([(x * _FINER, y * _FINER) for x, y in points], fill=255)
    return drawn.resize(size, Image.Resampling.BOX)


def _box(size: Size, box: Box) -> Image.Image:
    left, top, right, bottom = box
    return _polygon(size, [(left, top), (right, top), (right, bottom), (left, bottom)])


def _ellipse(size: Size, box: Box) -> Image.Image:
    drawn = _blank(size)
    left, top, right, bottom = (_FINER * edge for edge in box)
    ImageDraw.Draw(drawn).ellipse((left, top, right, bottom), fill=255)
    return drawn.resize(size, Image.Resampling.BOX)


def _softened(mask: Image.Image, radius: float) -> Image.Image:
    return mask.filter(ImageFilter.GaussianBlur(radius))
