"""The demo model: the same each time, made once, and sane to look at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra.demo_model import recipe
from infra.demo_model.build import FOLDER, MARKER, NotOurFolderError, build, is_complete
from infra.demo_model.lora import save_demo_style
from tests.support.fills import adapter, fill_stock, pixels, quiet_peft, small_work

pytestmark = quiet_peft


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_making_it_twice_gives_the_same_bytes(model_folder: Path, tmp_path: Path) -> None:
    assert build(tmp_path / "again")

    assert _files(tmp_path / "again") == _files(model_folder)


def test_a_complete_one_is_left_alone_silently_and_without_loading_torch(model_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in model_folder.rglob("*")}
    watch = "import sys, runpy; sys.argv[1:] = []\ntry: runpy.run_module('infra.demo_model', run_name='__main__')\n"
    watch += "except SystemExit as end: assert not end.code\nassert 'torch' not in sys.modules"

    done = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, timeout=30, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path: path.stat().st_mtime_ns for path in model_folder.rglob("*")} == before


def test_a_damaged_or_outdated_one_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    build(folder)
    whole = _files(folder)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert not is_complete(folder)

    assert build(folder)

    assert _files(folder) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # nothing is left beside it


def test_a_folder_with_anything_else_in_it_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")

    with pytest.raises(NotOurFolderError, match="is not empty"):
        build(tmp_path)

    assert _files(tmp_path) == {"thesis.txt": b"mine"}


def test_its_card_says_that_it_is_untrained_and_under_which_licence(model_folder: Path) -> None:
    card = (model_folder / "README.md").read_text()

    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "untrained" in card
    assert (model_folder / MARKER).is_file()
    assert model_folder == FOLDER


@pytest.mark.parametrize(
    "text", ["", "a red cup", "Ein rötliches Kätzchen, 赤いカップ 🙂", "x" * 9000, "<|endoftext|> </s>"]
)
def test_any_text_has_tokens_for_both_encoders(text: str, stock: Any) -> None:
    embeddings, pooled, _ = stock.encode_prompt(text, max_sequence_length=recipe.TEXT_LENGTH)

    assert embeddings.shape == (1, recipe.TEXT_LENGTH, recipe.TEXT_WIDTH)
    assert bool(embeddings.isfinite().all())
    assert bool(pooled.isfinite().all())


def test_the_fill_takes_the_surroundings_colours_smoothly(stock: Any) -> None:
    blue = Image.new("RGB", (128, 128), (40, 80, 200))

    made = pixels(fill_stock(stock, small_work(prompt="", steps=6, image=blue), seed=1))[40:88, 40:88]

    assert abs(made.mean(axis=(0, 1)) - (40, 80, 200)).max() < 45
    assert abs(np.diff(made, axis=0)).mean() < 4  # no pixel noise


def test_a_colour_word_of_the_prompt_tints_the_fill(stock: Any) -> None:
    grey = Image.new("RGB", (128, 128), (128, 128, 128))

    red, green, blue = (
        pixels(fill_stock(stock, small_work(prompt=prompt, steps=6, image=grey), seed=1))[40:88, 40:88].mean(
            axis=(0, 1)
        )
        for prompt in ("a red vase", "a Green tree", "blue")
    )

    assert red.argmax() == 0
    assert green.argmax() == 1
    assert blue.argmax() == 2


@pytest.mark.parametrize("steps", [1, 28])
def test_no_output_is_saturated_or_flat(steps: int, stock: Any) -> None:
    made = pixels(fill_stock(stock, small_work(prompt="", steps=steps), seed=3))

    assert 60 < made.mean() < 200
    assert made.std() > 5
    assert ((made <= 1) | (made >= 254)).mean() < 0.1


def test_seed_guidance_and_prompt_each_change_the_image(stock: Any) -> None:
    base = fill_stock(stock, small_work(), seed=1).tobytes()

    assert fill_stock(stock, small_work(), seed=2).tobytes() != base
    assert fill_stock(stock, small_work(guidance=3.5), seed=1).tobytes() != base
    assert fill_stock(stock, small_work(prompt="a red bowl"), seed=1).tobytes() != base


def test_the_demo_lora_is_the_same_each_time_and_plain_to_see(
    tmp_path: Path, demo_style: Path, fill_model: Any
) -> None:
    assert save_demo_style(tmp_path).read_bytes() == demo_style.read_bytes()

    plain = pixels(fill_model.fill(small_work(), lambda _: None)[0])
    half, whole = (
        abs(
            pixels(fill_model.fill(small_work(adapters=(adapter(demo_style, scale),)), lambda _: None)[0]) - plain
        ).mean()
        for scale in (0.5, 1.0)
    )

    assert 5 < half < whole
    assert whole > 15
