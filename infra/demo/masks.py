"""The demo's masks, drawn by hand for its photographs: white is filled, black is kept, grey blends softly.

Coordinates are pixels of the photograph that a mask belongs to; photos.py says how large each is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Size = tuple[int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]

_FINER: Final = 4
"""Shapes are drawn this many times larger and shrunk, so that their edges are smooth."""


def coffee_in_the_cup(size: Size) -> Image.Image:
    """The coffee's surface, not the cup: for coffee."""
    return _softened(_ellipse(size, (205, 97, 369, 197)), 1.5)


def rocket(size: Size) -> Image.Image:
    """The rocket and the mast that holds it: for rocket."""
    return _softened(_polygon(size, [(321, 114), (342, 135), (347, 404), (297, 404), (302, 135)]), 3)


def dahlia(size: Size) -> Image.Image:
    """The large flower with a little room around it: for flower."""
    return _softened(_ellipse(size, (160, 76, 456, 367)), 4)


def mission_patch(size: Size) -> Image.Image:
    """The round patch on the suit: for astronaut."""
    return _softened(_ellipse(size, (131, 346, 211, 425)), 1.5)


def cloth_behind_the_cat(size: Size) -> Image.Image:
    """The blurred cloth to the right of the face: for cat."""
    edge = [(451, 0), (451, 300), (303, 300), (318, 262), (333, 228), (345, 196), (353, 160), (361, 120), (366, 84),
            (374, 50), (392, 22), (398, 0)]  # fmt: skip
    return _softened(_polygon(size, edge), 3)


def around_the_astronaut(size: Size) -> Image.Image:
    """All but the astronaut and her helmet: for astronaut, as the transparent part of its alpha."""
    outline = [
        (16, 512), (25, 497), (23, 460), (22, 415), (25, 360), (27, 320), (36, 300), (44, 276), (62, 252), (84, 232),
        (112, 208), (114, 190), (124, 176), (134, 160), (152, 150), (178, 148), (184, 150), (182, 133), (173, 126),
        (171, 117), (160, 108), (154, 88), (156, 64), (168, 46), (188, 36), (206, 22), (230, 15), (256, 19), (282, 38),
        (296, 56), (301, 84), (298, 112), (288, 126), (278, 134), (270, 137), (265, 152), (258, 166), (257, 176),
        (272, 186), (290, 204), (302, 222), (306, 238), (326, 248), (340, 266), (350, 286), (358, 308), (364, 338),
        (366, 347), (384, 344), (408, 343), (436, 349), (462, 363), (482, 386), (494, 416), (498, 448), (504, 454),
        (512, 458), (512, 512),
    ]  # fmt: skip
    return _softened(ImageChops.invert(_polygon(size, outline)), 1)


def evening_sky(size: Size) -> Image.Image:
    """The sky, fading out towards the horizon, without the pavilion and the trees: for china."""
    pavilion = [
        (98, 300), (98, 190), (86, 180), (84, 170), (98, 164), (108, 160), (120, 158), (119, 142), (100, 131),
        (95, 122), (97, 108), (112, 103), (122, 98), (140, 94), (160, 86), (178, 75), (190, 64), (193, 53), (199, 46),
        (196, 31),
        (215, 31), (212, 45), (217, 51), (218, 63), (228, 74), (244, 86), (262, 96), (280, 104), (297, 107), (319, 116),
        (320, 125), (306, 134), (296, 138), (295, 157), (306, 162), (328, 169), (330, 177), (320, 182), (320, 300),
    ]  # fmt: skip
    left_tree = [(0, 136), (5, 150), (9, 180), (24, 184), (42, 192), (50, 212), (76, 228), (76, 300), (0, 300)]
    right_tree = [
        (548, 300), (552, 226), (568, 200), (578, 178), (584, 152), (598, 136), (612, 141), (626, 152), (640, 164),
        (640, 300),
    ]  # fmt: skip
    things = ImageChops.lighter(_polygon(size, pavilion), _polygon(size, left_tree))
    things = ImageChops.lighter(things, _polygon(size, right_tree))
    fading = _downward(size, full_until=90, none_from=205)
    return ImageChops.multiply(fading, ImageChops.invert(_softened(things, 1.5)))


MASKS: Final[Mapping[str, Callable[[Size], Image.Image]]] = {
    "coffee_in_the_cup": coffee_in_the_cup,
    "rocket": rocket,
    "dahlia": dahlia,
    "mission_patch": mission_patch,
    "cloth_behind_the_cat": cloth_behind_the_cat,
    "around_the_astronaut": around_the_astronaut,
    "evening_sky": evening_sky,
}


def _blank(size: Size) -> Image.Image:
    return Image.new("L", (size[0] * _FINER, size[1] * _FINER))


def _polygon(size: Size, points: Sequence[Point]) -> Image.Image:
    drawn = _blank(size)
    ImageDraw.Draw(drawn).polygon([(x * _FINER, y * _FINER) for x, y in points], fill=255)
    return drawn.resize(size, Image.Resampling.BOX)


def _ellipse(size: Size, box: Box) -> Image.Image:
    drawn = _blank(size)
    left, top, right, bottom = (_FINER * edge for edge in box)
    ImageDraw.Draw(drawn).ellipse((left, top, right, bottom), fill=255)
    return drawn.resize(size, Image.Resampling.BOX)


def _downward(size: Size, *, full_until: int, none_from: int) -> Image.Image:
    column = Image.new("L", (1, size[1]))
    for y in range(size[1]):
        share = (none_from - y) / (none_from - full_until)
        column.putpixel((0, y), round(255 * min(1.0, max(0.0, share))))
    return column.resize(size)


def _softened(mask: Image.Image, radius: float) -> Image.Image:
    return mask.filter(ImageFilter.GaussianBlur(radius))
