"""How large the image of a row is, from its header alone: what an estimate needs, long before anything is uploaded."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import BinaryIO, Final

from PIL import Image

from producer.manifest.row import ManifestRow

_FORMATS: Final = ("PNG", "JPEG", "WEBP")
_SIDEWAYS: Final = frozenset({5, 6, 7, 8})
_ORIENTATION: Final = 0x0112


@dataclass(frozen=True)
class Measure:
    """Of one row."""

    bytes: int
    """Of all files that the row brings along."""
    width: int
    """Of its image, upright, in pixels."""
    height: int


def measure(row: ManifestRow) -> Measure | None:
    """Return the size of a row's files; None where its image is no file, cannot be read or is no image.

    No pixel is decoded.
    """
    image = row.files.get("image")
    if image is None:
        return None
    try:
        total = 0
        for content in row.files.values():
            with content.open() as file:
                total += file.seek(0, os.SEEK_END)
        with image.open() as file:
            size = _upright(file)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):  # Pillow's words for broken
        return None
    return Measure(total, *size)


def _upright(file: BinaryIO) -> tuple[int, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the header is all that is read
        with Image.open(file, formats=_FORMATS) as picture:
            width, height = picture.size
            # Of a PNG, Pillow would decode all pixels to find it.
            sideways = picture.format != "PNG" and picture.getexif().get(_ORIENTATION) in _SIDEWAYS
    return (height, width) if sideways else (width, height)
