"""The photographs and masks that seams are measured on: every kind of edge, across whatever the photographs show there.

All is drawn by this file, in proportion to the photograph, so that the same pairs come out everywhere.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFilter

from tests.support.fills import FillSettings
from worker.decode import decode_image

Box = tuple[int, int, int, int]

_PHOTOS: Final = {
    "coffee": "skimage/data/coffee.png",
    "cat": "skimage/data/chelsea.png",
    "astronaut": "skimage/data/astronaut.png",
    "rocket": "skimage/data/rocket.jpg",
    "china": "sklearn/datasets/images/china.jpg",
    "flower": "sklearn/datasets/images/flower.jpg",
}
"""They come with packages that are installed for the demo."""
_THINGS: Final[Mapping[str, Box]] = {
    "coffee": (205, 97, 369, 197),  # the coffee in the cup
    "astronaut": (131, 346, 211, 425),  # the mission patch
    "rocket": (288, 100, 356, 412),  # the rocket and its mast
    "flower": (160, 76, 456, 367),  # the dahlia
}
"""Pixels of an ellipse about a thing that a user would take away."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One fill to be measured."""

    name: str
    photo: Image.Image
    mask: Image.Image
    prompt: str


def pairs() -> Iterator[Pair]:
    """Yield each photograph with each mask, always in this order."""
    for photo, picture in photographs():
        for shape, (draw, prompt) in _MASKS.items():
            yield Pair(f"{photo}, {shape}", picture, draw(*picture.size), prompt)
        if photo in _THINGS:
            mask, pencil = _blank(*picture.size)
            pencil.ellipse(_THINGS[photo], fill=255)
            yield Pair(f"{photo}, about a thing", picture, mask, "")


def photographs() -> Iterator[tuple[str, Image.Image]]:
    """Yield each photograph with its name, always in this order."""
    for name, path in _PHOTOS.items():
        yield name, _open(path)


def _open(path: str) -> Image.Image:
    package, _, file = path.partition("/")
    spec = importlib.util.find_spec(package)  # finds the folder without importing the package
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the benchmark needs {package}: pip install 'fillfleet[embedded]'")
    data = (Path(spec.origin).parent / file).read_bytes()
    return decode_image(data, what=file, settings=FillSettings())


def _rectangle(width: int, height: int) -> Image.Image:
    mask, pencil = _blank(width, height)
    pencil.rectangle((0.3 * width, 0.25 * height, 0.62 * width, 0.7 * height), fill=255)
    return mask


def _ellipse(width: int, height: int) -> Image.Image:
    mask, pencil = _blank(width, height)
    pencil.ellipse((0.45 * width, 0.3 * height, 0.85 * width, 0.85 * height), fill=255)
    return mask


def _stroke(width: int, height: int) -> Image.Image:
    mask, pencil = _blank(width, height)
    points = [(0.1, 0.8), (0.4, 0.35), (0.7, 0.6), (0.93, 0.15)]
    thickness = round(0.04 * min(width, height))
    pencil.line([(x * width, y * height) for x, y in points], fill=255, width=thickness, joint="curve")
    return mask


def _corner(width: int, height: int) -> Image.Image:
    mask, pencil = _blank(width, height)
    pencil.rectangle((0.68 * width, 0.55 * height, width, height), fill=255)
    return mask


def _blobs(width: int, height: int) -> Image.Image:
    mask, pencil = _blank(width, height)
    for x, y, radius in [(0.12, 0.2, 0.1), (0.2, 0.27, 0.13), (0.72, 0.3, 0.12), (0.8, 0.2, 0.09), (0.45, 0.82, 0.15)]:
        pencil.circle((x * width, y * height), radius * min(width, height), fill=255)
    return mask


def _soft(width: int, height: int) -> Image.Image:
    mask, pencil = _blank(width, height)
    pencil.ellipse((0.2 * width, 0.2 * height, 0.55 * width, 0.7 * height), fill=255)
    return mask.filter(ImageFilter.GaussianBlur(0.02 * min(width, height)))


def _blank(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    mask = Image.new("L", (width, height))
    return mask, ImageDraw.Draw(mask)


_MASKS: Final[Mapping[str, tuple[Callable[[int, int], Image.Image], str]]] = {
    "rectangle": (_rectangle, ""),
    "ellipse": (_ellipse, "a red circle"),
    "stroke": (_stroke, ""),
    "corner": (_corner, "a blue star"),
    "blobs": (_blobs, ""),
    "soft ellipse": (_soft, ""),
}
