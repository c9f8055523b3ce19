"""Region auto with the bundled model: it obeys prompts and goes on with backgrounds where only crops are generated."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.demo_model.measuring import fill_scene
from infra.demo_model.quality import Quality, held_out, measure
from infra.demo_model.region_comparison import HOLE, as_data, as_lines, compare
from tests.support.fills import quiet_peft

pytestmark = quiet_peft

SIDE = 1024


@pytest.fixture(scope="module")
def auto(fill_model: Any) -> Quality:
    """Four held-out scenes of 1024 x 1024 with small masks, one a background, each with a prompt and without."""
    return measure(
        lambda scene, seed: fill_scene(fill_model, scene, seed, steps=12, region="auto"),
        range(4),
        side=SIDE,
        hole=HOLE,
    )


def test_prompts_are_obeyed_in_crops(auto: Quality) -> None:
    assert auto.colour_share == 1
    assert auto.mean_iou >= 0.7


def test_backgrounds_go_on_in_crops(auto: Quality) -> None:
    assert auto.continued_share >= 0.75


def test_masks_of_the_comparison_are_small_and_none_is_a_bar() -> None:
    for number in range(20):
        for empty in (False, True):
            share = held_out(number, empty=empty, side=256, hole=HOLE).mask.mean()
            assert 0.008 <= share <= 0.165


def test_a_comparison_fills_the_same_scenes_both_ways_and_finds_nothing_changed_outside() -> None:
    one = compare(512, range(1), steps=1)
    assert 0 < one.share < 1
    assert [drawn.prompt for drawn in one.full.drawn] == [drawn.prompt for drawn in one.auto.drawn]
    assert one.changed_outside == 0
    assert one.full != one.auto
    (data,) = json.loads(json.dumps(as_data([one])))
    assert (data["side"], data["scenes"]) == (512, len(one.gains))
    table = list(as_lines([one]))
    assert len({line.count("|") for line in table if line.startswith("|")}) == 1
    assert "worse by more than 3 dB" in table[-1]
