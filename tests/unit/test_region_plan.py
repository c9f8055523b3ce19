"""The plan of region fill: every masked pixel in one area, areas that show enough, else the whole canvas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.flux_flops import fill_flops
from tests.benchmarks.mask_set import MOST, masks
from worker.region.islands import NEAR_PIXELS, Mask, find_islands
from worker.region.plan import (
    BUCKET,
    FLOOR_PIXELS,
    LEAST_SAVING,
    MARGIN_PIXELS,
    MARGIN_SHARE,
    MIN_SIDE,
    MOST_FILLED,
    Box,
    cost_of,
    plan_regions,
)

Rectangle = tuple[int, int, int, int]
SIDES = st.integers(16, 96).map(lambda number: 16 * number)


def masked(*rectangles: Rectangle, width: int = 1024, height: int = 1024) -> Mask:
    """Return a mask of rectangles of left, top, right, bottom."""
    array = np.zeros((height, width), dtype=np.bool_)
    for left, top, right, bottom in rectangles:
        array[top:bottom, left:right] = True
    return array


@st.composite
def _any_mask(draw: st.DrawFn) -> Mask:
    width, height = draw(SIDES), draw(SIDES)
    rectangles = []
    for _ in range(draw(st.integers(1, 12))):
        left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        wide, high = draw(st.integers(1, max(1, width // 3))), draw(st.integers(1, max(1, height // 3)))
        rectangles.append((left, top, left + wide, top + high))
    return masked(*rectangles, width=width, height=height)


def check_plan(mask: Mask) -> None:
    """Check all that a plan promises, whatever the mask."""
    height, width = mask.shape
    boxes = plan_regions(mask)
    if not boxes:
        return
    times = np.zeros(mask.shape, dtype=np.int64)
    for box in boxes:
        assert 0 <= box.left <= box.left + box.width <= width
        assert 0 <= box.top <= box.top + box.height <= height
        assert box.width % BUCKET == 0 or box.width == width
        assert box.height % BUCKET == 0 or box.height == height
        assert min(box.width, box.height) >= MIN_SIDE
        assert box.width * box.height >= FLOOR_PIXELS or box.width == width or box.height == height
        assert 0 < mask[box.window].mean() <= MOST_FILLED
        times[box.window] += 1
        _check_margin(mask, box)
    assert (times[mask] == 1).all(), "each masked pixel is generated, and in one area alone"
    cost = sum(cost_of(box.width, box.height) for box in boxes)
    assert cost_of(width, height) >= LEAST_SAVING * cost


def planned_cost(mask: Mask) -> float:
    """Return what a step costs under the plan."""
    return sum(cost_of(box.width, box.height) for box in plan_regions(mask)) or cost_of(*mask.shape)


def _check_margin(mask: Mask, box: Box) -> None:
    inside = mask[box.window]
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    margin = int(max(MARGIN_PIXELS, MARGIN_SHARE * np.sqrt(inside.sum())))
    height, width = mask.shape
    assert columns[0] >= margin or box.left == 0
    assert box.width - 1 - columns[-1] >= margin or box.left + box.width == width
    assert rows[0] >= margin or box.top == 0
    assert box.height - 1 - rows[-1] >= margin or box.top + box.height == height


@given(_any_mask())
@settings(max_examples=150, deadline=None)
def test_every_masked_pixel_lies_in_one_area_that_shows_enough_around_it(mask: Mask) -> None:
    check_plan(mask)


def test_the_same_holds_for_blobs_strokes_hairlines_dots_and_letters() -> None:
    for _, mask in masks():
        check_plan(mask)


@given(_any_mask())
@settings(max_examples=50, deadline=None)
def test_the_same_mask_has_the_same_plan(mask: Mask) -> None:
    assert plan_regions(mask) == plan_regions(mask.copy())


@pytest.mark.parametrize("turned", [lambda mask: mask.T, lambda mask: mask[::-1], lambda mask: mask[:, ::-1]])
def test_a_mask_costs_the_same_whichever_way_the_picture_is_turned(turned: Callable[[Mask], Mask]) -> None:
    mask = masked((100, 40, 160, 700), (700, 500, 900, 560), (600, 80, 610, 90))
    assert planned_cost(turned(mask)) == planned_cost(mask) < cost_of(1024, 1024)


def test_a_small_island_gets_the_floor_with_the_island_in_its_middle() -> None:
    assert plan_regions(masked((500, 600, 524, 624))) == (Box(320, 420, 384, 384),)


def test_at_the_border_an_area_keeps_its_size_and_shows_more_of_the_inside() -> None:
    assert plan_regions(masked((0, 0, 60, 60))) == (Box(0, 0, 384, 384),)
    assert plan_regions(masked((1000, 1000, 1024, 1024))) == (Box(640, 640, 384, 384),)


def test_a_hairline_is_one_long_area() -> None:
    (box,) = plan_regions(masked((100, 500, 800, 502)))
    assert (box.width, box.height) == (832, 256)


def test_islands_far_apart_are_areas_of_their_own_and_near_ones_are_one() -> None:
    far = masked((60, 60, 120, 120), (1350, 900, 1400, 980), width=1536, height=1024)
    assert len(plan_regions(far)) == 2
    near = masked((60, 60, 120, 120), (300, 60, 360, 120), width=1536, height=1024)
    assert len(plan_regions(near)) == 1


def test_islands_are_split_only_where_that_is_cheaper() -> None:
    # One stays and the other moves away, on a slant. Hairlines between them make one island of the two, and one area.
    numbers = []
    for at in range(200, 1400, 16):
        mask = masked((40, 40, 100, 100), (at, at, at + 60, at + 60), width=1536, height=1536)
        bridged = mask | masked((100, 70, at + 1, 71), (at, 70, at + 1, at), width=1536, height=1536)
        apart = 2 * cost_of(384, 384)
        assert planned_cost(mask) == pytest.approx(min(apart, planned_cost(bridged))), at
        numbers.append(len(plan_regions(mask)))
    assert numbers == sorted(numbers)
    assert set(numbers) == {1, 2}


def test_an_island_that_lies_in_anothers_area_is_part_of_it() -> None:
    # Else the model would go on with what another area is about to take away.
    mask = masked((100, 100, 340, 340), (410, 410, 430, 430))
    (box,) = plan_regions(mask)
    assert mask[box.window].sum() == mask.sum()


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("everything", masked((0, 0, 1024, 1024))),
        ("a large part", masked((150, 150, 850, 850))),
        ("a bar on the left", masked((0, 0, 120, 1024))),
        ("bars above and below", masked((0, 0, 1024, 100), (0, 924, 1024, 1024))),
        ("all but a picture in a corner", masked((700, 0, 1024, 1024), (0, 700, 1024, 1024))),
        ("a thin bar beside a small thing", masked((1008, 0, 1024, 1024), (300, 300, 340, 340))),
        ("most of one border", masked((100, 0, 800, 40))),
        (
            "dust everywhere",
            masked(*((x, y, x + 3, y + 3) for x in range(20, 1024, 150) for y in range(20, 1024, 150))),
        ),
        ("a diagonal from corner to corner", np.eye(1024, dtype=np.bool_)),
        ("a frame", masked((60, 60, 964, 70), (60, 954, 964, 964), (60, 60, 70, 964), (954, 60, 964, 964))),
        ("a small picture", masked((100, 100, 120, 120), width=384, height=384)),
    ],
)
def test_the_whole_canvas_is_generated_where_a_crop_would_save_little_or_show_too_little(name: str, mask: Mask) -> None:
    assert plan_regions(mask) == (), name


def test_a_crop_that_would_be_mostly_mask_is_not_made() -> None:
    # Its sides are those of the canvas, so no margin is left above and below: a strip that divides the picture.
    strip = masked((500, 0, 1000, 256), width=1536, height=256)
    strip[0] = strip[-1] = False
    assert cost_of(1536, 256) >= LEAST_SAVING * cost_of(896, 256)
    assert plan_regions(strip) == ()


def test_nothing_masked_is_nothing_planned() -> None:
    assert plan_regions(masked()) == ()


def test_the_cost_is_in_proportion_to_the_operations_that_are_counted_on_the_real_configuration() -> None:
    per_cost = [fill_flops(*size, 1).steps / cost_of(*size) for size in ((1024, 1024), (384, 384))]
    assert fill_flops(1024, 1024, 1).steps == pytest.approx(74.4e12, rel=0.001)
    assert max(per_cost) / min(per_cost) < 1.01


def test_the_masks_of_the_benchmark_are_many_small_and_always_the_same() -> None:
    first, again = list(masks()), list(masks())
    assert len(first) >= 30
    assert all(0 < mask.mean() <= MOST for _, mask in first)
    assert [name for name, _ in first] == [name for name, _ in again]
    assert all((one == other).all() for (_, one), (_, other) in zip(first, again, strict=True))


def test_islands_hang_together_at_corners_and_across_small_gaps() -> None:
    bent = masked((0, 0, 16, 200), (0, 184, 200, 200), (184, 0, 200, 200), (100, 100, 110, 110), (600, 600, 601, 601))
    islands = find_islands(bent)
    assert sorted(islands.pixels.tolist()) == [1, int(bent.sum()) - 1]
    assert (islands.left.max(), islands.right.max(), islands.top.max(), islands.bottom.max()) == (600, 601, 600, 601)
    for gap, number in ((NEAR_PIXELS, 1), (NEAR_PIXELS + 32, 2)):
        assert len(find_islands(masked((100, 100, 112, 112), (112 + gap, 100, 140 + gap, 140)))) == number


def test_a_thousand_specks_are_planned_like_any_mask() -> None:
    random = np.random.default_rng(7)
    specks = np.zeros((1536, 1536), dtype=np.bool_)
    specks[random.integers(0, 1536, 1000), random.integers(0, 700, 1000)] = True
    check_plan(specks)
    assert plan_regions(specks), "they fill less than half of the canvas"
