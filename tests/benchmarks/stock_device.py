"""The stock FluxFillPipeline with the bundled model, called as its documentation says: a naive program's device.

All of the call is behind the lock, what it does with Pillow's pictures too. A LoRA stays loaded until a task wants
another one or none.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from diffusers import FluxFillPipeline
from PIL import Image

from infra.demo_model.recipe import TEXT_LENGTH
from tests.benchmarks.naive import Task
from worker.model_folder import BUNDLED

GUIDANCE: Final = 30.0
_ADAPTER: Final = "style"


class StockDevice:
    """One pipeline. Not to be called by two threads at once: see the lock."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._pipe: Any = FluxFillPipeline.from_pretrained(BUNDLED, dtype=torch.float32)
        self._pipe.set_progress_bar_config(disable=True)
        self._lora: str | None = None

    def compute(self, task: Task, image: Image.Image, mask: Image.Image) -> list[Image.Image]:
        """Return the task's images."""
        self._use(task)
        made: list[Image.Image] = self._pipe(
            prompt=task.prompt,
            image=image,
            mask_image=mask,
            width=task.width,
            height=task.height,
            num_inference_steps=task.steps,
            guidance_scale=GUIDANCE,
            num_images_per_prompt=task.images,
            max_sequence_length=TEXT_LENGTH,
            generator=torch.Generator("cpu").manual_seed(task.seed),
        ).images
        return made

    def _use(self, task: Task) -> None:
        if task.lora != self._lora:
            self._pipe.unload_lora_weights()
            self._lora = task.lora
            if task.lora is not None:
                self._pipe.load_lora_weights(task.lora, adapter_name=_ADAPTER)
        if task.lora is not None:
            self._pipe.set_adapters([_ADAPTER], [task.scale])
