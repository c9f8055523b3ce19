"""Small pictures of a job for people to look at: what went in, what was masked, what came out."""

from __future__ import annotations

import base64
import io
from typing import Final

from PIL import Image, ImageDraw

from infra.demo.jobs import ImageBy
from infra.demo.outcome import Outcome

_SQUARE: Final = 12
_LIGHT: Final = (236, 236, 236)
_DARK: Final = (200, 200, 200)
_QUALITY: Final = 86


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
