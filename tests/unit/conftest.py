"""The demo model for tests that compute with it: loaded once, and the stock pipeline to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from common.settings import Settings
from infra.demo_model.files import FOLDER, LORAS
from tests.support.fills import FillSettings


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """The folder of the demo model, where the worker looks for it."""
    return FOLDER


@pytest.fixture(scope="session")
def fill_settings(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings for the demo model on the CPU, with folders of this run's own. No servers."""
    return FillSettings(
        lora_folder=tmp_path_factory.mktemp("loras"), lora_cache_folder=tmp_path_factory.mktemp("lora-cache")
    )


@pytest.fixture(scope="session")
def fill_model(fill_settings: Settings) -> Any:
    """The loaded demo model (a worker.model.FluxFillModel), shared: each test leaves it as it was."""
    from worker.model import load_model

    return load_model(fill_settings)


@pytest.fixture(scope="module")
def cached() -> Any:
    """A model that caches steps; each test leaves it as it was."""
    from tests.support.accelerated import load_cached

    return load_cached()


@pytest.fixture(scope="module")
def int8() -> Any:
    """A model with weights of 8 bits and every step whole; each test leaves it as it was."""
    from tests.support.accelerated import load

    return load(fill_profile="fast", fill_step_cache=False, fill_quantization="int8")


@pytest.fixture
def stock(model_folder: Path) -> Any:
    """A FluxFillPipeline just as diffusers loads it, this test's own."""
    from diffusers import FluxFillPipeline

    pipe = FluxFillPipeline.from_pretrained(model_folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def demo_style() -> Path:
    """One of the demo's LoRAs."""
    return LORAS / "striped.safetensors"
