"""The figure that says how far a stored picture is from the original outside the mask is the truth about the file."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from worker.canvas import Canvas, draw_canvas, paste_back
from worker.encode import OutputFormat, encode_image
from worker.kept import max_difference_outside_mask

SIDE = 256
INSIDE, OUTSIDE = (128, 128), (10, 20)


def _noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def _values(image: Image.Image) -> NDArray[np.int16]:
    return np.asarray(image).astype(np.int16)


@pytest.fixture
def canvas() -> Canvas:
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[64:192, 64:192] = 255
    return draw_canvas(_noise(1), Image.fromarray(mask), None)


@pytest.fixture
def image(canvas: Canvas) -> Image.Image:
    return paste_back(canvas, _noise(2))


def _figure(canvas: Canvas, image: Image.Image, output_format: OutputFormat) -> int | None:
    return max_difference_outside_mask(canvas, image, encode_image(image, output_format))


def _moved(image: Image.Image, place: tuple[int, int], by: int) -> Image.Image:
    moved = image.copy()
    red, green, blue = (int(value) for value in np.asarray(image)[place[1], place[0]])
    moved.putpixel(place, (red, green + by if green < 128 else green - by, blue))
    return moved


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_a_lossless_picture_is_exact_outside_the_mask(
    output_format: OutputFormat, canvas: Canvas, image: Image.Image
) -> None:
    assert _figure(canvas, image, output_format) == 0


@pytest.mark.parametrize("output_format", ["png", "webp"])
@pytest.mark.parametrize(("place", "seen"), [(OUTSIDE, 3), (INSIDE, 0), ((64, 64), 0), ((63, 63), 3)])
def test_one_channel_of_one_pixel_is_seen_just_where_nothing_was_to_be_filled(
    output_format: OutputFormat, place: tuple[int, int], seen: int, canvas: Canvas, image: Image.Image
) -> None:
    assert _figure(canvas, _moved(image, place, 3), output_format) == seen


def test_a_jpeg_is_measured_as_it_was_stored(canvas: Canvas, image: Image.Image) -> None:
    stored = Image.open(io.BytesIO(encode_image(image, "jpeg").data)).convert("RGB")
    apart = np.abs(_values(stored) - _values(canvas.original)).max(axis=2)
    expected = int(apart[np.asarray(canvas.blend) == 0].max())

    assert expected > 0
    assert _figure(canvas, image, "jpeg") == expected


def test_measuring_leaves_the_pictures_alone(canvas: Canvas, image: Image.Image) -> None:
    before = [one.tobytes() for one in (image, canvas.original, canvas.blend)]
    _figure(canvas, image, "png")
    assert [one.tobytes() for one in (image, canvas.original, canvas.blend)] == before


def test_where_everything_is_filled_there_is_nothing_to_measure(canvas: Canvas, image: Image.Image) -> None:
    everything: Any = replace(canvas, blend=Image.new("L", canvas.blend.size, 1))
    assert _figure(everything, image, "jpeg") is None
