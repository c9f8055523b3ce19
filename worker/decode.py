"""Bytes that a user named -> a plain picture: PNG, JPEG and WebP, bounded in pixels and in computing time.

What comes out is sRGB, upright and eight bits deep, with no metadata, so that nothing later has to ask what the file
was. Nothing here trusts the file: no pixel is decoded before its size is checked, and half a picture is never returned.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError
from PIL.ExifTags import Base

from common.errors import Rejected
from common.settings import Settings

FORMATS = ("PNG", "JPEG", "WEBP")
NEARLY_OPAQUE = 248
"""From here on an alpha or a luminance counts as full, as in the canvas."""
READ_BYTES = 1024
"""What a decoder gets at once. A scan of a JPEG may be 31 bytes long and cost milliseconds, so Pillow's 64 KiB would
let some 10 seconds pass between two looks at the clock; smaller reads cost nothing that could be measured."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what brings the stored picture upright."""

_OTHER_FILES = (
    (0, b"GIF8", "a GIF file"),
    (0, b"BM", "a BMP file"),
    (0, b"II*\0", "a TIFF file"),
    (0, b"MM\0*", "a TIFF file"),
    (0, b"%PDF", "a PDF file"),
    (0, b"\0\0\x01\0", "an ICO file"),
    (4, b"ftypavif", "an AVIF file"),
    (4, b"ftyp", "a HEIC or video file"),
)


def decode_image(data: bytes, *, what: str, settings: Settings) -> Image.Image:
    """Return the picture as RGB, or as RGBA where some of it is not opaque; sRGB, upright, without metadata.

    `what` is the field's name for the messages. Of an animation this is the first frame. Colours under transparent
    pixels are kept. Raises Rejected: image_not_an_image, image_truncated, image_too_large, image_too_slow.
    """
    loaded = _load(data, what, settings)
    colours, alpha = _colours_and_alpha(loaded)
    picture = _to_srgb(colours, loaded.info.get("icc_profile"))
    if alpha is not None and alpha.getextrema() != (255, 255):
        picture.putalpha(alpha)
    return _plain(picture, _orientation(loaded))


def decode_mask(data: bytes, *, what: str, settings: Settings) -> Image.Image:
    """Return a mask as L, upright: 255 is filled, 0 is kept, grey lies between.

    It is the luminance, unless the file's alpha varies: then what is transparent is filled (as image editors and other
    fill APIs export holes), except where all that is opaque is white: that is paint on a clear layer, and white is
    filled. Colour profiles are left aside, for a mask holds amounts and not colours. Raises as decode_image.
    """
    loaded = _load(data, what, settings)
    colours, alpha = _colours_and_alpha(loaded)
    mask = colours.convert("RGB").convert("L")
    if alpha is not None and not _constant(alpha):
        mask = alpha if _is_white_paint(mask, alpha) else alpha.point([255 - value for value in range(256)])
    return _plain(mask, _orientation(loaded))


class _BoundedReader(io.BytesIO):
    """Hands the file to the decoder, and stops it once this thread has computed for too long.

    Pixels are bounded, but a JPEG of some kilobytes may still hold thousands of scans and a PNG millions of empty
    chunks. Decoders ask for data again and again, so this is the place to stop them. It is the thread's computing time
    that counts: a busy machine must not make an honest picture a bad one.
    """

    def __init__(self, data: bytes, seconds: float, refusal: Rejected) -> None:
        super().__init__(data)
        self._until = time.thread_time() + seconds
        self._refusal = refusal

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._until:
            raise self._refusal
        return super().read(size)


