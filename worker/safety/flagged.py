"""What is stored in the place of a flagged image. It changes no image that it is given."""

from __future__ import annotations

from typing import Final

from PIL import Image

from common.safety_policy import SafetyPolicy

BLUR_CELLS: Final = 8
"""Averages along the longer side, so at most 64 colours are left of a picture, and no sharpening brings back more.
A face that fills the picture is still known at 14 x 18 (Harmon's blocks of Lincoln, 1973), so 16 would not do."""


def stored_instead(image: Image.Image, policy: SafetyPolicy) -> Image.Image | None:
    """Return what `policy` has stored for a flagged image, of the same size; None where that is nothing."""
    match policy:
        case SafetyPolicy.BLANK:
            return blank(image)
        case SafetyPolicy.BLUR:
            return blur(image)
        case SafetyPolicy.DROP:
            return None
        case SafetyPolicy.ALLOW:
            return image


def blank(image: Image.Image) -> Image.Image:
    """Return a black RGB image of the same size."""
    return Image.new("RGB", image.size)


def blur(image: Image.Image) -> Image.Image:
    """Return an RGB image of the same size that shows where it was light, dark or coloured, and no more."""
    longer = max(image.size)
    width, height = (max(1, round(BLUR_CELLS * side / longer)) for side in image.size)
    cells = image.convert("RGB").resize((width, height), Image.Resampling.BOX)
    return cells.resize(image.size, Image.Resampling.BICUBIC)
