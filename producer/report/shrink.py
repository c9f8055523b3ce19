"""A picture's file brought down to a thumbnail: upright, in sRGB, bounded in pixels and in computing time.

The files are anybody's, and some are in a report because they are broken: whatever Pillow says of one ends in words.
"""

from __future__ import annotations

import io
import threading
import time
from typing import Final

from PIL import Image, ImageCms, ImageDraw, ImageFile, ImageOps

SIDE: Final = 256
_FORMATS: Final = ("PNG", "JPEG", "WEBP")
_MAX_PIXELS: Final = 64_000_000
_LARGE_PIXELS: Final = 8_000_000
_MAX_SECONDS: Final = 10.0
"""Of computing, for one file; a small JPEG may hold thousands of scans."""
_READ_BYTES: Final = 1024
"""What the decoder gets at once: between two reads the clock is looked at."""
_STEPS: Final = ((SIDE, 78), (SIDE, 60), (SIDE, 40), (192, 40), (144, 35), (96, 30))
"""Side and quality of the tries to get below a number of bytes."""
_NEARLY_FULL: Final = 248
"""From here on a value of a mask counts as 255, as where it is filled."""
_SQUARE: Final = 8
_LIGHT, _DARK = (236, 236, 236), (200, 200, 200)

_one_large = threading.Lock()
"""Decoding a large picture takes hundreds of MB, so it is done one at a time."""


class NotShown(Exception):
    """A file cannot be shown; the message says why, in words for the page."""


class _TakesTooLong(Exception):
    pass


def image(data: bytes) -> Image.Image:
    """Return an image as RGB of at most SIDE pixels a side, clear parts on a chequered ground. Raises NotShown."""
    small = _small(data)
    if not small.has_transparency_data:
        return small.convert("RGB")
    clear = small.convert("RGBA")
    ground = _chequered(clear.size)
    ground.paste(clear, (0, 0), clear)
    return ground


def mask(data: bytes) -> Image.Image:
    """Return a mask as L: white is filled, as the worker reads it. Raises NotShown.

    What counts is the luminance, unless the alpha varies: then it is what is clear, or the paint where that is white.
    """
    small = _small(data)
    luminance = small.convert("RGB").convert("L")
    alpha = small.convert("RGBA").getchannel("A") if small.has_transparency_data else None
    if alpha is None or len(set(alpha.getextrema())) == 1:
        return luminance
    opaque = alpha.point([255 * (value >= _NEARLY_FULL) for value in range(256)])
    painted = Image.composite(luminance, Image.new("L", luminance.size, 255), opaque).getextrema()[0]
    is_white_paint = opaque.getbbox() is not None and isinstance(painted, int | float) and painted >= _NEARLY_FULL
    return alpha if is_white_paint else ImageOps.invert(alpha)


def clear_parts(data: bytes) -> Image.Image | None:
    """Return what of an image is clear, in white; None where nothing is. Raises NotShown."""
    small = _small(data)
    if not small.has_transparency_data:
        return None
    alpha = small.convert("RGBA").getchannel("A")
    return None if alpha.getextrema() == (255, 255) else ImageOps.invert(alpha)


def encode(small: Image.Image, limit: int) -> bytes:
    """Return a picture as WebP of at most `limit` bytes, or, where no try comes so low, the smallest."""
    encoded = b""
    for side, quality in _STEPS:
        fitted = small
        if max(small.size) > side:
            fitted = small.copy()
            fitted.thumbnail((side, side))
        buffer = io.BytesIO()
        fitted.save(buffer, "WEBP", quality=quality, method=4)
        encoded = buffer.getvalue()
        if len(encoded) <= limit:
            break
    return encoded


class _BoundedReader(io.BytesIO):
    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._until = time.thread_time() + _MAX_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._until:
            raise _TakesTooLong
        return super().read(size)


def _small(data: bytes) -> Image.Image:
    try:
        with Image.open(_BoundedReader(data), formats=_FORMATS) as file:
            pixels = file.width * file.height
            if pixels > _MAX_PIXELS:
                raise NotShown("too many pixels to be shown")
            if pixels <= _LARGE_PIXELS:
                return _reduced(file)
            with _one_large:
                return _reduced(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise NotShown("too many pixels to be shown") from None
    except (NotShown, MemoryError):
        raise
    except _TakesTooLong:
        raise NotShown("takes too long to decode") from None
    except Exception:  # noqa: BLE001 - on a bad file Pillow raises a dozen types, and all mean just that
        raise NotShown("cannot be shown: damaged, or no PNG, JPEG or WebP") from None


def _reduced(file: ImageFile.ImageFile) -> Image.Image:
    profile = file.info.get("icc_profile")
    file.decodermaxblock = _READ_BYTES
    file.draft(None, (2 * SIDE, 2 * SIDE))  # a JPEG is decoded at a fraction of its size
    file.load()
    upright = _upright(file)
    if upright.mode.startswith("I"):  # 16-bit grey, which conversion would clip
        upright = upright.convert("I").point(lambda value: value / 256).convert("L")
    elif upright.has_transparency_data:
        upright = upright.convert("RGBA")
    elif upright.mode not in {"L", "RGB", "CMYK"}:
        upright = upright.convert("RGB")
    upright.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return _in_srgb(upright, profile)


def _upright(file: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(file)
    except Exception:  # noqa: BLE001 - broken EXIF raises many types, and means only that we do not know
        return file


def _in_srgb(small: Image.Image, profile: object) -> Image.Image:
    if not isinstance(profile, bytes) or small.mode == "L":
        return small
    mode = "RGBA" if small.mode == "RGBA" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        changed = ImageCms.profileToProfile(small, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return small  # a broken profile, or one for another kind of picture
    return changed or small


def _chequered(size: tuple[int, int]) -> Image.Image:
    ground = Image.new("RGB", size, _LIGHT)
    draw = ImageDraw.Draw(ground)
    for y in range(0, size[1], _SQUARE):
        for x in range((y // _SQUARE % 2) * _SQUARE, size[0], 2 * _SQUARE):
            draw.rectangle((x, y, x + _SQUARE - 1, y + _SQUARE - 1), fill=_DARK)
    return ground
