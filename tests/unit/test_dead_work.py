"""No dead work: prompts and pictures are encoded once, and every image is what stock diffusers makes, bit for bit."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, FluxFillPipeline
from PIL import Image

from common.errors import Cancelled
from tests.support.fills import (
    TEXT_LAYER,
    FillSettings,
    adapter,
    fill_stock,
    peft_pair,
    quiet_peft,
    same,
    small_work,
    text_pair,
    write_lora,
)
from worker.model import FluxFillModel, load_model
from worker.prompt_cache import EncodedPrompt, PromptCache, PromptKey
from worker.work import Work

pytestmark = quiet_peft


class Counted:
    """A model, and how often its encoders ran."""

    def __init__(self, model: FluxFillModel) -> None:
        self.model = model
        self.encodes: Counter[str] = Counter()
        pipe = model._pipe
        for name in ("text_encoder", "text_encoder_2"):
            getattr(pipe, name).register_forward_hook(lambda *_, name=name: self.encodes.update([name]))
        pipe.vae.encoder.register_forward_hook(lambda *_: self.encodes.update(["vae"]))

    def fill(self, work: Work) -> list[Image.Image]:
        """Fill it."""
        return self.model.fill(work, lambda _: None)

    def take(self) -> tuple[int, int, int]:
        """Return the encodes of both text encoders and of the VAE since the last time."""
        counted = tuple(self.encodes[name] for name in ("text_encoder", "text_encoder_2", "vae"))
        self.encodes.clear()
        return counted  # type: ignore[return-value]


@pytest.fixture(scope="module", params=["tiny", "kl"])
def folder(request: pytest.FixtureRequest, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, and once more with a VAE such as FLUX.1's, which draws a sample of what it encodes."""
    if request.param == "tiny":
        return model_folder
    made: Path = tmp_path_factory.mktemp("kl") / "model"
    shutil.copytree(model_folder, made)
    shutil.rmtree(made / "vae")
    torch.manual_seed(0)
    blocks = 5
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(8,) * blocks,
        norm_num_groups=4,
        latent_channels=16,
        shift_factor=0.1,
        scaling_factor=0.4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    vae.save_pretrained(made / "vae")
    index = json.loads((made / "model_index.json").read_text())
    index["vae"] = ["diffusers", "AutoencoderKL"]
    (made / "model_index.json").write_text(json.dumps(index))
    return made


@pytest.fixture
def counted(folder: Path) -> Counted:
    return Counted(load_model(FillSettings(fill_model=str(folder))))


@pytest.fixture
def stock(folder: Path) -> Any:
    """The same model as diffusers loads it."""
    pipe = FluxFillPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_prompt_is_encoded_once_and_each_picture_once(counted: Counted, stock: Any) -> None:
    works = [small_work(prompt=prompt, seeds=(seed,)) for seed, prompt in enumerate(["a red cup", "", "a red cup", ""])]
    images = [counted.fill(work)[0] for work in works]
    assert counted.take() == (2, 2, 4)
    for work, image in zip(works, images, strict=True):
        assert same(image, fill_stock(stock, work, work.seeds[0]))


def test_all_images_of_a_job_share_one_encode_of_its_picture(counted: Counted, stock: Any) -> None:
    work = small_work(seeds=(3, 4, 5, 6))
    images = counted.fill(work)
    assert counted.take() == (1, 1, 1)
    for seed, image in zip(work.seeds, images, strict=True):
        assert same(image, fill_stock(stock, work, seed))


def test_the_next_job_does_not_get_the_last_ones_picture(counted: Counted, stock: Any) -> None:
    first = small_work(seeds=(1, 2))
    other = replace(first, image=first.image.rotate(180), mask=first.mask.resize((64, 64)).resize((128, 128)).rotate(9))
    counted.fill(first)
    assert same(counted.fill(other)[1], fill_stock(stock, other, 2))


def test_a_job_that_was_cancelled_leaves_no_picture_behind(counted: Counted, stock: Any) -> None:
    def cancel(_: str) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        counted.model.fill(small_work(seeds=(1, 2)), cancel)
    other = small_work(image=small_work().image.rotate(90), seeds=(1, 2))
    assert same(counted.fill(other)[0], fill_stock(stock, other, 1))


def test_a_prompt_under_a_lora_of_the_text_encoder_is_another_prompt(
    counted: Counted, folder: Path, tmp_path: Path
) -> None:
    in_text = adapter(
        write_lora(tmp_path / "text.safetensors", text_pair(f"text_encoder.{TEXT_LAYER}") | peft_pair()), scale=0.8
    )
    plain = small_work()
    works = [plain, replace(plain, adapters=(in_text,)), replace(plain, adapters=(replace(in_text, scale=0.3),))]
    first = [counted.fill(work)[0] for work in works]
    assert counted.take()[:2] == (3, 3)
    assert len({image.tobytes() for image in first}) == 3
    again = [counted.fill(work)[0] for work in works]
    assert counted.take()[:2] == (0, 0)
    assert all(same(one, other) for one, other in zip(first, again, strict=True))
    fresh = Counted(load_model(FillSettings(fill_model=str(folder), prompt_cache_bytes=0)))
    assert all(same(one, fresh.fill(work)[0]) for one, work in zip(first, works, strict=True))


def test_a_lora_of_the_transformer_alone_needs_no_new_encode(counted: Counted, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "style.safetensors", peft_pair())
    counted.fill(small_work())
    counted.fill(small_work(adapters=(adapter(path),)))
    assert counted.take() == (1, 1, 2)


def test_without_a_budget_every_job_pays_for_its_prompt() -> None:
    counted = Counted(load_model(FillSettings(prompt_cache_bytes=0)))
    before = counted.fill(small_work())[0]
    assert same(counted.fill(small_work())[0], before)
    assert counted.take() == (2, 2, 2)


def _encoded(tokens: int) -> EncodedPrompt:
    return EncodedPrompt(torch.ones(1, tokens, 4), torch.ones(1, 4))


def _key(prompt: str) -> PromptKey:
    return PromptKey(prompt, 512, ())


def test_what_was_not_asked_for_longest_makes_room() -> None:
    one = _encoded(10)
    cache = PromptCache(3 * one.bytes)
    for name in ("a", "b", "c"):
        cache.put(_key(name), one)
    cache.get(_key("a"))
    cache.put(_key("d"), one)
    assert [cache.get(_key(name)) is not None for name in "abcd"] == [True, False, True, True]
    assert cache.bytes == 3 * one.bytes


def test_a_prompt_larger_than_the_budget_is_not_kept_and_drives_nobody_out() -> None:
    small = _encoded(1)
    cache = PromptCache(2 * small.bytes)
    cache.put(_key("small"), small)
    cache.put(_key("large"), _encoded(100))
    assert cache.get(_key("large")) is None
    assert cache.get(_key("small")) is not None
