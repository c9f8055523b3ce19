"""The figure for seams sees what an eye would, and neither blurring the edge nor a lively photograph fools it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageFilter
from skimage.color import deltaE_ciede2000, rgb2lab

from tests.benchmarks.edge_difference import edge_difference
from tests.benchmarks.seam_pairs import pairs
from worker.feather import feather

SIDE = 512
GREY, BLUISH = (120, 120, 120), (120, 124, 132)


@pytest.fixture
def filled() -> np.typing.NDArray[np.bool_]:
    where = np.zeros((SIDE, SIDE), dtype=bool)
    where[150:350, 150:350] = True
    return where


def _patched(filled: np.typing.NDArray[np.bool_], weights: Image.Image | None = None) -> Image.Image:
    flat, other = (Image.new("RGB", (SIDE, SIDE), colour) for colour in (GREY, BLUISH))
    return Image.composite(other, flat, weights or Image.fromarray(filled))


def test_a_patch_of_another_colour_differs_by_just_that_colour(filled: np.typing.NDArray[np.bool_]) -> None:
    lab = rgb2lab(np.array([[GREY, BLUISH]], dtype=np.uint8))[0]
    found = edge_difference(_patched(filled), filled)
    assert found.seam == pytest.approx(float(deltaE_ciede2000(lab[0], lab[1])), rel=1e-6)
    assert found.beside == pytest.approx(0, abs=1e-6)


def test_a_feathered_edge_is_no_smaller_a_seam(filled: np.typing.NDArray[np.bool_]) -> None:
    weights = feather(filled.astype(np.uint8) * np.uint8(255), 2)
    feathered = edge_difference(_patched(filled, Image.fromarray(weights)), filled)
    assert feathered.seam == pytest.approx(edge_difference(_patched(filled), filled).seam, rel=1e-6)


def test_colours_that_change_alike_across_the_edge_and_beside_it_are_no_seam(
    filled: np.typing.NDArray[np.bool_],
) -> None:
    slope = Image.linear_gradient("L").resize((SIDE, SIDE)).rotate(30)
    found = edge_difference(slope.convert("RGB"), filled)
    assert found.across > 0.5
    assert found.seam < 0.2 * found.across


def test_a_photograph_that_nobody_touched_has_a_small_part_of_the_seam_of_a_shifted_one() -> None:
    untouched, shifted = [], []
    for pair in [pair for pair in pairs() if pair.name.endswith(", rectangle")]:
        where = np.asarray(pair.mask) > 0
        other = Image.composite(ImageChops.add(pair.photo, Image.new("RGB", pair.photo.size, (0, 12, 0))), pair.photo,
                                Image.fromarray(where))  # fmt: skip
        untouched.append(edge_difference(pair.photo, where).seam)
        shifted.append(edge_difference(other, where).seam)
    assert len(untouched) == 6
    assert np.mean(untouched) < 0.3 * np.mean(shifted)


def test_a_border_of_the_picture_is_no_edge() -> None:
    where = np.zeros((SIDE, SIDE), dtype=bool)
    where[:, 256:] = True
    picture = _patched(where)
    picture.paste((255, 0, 0), (500, 0, 512, 512))
    assert edge_difference(picture, where).seam == edge_difference(_patched(where), where).seam


@pytest.mark.parametrize("value", [False, True])
def test_without_an_edge_there_is_nothing_to_measure(value: bool) -> None:
    with pytest.raises(ValueError, match="no edge"):
        edge_difference(Image.new("RGB", (64, 64)), np.full((64, 64), value))


def test_the_pairs_are_at_least_twenty_with_room_on_both_sides_and_every_kind_of_edge() -> None:
    found = list(pairs())
    assert len(found) >= 20
    assert len({pair.name for pair in found}) == len(found)
    for pair in found:
        assert pair.mask.size == pair.photo.size
        share = (np.asarray(pair.mask) >= 128).mean()
        assert 0.005 < share < 0.5, pair.name
    assert any(((np.asarray(pair.mask) > 8) & (np.asarray(pair.mask) < 247)).any() for pair in found), "soft"
    assert any(np.asarray(pair.mask)[:, -1].any() for pair in found), "touches the border"
    assert any(not np.asarray(pair.mask.filter(ImageFilter.MinFilter(31))).any() for pair in found), "thin"
