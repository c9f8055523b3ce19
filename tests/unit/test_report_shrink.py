"""Thumbnails: small, upright, masks read as the worker reads them, and words for whatever cannot be shown."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image, ImageDraw
from PIL.ExifTags import Base

from common.settings import Environment, Settings
from producer.report.shrink import SIDE, NotShown, clear_parts, encode, image, mask
from worker.decode import decode_image, decode_mask


def file_of(picture: Image.Image, form: str = "PNG", **more: object) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **more)
    return buffer.getvalue()


def shape(mode: str, ground: object, ink: object, size: tuple[int, int] = (120, 80)) -> Image.Image:
    """A rectangle of `ink` in the left half."""
    picture = Image.new(mode, size, ground)  # type: ignore[arg-type]
    ImageDraw.Draw(picture).rectangle((0, 0, size[0] // 2 - 1, size[1]), fill=ink)  # type: ignore[arg-type]
    return picture


SETTINGS = Settings(fillfleet_env=Environment.TEST)
MASKS = {
    "white on black": shape("L", 0, 255),
    "one bit": shape("1", 0, 1),
    "colour": shape("RGB", (0, 0, 0), (255, 255, 255)),
    "grey": shape("L", 40, 200),
    "16 bit": shape("I;16", 0, 65_535),
    "a hole in a picture": shape("RGBA", (90, 120, 30, 255), (90, 120, 30, 0)),
    "a hole in white": shape("RGBA", (255, 255, 255, 0), (255, 255, 255, 255)),
    "white paint on clear": shape("RGBA", (0, 0, 0, 0), (255, 255, 255, 255)),
    "opaque alpha": shape("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)),
    "palette": shape("L", 0, 255).convert("P"),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_shown_as_the_worker_reads_it(name: str) -> None:
    data = file_of(MASKS[name])
    theirs = decode_mask(data, what="mask_image", settings=SETTINGS)
    ours = mask(data)
    for x in (10, 50, 70, 110):
        assert abs(int(ours.getpixel((x, 40))) - int(theirs.getpixel((x, 40)))) <= 1  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright_as_in_the_worker(orientation: int) -> None:
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    data = file_of(shape("RGB", (200, 30, 30), (30, 30, 200)), "JPEG", exif=exif, quality=95)
    theirs = decode_image(data, what="image", settings=SETTINGS)
    ours = image(data)
    assert ours.size == theirs.size
    width, height = ours.size
    for x, y in ((5, 5), (width - 6, 5), (5, height - 6), (width - 6, height - 6)):
        ours_at, theirs_at = ours.getpixel((x, y)), theirs.getpixel((x, y))
        assert all(abs(a - b) < 20 for a, b in zip(ours_at, theirs_at, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
@pytest.mark.parametrize("size", [(3000, 40), (40, 1500), (700, 700), (1, 1)])
def test_whatever_the_picture_its_thumbnail_is_small_and_keeps_its_proportions(
    mode: str, size: tuple[int, int]
) -> None:
    small = image(file_of(Image.new(mode, size), "JPEG" if mode == "CMYK" else "PNG"))
    assert small.mode == "RGB"
    assert max(small.size) == min(SIDE, max(size))
    scale = max(small.size) / max(size)
    assert abs(small.width - size[0] * scale) <= 1
    assert abs(small.height - size[1] * scale) <= 1


def test_clear_parts_are_a_mask_and_show_a_chequered_ground() -> None:
    data = file_of(shape("RGBA", (90, 120, 30, 255), (0, 0, 0, 0)))
    clear = clear_parts(data)
    assert clear is not None
    assert (clear.getpixel((10, 40)), clear.getpixel((100, 40))) == (255, 0)
    assert image(data).getpixel((100, 40)) == (90, 120, 30)
    assert image(data).getpixel((10, 40)) in {(236, 236, 236), (200, 200, 200)}
    assert clear_parts(file_of(Image.new("RGB", (9, 9)))) is None
    assert clear_parts(file_of(Image.new("RGBA", (9, 9), (1, 1, 1, 255)))) is None


def test_a_thumbnail_keeps_to_its_bytes() -> None:
    noise = Image.effect_noise((SIDE, SIDE), 200).convert("RGB")
    for limit in (20_000, 8_000, 3_000):
        assert 0 < len(encode(noise, limit)) <= limit
    plain = Image.new("RGB", (SIDE, SIDE), (10, 200, 30))
    assert Image.open(io.BytesIO(encode(plain, 3_000))).size == (SIDE, SIDE)


def huge_png() -> bytes:
    """A PNG of a few bytes that says it has 72 megapixels."""
    header = struct.pack(">IIBBBBB", 12_000, 6_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


@pytest.mark.parametrize("data", [b"", b"<html>", b"GIF89a", file_of(Image.new("RGB", (400, 400), 7))[:-60]])
def test_what_is_no_whole_picture_is_named_as_such(data: bytes) -> None:
    for look in (image, mask, clear_parts):
        with pytest.raises(NotShown, match="cannot be shown"):
            look(data)


def test_a_picture_of_too_many_pixels_is_not_decoded() -> None:
    with pytest.raises(NotShown, match="too many pixels"):
        image(huge_png())
