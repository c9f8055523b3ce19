"""Small pictures of a job for people to look at: what went in, what was masked, what came out."""

from __future__ import annotations

import base64
import io
from typing import Final

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from infra.demo.jobs import ImageBy
from infra.demo.outcome import Outcome

_SQUARE: Final = 12
_LIGHT: Final = (236, 236, 236)
_DARK: Final = (200, 200, 200)
_QUALITY: Final = 86
_MARK: Final = (214, 30, 110)
"""A colour that no picture of the demo has."""
_WASH: Final = 0.5
"""What is masked shows through, half as strong."""
_HATCH_STEP: Final = 10
_HATCH_STRENGTH: Final = 0.45


def before(outcome: Outcome) -> Image.Image | None:
    """Return the image that was sent, transparent parts on a chequered ground; None where its URL held nothing."""
    if outcome.job.image_by is ImageBy.GONE:
        return None
    image = outcome.material.image
    if image.mode != "RGBA":
        return image
    ground = _chequered(image.size)
    ground.paste(image, (0, 0), image)
    return ground


def mask(outcome: Outcome) -> Image.Image:
    """Return what is filled (white) and kept (black), at the output's size."""
    return outcome.material.filled


def masked(outcome: Outcome, width: int, height: int) -> Image.Image | None:
    """Return the picture in its place, what is to be filled washed out, hatched and framed, to fit into a box.

    Hatched after it is shrunk, so that the lines are crisp. None where its URL held no picture.
    """
    sent = before(outcome)
    if sent is None:
        return None
    whole = sent if sent.size == outcome.material.size else outcome.material.original
    small = np.asarray(fitted(whole, width, height), dtype=np.float32)
    mask = fitted(outcome.material.filled, width, height)
    share = np.asarray(mask, dtype=np.float32)[..., None] / 255
    y, x = np.mgrid[: mask.height, : mask.width]
    lines = ((x + y) % _HATCH_STEP < 2)[..., None] * _HATCH_STRENGTH
    washed = small + (255 - small) * _WASH * share
    hatched = washed + (np.array(_MARK) - washed) * lines * share
    filled = mask.point(lambda value: 255 * (value >= 128))
    edge = ImageChops.difference(filled, filled.filter(ImageFilter.MinFilter(5)))  # two pixels, all of them inside
    made = Image.fromarray(np.round(hatched).astype(np.uint8))
    made.paste(_MARK, (0, 0), edge)
    return made


def after(outcome: Outcome) -> tuple[Image.Image, ...]:
    """Return the outputs; none for a job that failed."""
    return tuple(picture.convert("RGB") for picture in outcome.pictures)


def fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Return `picture` shrunk, in its own proportions, so that it fits into a box; a smaller one stays as it is."""
    small = picture.copy()
    small.thumbnail((width, height), Image.Resampling.LANCZOS)
    return small


def data_uri(picture: Image.Image, *, width: int) -> str:
    """Return `picture`, at most `width` pixels wide, as a WebP inside a data: URI."""
    buffer = io.BytesIO()
    fitted(picture, width, 10 * width).save(buffer, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _chequered(size: tuple[int, int]) -> Image.Image:
    ground = Image.new("RGB", size, _LIGHT)
    draw = ImageDraw.Draw(ground)
    for y in range(0, size[1], _SQUARE):
        for x in range((y // _SQUARE % 2) * _SQUARE, size[0], 2 * _SQUARE):
            draw.rectangle((x, y, x + _SQUARE - 1, y + _SQUARE - 1), fill=_DARK)
    return ground
