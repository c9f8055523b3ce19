"""What is stored: the very pixels where the format can, the same bytes every time, and nothing but the picture."""

from __future__ import annotations

import hashlib
import io
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, JpegImagePlugin
from PIL.ExifTags import Base

from worker.encode import OutputFormat, encode_image

FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)


def noise(width: int, height: int, seed: int = 1) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_result_says_what_it_is(output_format: OutputFormat) -> None:
    encoded = encode_image(noise(40, 30), output_format)
    assert opened(encoded.data).format == output_format.upper()
    assert encoded.content_type == f"image/{output_format}"
    assert encoded.extension == output_format
    assert (encoded.width, encoded.height) == opened(encoded.data).size == (40, 30)
    assert encoded.sha256 == hashlib.sha256(encoded.data).hexdigest()


@given(width=st.integers(1, 80), height=st.integers(1, 80), seed=st.integers(0, 999), flat=st.booleans())
@hypothesis_settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_png_and_webp_keep_every_bit(
    output_format: OutputFormat, width: int, height: int, seed: int, flat: bool
) -> None:
    image = smooth(width, height) if flat else noise(width, height, seed)
    assert opened(encode_image(image, output_format).data).convert("RGB").tobytes() == image.tobytes()


def test_jpeg_is_close_and_keeps_full_colour_resolution() -> None:
    image = smooth(256, 256)
    stored = opened(encode_image(image, "jpeg").data)
    assert JpegImagePlugin.get_sampling(stored) == 0  # 4:4:4
    assert np.abs(np.asarray(stored).astype(int) - np.asarray(image)).max() <= 8


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_same_image_gives_the_same_bytes(output_format: OutputFormat) -> None:
    first = encode_image(noise(200, 150), output_format)
    assert all(encode_image(noise(200, 150), output_format) == first for _ in range(3))
    assert encode_image(noise(200, 150, seed=2), output_format).sha256 != first.sha256


@pytest.mark.parametrize("output_format", FORMATS)
def test_metadata_of_an_input_never_gets_into_an_output(output_format: OutputFormat) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[Base.ImageDescription] = "where I live"
    buffer = io.BytesIO()
    noise(40, 30).save(buffer, "JPEG", icc_profile=profile, exif=exif, comment=b"hello", dpi=(300, 300))
    carrying = opened(buffer.getvalue())
    plain = Image.fromarray(np.asarray(carrying))
    before = dict(carrying.info)
    encoded = encode_image(carrying, output_format)
    assert encoded.data == encode_image(plain, output_format).data
    assert not {"icc_profile", "exif", "comment", "dpi"} & set(opened(encoded.data).info)
    assert b"where I live" not in encoded.data
    assert carrying.info == before  # the caller's image is left alone


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_any_mode_is_stored_as_rgb(mode: str) -> None:
    image = smooth(32, 32).convert(mode)
    stored = opened(encode_image(image, "png").data)
    assert stored.mode == "RGB"
    assert stored.tobytes() == image.convert("RGB").tobytes()


def test_an_unknown_format_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown output format 'gif'"):
        encode_image(noise(8, 8), "gif")  # type: ignore[arg-type]
