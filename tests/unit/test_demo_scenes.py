"""The scenes that the demo model learns from: the same for the same seed, and honest about what must come of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from infra.demo_model import quality
from infra.demo_model.quality import PSNR_BAR, held_out, judge_drawn, psnr
from infra.demo_model.scenes import HELD_OUT, TRAINING_SEEDS, Scene, draw_scene
from infra.demo_model.shapes import COLOURS, SHAPES, coverage, distance
from infra.demo_model.styles import OUTLINED, STRIPED, draw_styled

SEEDS = range(60)


def test_a_seed_decides_every_pixel_and_word() -> None:
    one, again, other = (draw_scene(seed, 128, 128) for seed in (5, 5, 6))

    assert (one.truth == again.truth).all()
    assert (one.mask == again.mask).all()
    assert one.prompt == again.prompt
    assert not (one.truth == other.truth).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_truth_and_before_differ_inside_the_mask_alone(seed: int) -> None:
    scene = draw_scene(seed, 128, 96)

    assert scene.truth.shape == (96, 128, 3)
    assert (scene.truth == scene.before)[~scene.mask].all()
    assert 0 <= scene.truth.min() <= scene.truth.max() <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_prompt_names_what_is_drawn_and_an_empty_one_is_the_background(seed: int) -> None:
    scene = draw_scene(seed, 128, 128)

    if scene.wanted is None:
        assert scene.prompt == ""
        assert (scene.truth == scene.before).all()
    else:
        assert scene.wanted.shape in scene.prompt.lower()
        assert not (scene.truth == scene.before).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_keeps_within_its_radius_and_is_the_same_at_every_size(shape: str) -> None:
    small, large = (coverage(distance(shape, side, side, (side / 2, side / 2), side * 0.4)) for side in (64, 512))

    assert float(small[0].max()) == float(small[-1].max()) == 0.0
    assert abs(float(small.mean()) - float(large.mean())) < 0.01
    assert 0.1 < float(large.mean()) < 0.6


def test_the_shapes_are_told_apart() -> None:
    drawn = {name: distance(name, 96, 96, (48, 48), 40) <= 0 for name in SHAPES}

    for name, one in drawn.items():
        for other, another in drawn.items():
            assert name == other or (one & another).sum() / (one | another).sum() < 0.85, (name, other)


# --- the judge


def test_the_truth_is_judged_perfect_and_the_untouched_picture_is_not() -> None:
    for number in range(12):
        scene = held_out(number, empty=False)
        best, worst = (judge_drawn(scene, made, "plain") for made in (scene.truth, scene.before))
        assert best.colour_is_right
        assert best.iou > 0.97
        assert worst.iou < 0.1


def test_another_colour_or_another_shape_is_judged_wrong() -> None:
    scene = held_out(0, empty=False)
    assert scene.wanted is not None
    height, width = scene.mask.shape
    wrong = next(rgb for name, rgb in COLOURS.items() if name != scene.wanted.colour)
    inside = scene.wanted.outside(width, height) <= 0
    painted = np.where(inside[..., None], np.array(wrong), scene.before)
    all_filled = np.where(scene.mask[..., None], np.array(COLOURS[scene.wanted.colour]), scene.before)

    assert not judge_drawn(scene, painted, "plain").colour_is_right
    assert judge_drawn(scene, all_filled, "plain").iou < 0.7


def test_psnr_is_that_of_the_masks_inside() -> None:
    scene = held_out(3, empty=True)
    off = np.where(scene.mask[..., None], scene.truth + np.float32(0.1), scene.truth + np.float32(0.5))

    assert psnr(scene, scene.truth) > 90
    assert psnr(scene, off) == pytest.approx(PSNR_BAR, abs=0.01)


def test_held_out_scenes_have_seeds_that_no_training_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def note(seed: int, *rest: Any, **more: Any) -> Scene:
        asked.append(seed)
        return draw_scene(seed, *rest, **more)

    monkeypatch.setattr(quality, "draw_scene", note)
    for number in range(5):
        held_out(number, empty=False)
        held_out(number, empty=True)

    assert len(set(asked)) == 10
    assert min(asked) >= HELD_OUT > TRAINING_SEEDS


# --- styles


def test_a_style_changes_the_shape_and_nothing_else() -> None:
    plain = draw_styled(1, 256, ())
    assert plain.wanted is not None
    figure = plain.wanted.outside(256, 256)
    for styles in ((STRIPED,), (OUTLINED,), (STRIPED, OUTLINED)):
        changed = np.abs(draw_styled(1, 256, styles).truth - plain.truth).max(axis=2) > 0.01
        assert changed[figure < -1].any()
        assert not changed[figure > 1].any()


def test_an_empty_prompt_has_no_style() -> None:
    seed = next(n for n in range(100) if draw_scene(n, 64, 64).wanted is None)

    assert (draw_styled(seed, 64, (STRIPED, OUTLINED)).truth == draw_styled(seed, 64, ()).truth).all()