def _load(data: bytes, what: str, settings: Settings) -> ImageFile.ImageFile:
    allowed = f"send a PNG, JPEG or WebP of at most {_megapixels(settings.image_max_pixels)} megapixels"
    seconds = settings.image_decode_seconds
    refusal = Rejected(
        "image_too_slow", f"{what}: decoding takes more than {seconds:g} seconds; save it again as a plain PNG or JPEG"
    )
    reader = _BoundedReader(data, seconds, refusal)
    try:
        image = Image.open(reader, formats=FORMATS)
        if image.width * image.height > settings.image_max_pixels:
            megapixels = _megapixels(image.width * image.height)
            raise Rejected(
                "image_too_large", f"{what}: {image.width}x{image.height} pixels are {megapixels} megapixels; {allowed}"
            )
        image.decodermaxblock = READ_BYTES
        image.load()
    except (Rejected, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Rejected("image_too_large", f"{what}: far too many pixels; {allowed}") from None
    except Exception as error:  # noqa: BLE001 - on a bad file Pillow raises a dozen types, and all mean just that
        kind = _kind(data)
        if kind is None:
            raise Rejected("image_not_an_image", f"{what}: not an image ({_found(data)}); {allowed}") from None
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise Rejected(
            "image_truncated", f"{what}: the {kind} file is incomplete or damaged{reason}; send it again whole"
        ) from None
    return image


def _colours_and_alpha(image: ImageFile.ImageFile) -> tuple[Image.Image, Image.Image | None]:
    # Returns L, RGB or CMYK (the space that the file's colour profile speaks of), and the alpha as L if there is one.
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion clips instead of scaling
        values = np.asarray(image)
        grey = Image.fromarray((values >> 8).astype(np.uint8))
        clear = image.info.get("transparency")
        if clear is None:
            return grey, None
        return grey, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
    is_grey = image.mode in {"1", "L", "LA"}
    if image.has_transparency_data:
        straight = image if image.mode == "RGBA" else image.convert("RGBA")
        colours = straight.getchannel("R") if is_grey else straight.convert("RGB")
        return colours, straight.getchannel("A")
    if is_grey or image.mode == "CMYK":
        return image.convert("L" if is_grey else "CMYK"), None
    return image.convert("RGB"), None


def _to_srgb(colours: Image.Image, profile: bytes | None) -> Image.Image:
    if not profile:
        return _as_rgb(colours)
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            colours.mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        # Most profiles are one of many spellings of sRGB. Those pictures keep their very pixels.
        if _changes_nothing(transform.apply, colours.mode):
            return _as_rgb(colours)
        return transform.apply(colours)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return _as_rgb(colours)  # a broken profile, or one for another kind of picture


def _as_rgb(colours: Image.Image) -> Image.Image:
    return colours if colours.mode == "RGB" else colours.convert("RGB")


def _changes_nothing(apply: Callable[[Image.Image], Image.Image], mode: str) -> bool:
    if mode == "CMYK":
        return False
    levels = np.arange(0, 256, 1 if mode == "L" else 15, dtype=np.uint8)
    grid = levels[None] if mode == "L" else np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    probe = Image.fromarray(np.ascontiguousarray(grid))
    before = np.asarray(probe.convert("RGB"), dtype=np.int16)
    after = np.asarray(apply(probe), dtype=np.int16)
    return bool(np.abs(after - before).max() <= 1)


def _orientation(image: ImageFile.ImageFile) -> int:
    try:
        found = image.getexif().get(Base.Orientation)
    except Exception:  # noqa: BLE001 - broken EXIF raises many types, and means only that we do not know
        return 1
    return found if isinstance(found, int) else 1


def _plain(picture: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    upright = picture if method is None else picture.transpose(method)
    upright.info = {}  # or an encoder would later write this file's profile or EXIF into another picture
    return upright


def _constant(channel: Image.Image) -> bool:
    return len(set(channel.getextrema())) == 1


def _is_white_paint(luminance: Image.Image, alpha: Image.Image) -> bool:
    opaque = np.asarray(alpha) >= NEARLY_OPAQUE
    return bool(opaque.any() and np.asarray(luminance)[opaque].min() >= NEARLY_OPAQUE)


def _kind(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    return None


def _found(data: bytes) -> str:
    if not data:
        return "the file is empty"
    for offset, magic, name in _OTHER_FILES:
        if data.startswith(magic, offset):
            return f"it is {name}"
    text = data[:16].decode("ascii", errors="replace").strip().split("\n")[0]
    if text and text.isprintable() and text.isascii():
        return f"it starts with '{text}'"
    return f"it starts with the bytes {data[:8].hex(' ')}"


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.3g}" if pixels < 1e9 else f"{pixels / 1e6:.0f}"
