"""How what was made blends into what was there: inside the mask only, and never at the cost of a thin stroke."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from worker.feather import Bytes, feather, feather_radius


def block(side: int, start: int, stop: int, value: int = 255) -> Bytes:
    soft = np.zeros((side, side), dtype=np.uint8)
    soft[start:stop, start:stop] = value
    return soft


@st.composite
def masks(draw: st.DrawFn) -> Bytes:
    """Strokes, blobs and specks, black and white or grey, some of them touching the border."""
    width, height = draw(st.integers(8, 90)), draw(st.integers(8, 90))
    image = Image.new("L", (width, height))
    pencil = ImageDraw.Draw(image)
    point = st.tuples(st.integers(-5, width + 5), st.integers(-5, height + 5))
    for _ in range(draw(st.integers(1, 4))):
        value = draw(st.sampled_from([255, 255, 255, 120, 8]))
        if draw(st.booleans()):
            pencil.line([draw(point), draw(point)], fill=value, width=draw(st.integers(1, 9)))
        else:
            pencil.circle(draw(point), draw(st.integers(1, 30)), fill=value)
    return np.asarray(image)


@given(soft=masks(), radius=st.integers(1, 6))
@hypothesis_settings(max_examples=150, deadline=None)
def test_the_feather_stays_inside_the_mask_and_below_its_grey(soft: Bytes, radius: int) -> None:
    weights = feather(soft, radius)
    assert weights.dtype == np.uint8
    assert np.array_equal(weights == 0, soft == 0)
    assert (weights <= soft).all()


@given(soft=masks(), radius=st.integers(1, 6))
@hypothesis_settings(max_examples=100, deadline=None)
def test_near_every_masked_pixel_the_mask_reaches_its_full_weight(soft: Bytes, radius: int) -> None:
    weights = feather(soft, radius)
    far = radius * (radius + 1) // 2
    full = Image.fromarray(((weights == soft) & (soft > 0)).astype(np.uint8) * np.uint8(255))
    near = np.asarray(full.filter(ImageFilter.MaxFilter(2 * far + 1)))
    assert (near[soft > 0] == 255).all()


@given(soft=masks(), radius=st.integers(1, 6))
@hypothesis_settings(max_examples=50, deadline=None)
def test_turning_the_mask_turns_the_feather(soft: Bytes, radius: int) -> None:
    turned = feather(np.rot90(soft).copy(), radius)
    assert np.array_equal(turned, np.rot90(feather(soft, radius)))


def test_a_hard_edge_rises_evenly_over_the_radius() -> None:
    middle = feather(block(64, 16, 48), 4)[32]
    assert middle[15:21].tolist() == [0, 51, 102, 153, 204, 255]
    assert middle[43:49].tolist() == [255, 204, 153, 102, 51, 0]
    assert (middle[20:44] == 255).all()


@pytest.mark.parametrize("width", range(1, 14))
@pytest.mark.parametrize("radius", [1, 4, 6])
def test_a_thin_stroke_is_filled_fully_along_its_middle(width: int, radius: int) -> None:
    soft = np.zeros((40, 60), dtype=np.uint8)
    soft[20 : 20 + width, 5:55] = 255
    weights = feather(soft, radius)
    assert (weights[20 + width // 2, 20:40] == 255).all()


@pytest.mark.parametrize("radius", [1, 4, 6])
def test_a_hairline_that_leaves_a_blob_is_filled_up_to_the_blob(radius: int) -> None:
    soft = block(80, 10, 40)
    soft[25, 40:70] = 255
    assert (feather(soft, radius)[25, 40:70] == 255).all()


def test_an_even_grey_keeps_its_value() -> None:
    weights = feather(block(64, 16, 48, 100), 4)
    assert (weights[20:44, 20:44] == 100).all()
    assert weights[32, 16] == 51


def test_a_mask_that_its_author_feathered_is_left_as_it_is() -> None:
    across = np.minimum(np.arange(0, 600, 10), 255).astype(np.uint8)
    across[across < 8] = 0
    soft = np.repeat(across[None], 20, axis=0)
    assert np.array_equal(feather(soft, 4), soft)


def test_at_the_border_of_the_canvas_nothing_is_feathered() -> None:
    soft = np.zeros((40, 40), dtype=np.uint8)
    soft[:, 30:] = 255
    weights = feather(soft, 4)
    assert weights[20, 29:35].tolist() == [0, 51, 102, 153, 204, 255]
    assert (weights[:, 34:] == 255).all()
    assert np.array_equal(weights, np.repeat(weights[:1], 40, axis=0))


@pytest.mark.parametrize("value", [0, 255])
def test_an_empty_and_a_full_mask_stay_what_they_are(value: int) -> None:
    soft = np.full((32, 48), value, dtype=np.uint8)
    assert np.array_equal(feather(soft, 4), soft)


@pytest.mark.parametrize(("side", "radius"), [(256, 1), (512, 2), (1024, 4), (1536, 6)])
def test_the_radius_grows_with_the_output(side: int, radius: int) -> None:
    assert feather_radius(side, 1536) == feather_radius(1536, side) == radius
