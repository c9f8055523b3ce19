"""The bundled demo model: it is whole and small, reads words, and fills as its card says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from common.settings import Settings
from infra.demo_model import recipe
from infra.demo_model.examples import Examples
from infra.demo_model.files import FOLDER, LOGS, LORAS
from infra.demo_model.measuring import fill_scene
from infra.demo_model.quality import Quality, held_out, measure
from infra.demo_model.scenes import TRAINING_SEEDS, Scene, draw_scene
from tests.support.fills import fill_stock, quiet_peft, small_work
from worker.model import load_model
from worker.model_licence import read_licence

pytestmark = quiet_peft

SCENES = 24
MEGABYTE = 1e6


@pytest.fixture(scope="module")
def quality(fill_settings: Settings) -> Quality:
    """Two dozen held-out scenes, each filled with a prompt and without, 28 steps at 512 x 512."""
    model = load_model(fill_settings)
    return measure(lambda scene, seed: fill_scene(model, scene, seed, steps=28), range(SCENES))


def test_it_is_whole_in_safetensors_alone_and_at_most_25_mb_with_its_loras() -> None:
    files = [path for folder in (FOLDER, LORAS) for path in folder.rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) <= 25 * MEGABYTE
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md"}
    assert {path.parent.name for path in files if path.suffix == ".safetensors"} == {
        "transformer", "vae", "text_encoder", "text_encoder_2", "loras",
    }  # fmt: skip


def test_anybody_on_this_machine_may_read_it() -> None:
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in [*FOLDER.rglob("*.*"), *LORAS.iterdir()])


def test_all_its_numbers_are_finite() -> None:
    for path in [*FOLDER.rglob("*.safetensors"), *LORAS.glob("*.safetensors")]:
        with safe_open(path, "pt") as file:
            assert all(bool(file.get_tensor(name).isfinite().all()) for name in file.keys()), path.name  # noqa: SIM118


def test_its_configuration_is_the_recipes(stock: Any) -> None:
    for part, wanted in ((stock.transformer, recipe.TRANSFORMER), (stock.vae, recipe.VAE)):
        has = {key: part.config[key] for key in wanted}
        assert json.dumps(has) == json.dumps(wanted)  # lists and tuples are the same there


def test_its_card_says_how_it_was_made_and_that_it_is_free_to_use() -> None:
    card = (FOLDER / "README.md").read_text()

    assert read_licence(FOLDER, None).name == "apache-2.0"
    assert "make model" in card
    assert "untrained" not in card


def test_the_logs_of_its_training_are_kept_and_each_learnt() -> None:
    for name in ("vae", "fill", "decoder", "striped", "outlined"):
        lines = [json.loads(line) for line in (LOGS / f"{name}.jsonl").read_text().splitlines()]
        assert lines[-1]["loss"] < lines[0]["loss"], name
        assert [line["step"] for line in lines] == sorted({line["step"] for line in lines}), name


@pytest.mark.parametrize("word", recipe.WORDS)
def test_each_of_its_words_is_one_token_for_both_encoders(word: str, tokenizers: tuple[Any, Any]) -> None:
    clip, t5 = tokenizers

    assert len(clip(word).input_ids) == 3  # with the two marks
    assert [len(t5(form).input_ids) for form in (word, word.capitalize())] == [2, 2]  # with the mark at the end


@pytest.fixture(scope="module")
def tokenizers() -> tuple[Any, Any]:
    """Both, as they lie in the model's folder."""
    from transformers import AutoTokenizer

    return tuple(AutoTokenizer.from_pretrained(FOLDER / name) for name in ("tokenizer", "tokenizer_2"))


