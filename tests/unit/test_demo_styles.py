"""The demo's LoRAs show a person their style: none at scale 0, one at scale 1, and both where both are asked for."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.settings import Settings
from infra.demo_model.files import LORAS
from infra.demo_model.lora_formats import as_kohya, save_diffusers, save_kohya
from infra.demo_model.measuring import fill_scene
from infra.demo_model.quality import held_out
from infra.demo_model.scenes import Scene
from infra.demo_model.styles import OUTLINED, STRIPED, STYLES, with_styles
from tests.support.fills import adapter, quiet_peft
from worker.loras.file import verify_lora
from worker.loras.header import read_header

pytestmark = quiet_peft

CHOICES = ((), (STRIPED,), (OUTLINED,), (STRIPED, OUTLINED))
STEPS = 20


def _scenes() -> list[Scene]:
    """Six scenes whose shape is large enough to see a style on, and whose colour is not the styles' own."""
    drawn = (held_out(number, empty=False) for number in range(1000, 1200))
    large = (one for one in drawn if one.wanted and one.wanted.radius > 90)
    return [one for one in large if one.wanted and one.wanted.colour not in {"white", "black"}][:6]


def _fill(model: Any, scene: Scene, styles: tuple[str, ...], scale: float = 1.0) -> Any:
    adapters = [adapter(LORAS / f"{style}.safetensors", scale) for style in styles]
    return fill_scene(model, scene, 5, steps=STEPS, adapters=adapters)


def _looks_like(scene: Scene, made: Any) -> tuple[str, ...]:
    """Return the styles in which the scene, drawn as it should be, comes nearest to `made` where the shape is."""
    assert scene.wanted is not None
    height, width = scene.mask.shape
    shape = scene.wanted.outside(width, height) <= 0

    def apart(styles: tuple[str, ...]) -> float:
        return float(np.abs(made - with_styles(scene, styles).truth)[shape].mean())

    return min(CHOICES, key=apart)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("styles", CHOICES, ids=lambda styles: "+".join(styles) or "none")
def test_each_style_is_seen_alone_and_both_together(styles: tuple[str, ...], fill_model: Any) -> None:
    seen = Counter(_looks_like(scene, _fill(fill_model, scene, styles)) for scene in _scenes())

    (what_most_look_like, count), *_ = seen.most_common()
    assert (what_most_look_like, count >= 3) == (styles, True), seen


@pytest.mark.parametrize("style", STYLES)
def test_at_scale_0_the_image_is_the_bases_bit_for_bit(style: str, fill_model: Any) -> None:
    scene = _scenes()[0]

    assert (_fill(fill_model, scene, (style,), scale=0.0) == _fill(fill_model, scene, ())).all()


@pytest.mark.parametrize("style", STYLES)
def test_half_the_scale_is_between_none_and_all(style: str, fill_model: Any) -> None:
    scene = _scenes()[1]
    none, half, whole = (_fill(fill_model, scene, (style,), scale=scale) for scale in (0.0, 0.5, 1.0))

    assert 0 < np.abs(half - none).mean() < np.abs(whole - none).mean()


def test_one_has_diffusers_names_and_the_other_kohyas(fill_settings: Settings) -> None:
    names = {
        style: read_header(
            LORAS / f"{style}.safetensors", max_bytes=fill_settings.lora_max_bytes, max_rank=fill_settings.lora_max_rank
        ).tensors
        for style in STYLES
    }

    assert all(name.startswith("transformer.") for name in names[STRIPED])
    assert all(name.startswith("lora_unet_") for name in names[OUTLINED])
    assert any(name.endswith(".alpha") for name in names[OUTLINED])


def test_a_lora_in_either_format_is_the_same_to_the_model(
    tmp_path: Path, fill_model: Any, fill_settings: Settings
) -> None:
    striped = LORAS / f"{STRIPED}.safetensors"
    from safetensors.torch import load_file

    lora = load_file(striped)
    save_diffusers(lora, tmp_path / "diffusers.safetensors")
    save_kohya(lora, tmp_path / "kohya.safetensors")
    scene = _scenes()[2]

    files = [tmp_path / "diffusers.safetensors", tmp_path / "kohya.safetensors"]
    images = [fill_scene(fill_model, scene, 1, steps=4, adapters=[adapter(path)]) for path in (striped, *files)]

    assert all(verify_lora(path, fill_model._base, fill_settings).rank for path in files)
    assert (images[0] == images[1]).all()
    assert np.abs(images[0] - images[2]).max() <= 2 / 255  # the same numbers, multiplied in another order


def test_a_layer_that_kohyas_format_has_no_name_for_is_refused() -> None:
    pair = {f"transformer.proj_out.lora_{part}.weight": torch.zeros(2, 2) for part in "AB"}

    with pytest.raises(ValueError, match="no name for proj_out"):
        as_kohya(pair)


def test_the_styles_are_told_apart_by_what_judges_them() -> None:
    for scene in _scenes():
        for one, other in combinations(CHOICES, 2):
            assert _looks_like(scene, with_styles(scene, one).truth) == one != other