@pytest.mark.parametrize(
    "text", ["", "a red cup", "Ein rötliches Kätzchen, 赤いカップ 🙂", "x" * 9000, "<|endoftext|> </s>"]
)
def test_any_text_has_tokens_for_both_encoders(text: str, stock: Any) -> None:
    embeddings, pooled, _ = stock.encode_prompt(text, max_sequence_length=recipe.TEXT_LENGTH)

    assert embeddings.shape == (1, recipe.TEXT_LENGTH, recipe.TEXT_WIDTH)
    assert bool(embeddings.isfinite().all())
    assert bool(pooled.isfinite().all())


def test_training_takes_none_but_its_own_seeds(stock: Any, tokenizers: tuple[Any, Any]) -> None:
    asked: list[int] = []

    def scene(seed: int) -> Scene:
        asked.append(seed)
        return draw_scene(seed, 64, 64)

    examples = Examples(stock.vae, tokenizers, 64, scene)
    batches = [examples.batch(number, 6) for number in range(5)]

    assert len(set(asked)) == 6 + 4 * 2, "the first batch is new, of the others a third"
    assert max(asked) < TRAINING_SEEDS
    assert all(len(batch.wanted) == 6 for batch in batches)


# --- what it fills


@pytest.mark.timeout(600)
def test_the_prompts_colour_fills_its_shape_in_nine_of_ten_scenes(quality: Quality) -> None:
    wrong = [one for one in quality.drawn if not one.colour_is_right]

    assert quality.colour_share >= 0.9, wrong


def test_the_prompts_shape_is_recognisable(quality: Quality) -> None:
    assert quality.mean_iou >= 0.7, sorted((round(one.iou, 2), one.prompt) for one in quality.drawn)


def test_an_empty_prompt_continues_the_background_in_four_of_five_scenes(quality: Quality) -> None:
    assert quality.continued_share >= 0.8, sorted((round(one.psnr, 1), one.background) for one in quality.continued)


def test_seeds_of_a_prompt_without_a_colour_differ_in_colour(fill_model: Any) -> None:
    scene = next(one for one in map(_star, range(100)) if one.wanted is not None)
    height, width = scene.mask.shape
    assert scene.wanted is not None
    inside = scene.wanted.outside(width, height) < -4

    colours = [fill_scene(fill_model, scene, seed, steps=12)[inside].mean(axis=0) for seed in range(4)]

    apart = [float(np.linalg.norm(one - other)) for n, one in enumerate(colours) for other in colours[:n]]
    assert max(apart) > 0.3


def _star(number: int) -> Any:
    scene = held_out(number, empty=False)
    return replace(scene, prompt=f"a {scene.wanted.shape}") if scene.wanted else scene


def test_words_that_mean_nothing_change_little(fill_model: Any) -> None:
    scene = held_out(1, empty=False)
    other = replace(scene, prompt=f"{scene.prompt}, quizzically framed")

    plain, wordy = (fill_scene(fill_model, one, 1, steps=12)[scene.mask] for one in (scene, other))

    assert float(np.abs(plain - wordy).mean()) < 0.12


@pytest.mark.parametrize("steps", [1, 28])
def test_no_output_is_saturated_or_flat(steps: int, fill_model: Any) -> None:
    scene = draw_scene(7, 128, 128, empty=False, background="gradient")

    made = fill_scene(fill_model, scene, 3, steps=steps)

    assert 0.05 < made.mean() < 0.95
    assert made.std() > 0.02


def test_seed_guidance_and_prompt_each_change_the_image(stock: Any) -> None:
    base = fill_stock(stock, small_work(), seed=1).tobytes()

    assert fill_stock(stock, small_work(), seed=2).tobytes() != base
    assert fill_stock(stock, small_work(guidance=3.5), seed=1).tobytes() != base
    assert fill_stock(stock, small_work(prompt="a red bowl"), seed=1).tobytes() != base


def test_it_runs_in_bfloat16_too(model_folder: Path) -> None:
    from diffusers import FluxFillPipeline

    pipe = FluxFillPipeline.from_pretrained(model_folder, dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)

    assert fill_stock(pipe, small_work(), seed=1).getextrema() != ((0, 0),) * 3
