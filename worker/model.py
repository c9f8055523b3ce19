"""The fill model: one FluxFillPipeline, its adapters, and what happens when the device's memory is too small.

Each image is a run of the stock pipeline with a CPU generator of its own seed, so that it equals, bit for bit, what
diffusers makes of the same inputs alone. Nothing here asks which model it has: what it can do, the pipeline tells.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from PIL import Image

from common.errors import Rejected
from common.fill_profile import Offload, VaeTiling
from common.settings import Settings
from worker.acceleration import accelerate, loading_arguments
from worker.acceleration.compiling import warm_up
from worker.acceleration.placement import place
from worker.device_errors import is_device_broken, is_out_of_memory
from worker.licence_notice import tell_licence
from worker.loras.adapters import Adapters, WantedAdapters
from worker.loras.base_shapes import BaseShapes
from worker.model_folder import ModelFolder, find_model
from worker.model_version import model_version
from worker.pipeline import FluxFillPipelineWithoutDeadWork
from worker.profile import Profile, profile_of
from worker.prompt_cache import PromptCache
from worker.torch_device import choose_device, host_of
from worker.work import DeviceBroken, Tick, Work

MAX_SEQUENCE_LENGTH = 512
"""What the pipeline uses by default, and the most that it takes; a model whose tokenizer takes less gets less."""


def load_model(settings: Settings) -> FluxFillModel:
    """Load the model that the settings name onto its device.

    Raises Rejected (model_not_found, model_not_allowed, no_such_device, profile_…) where the operator has to do
    something, Transient (hub_unavailable), and what torch and diffusers raise where the folder holds something else.
    """
    device = choose_device(settings.fill_device)
    profile = profile_of(settings, host_of(device))
    dtype = _dtype(settings.fill_dtype, device)
    if settings.worker_threads is not None:
        torch.set_num_threads(settings.worker_threads)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    folder = find_model(settings)
    tell_licence(folder, settings)
    pipe = FluxFillPipelineWithoutDeadWork.from_pretrained(
        folder.path, dtype=dtype, use_safetensors=True, local_files_only=True, **loading_arguments(profile)
    )
    pipe.set_progress_bar_config(disable=True)
    accelerate(pipe, profile)
    place(pipe, profile.offload, device)
    model = FluxFillModel(pipe, folder, settings, profile, device)
    if profile.compilation is not None:
        model.warm_up(profile.compilation.sizes)
    return model


@dataclass(frozen=True, eq=False)
class _Prepared:
    """One work's picture and mask as the pipeline takes them: 1 x channels x height x width, 0 to 1, whole tokens."""

    work: Work
    adapters: WantedAdapters
    image: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Made:
    """What the VAE decoded for each seed, in the host's memory: 1 x 3 x height x width, 0 to 1."""

    work: Work
    pictures: list[torch.Tensor]


class FluxFillModel:
    """A FillModel (worker/work.py) on a FluxFillPipeline."""

    def __init__(
        self, pipe: Any, folder: ModelFolder, settings: Settings, profile: Profile, device: torch.device
    ) -> None:
        self._pipe = pipe
        self._pipe.prompts = PromptCache(settings.prompt_cache_bytes)
        self._settings = settings
        self._profile = profile
        self._device = device  # not the pipeline's, which says CPU while its parts rest there
        self._base = BaseShapes.of_pipeline(pipe)
        slot_rank = None if profile.compilation is None else settings.lora_slot_rank
        self._adapters = Adapters(pipe, self._base, settings, slot_rank=slot_rank)
        self.version = model_version(pipe, folder, profile, device)

    @property
    def resident(self) -> frozenset[str]:
        """The sha256 of the adapters that are loaded now."""
        return self._adapters.resident

    def check_adapter(self, path: Path, what: str) -> None:
        """Read the LoRA file at `path` without touching the model; `what` names the field in messages.

        Raises Rejected as verify_lora does, and Transient (lora_gone). Any thread may call it; a file that passed is
        not read again while it is unchanged.
        """
        self._adapters.check(path, what)

    def warm_up(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Compile all that jobs will need, with LoRAs and without, in each size."""
        for _ in self._adapters.variants():
            warm_up(lambda work: self.fill(work, _no_tick), sizes)

    def fill(self, work: Work, tick: Tick) -> list[Image.Image]:
        """Return one RGB image of width x height per seed. Raises as `run`; for who has no other thread."""
        return self.develop(self.run(self.prepare(work), tick))

    def prepare(self, work: Work) -> _Prepared:
        """See FillModel."""
        adapters = self._adapters.prepare(work.adapters)
        image, mask = _padded(work.image, work.mask, self._multiple)
        return _Prepared(work, adapters, *(_as_tensor(self._pipe.image_processor, one) for one in (image, mask)))

    def run(self, prepared: _Prepared, tick: Tick) -> _Made:
        """See FillModel.

        Raises Rejected (out_of_memory, not_finite, and as Adapters.use), Transient (lora_gone), DeviceBroken, and what
        `tick` raises.
        """
        work = prepared.work
        try:
            return self._run(prepared, tick, nullcontext())
        except Exception as error:
            _raise_if_broken(error)
            if not is_out_of_memory(error):
                raise
        # Only here, after the except clause, is the traceback gone that held the tensors of the failed run.
        self._adapters.keep_only({adapter.sha256 for adapter in work.adapters})
        _free_memory()
        try:
            return self._run(prepared, tick, self._offloaded())
        except Exception as error:
            _raise_if_broken(error)
            if not is_out_of_memory(error):
                raise
        _free_memory()
        raise Rejected(
            "out_of_memory",
            f"{work.width}x{work.height} with {len(work.adapters)} LoRAs does not fit into this worker's memory, "
            "also not after a second try with parts of the model moved out; ask for a smaller size or fewer LoRAs",
        )

    def develop(self, made: _Made) -> list[Image.Image]:
        """See FillModel."""
        processor, size = self._pipe.image_processor, (made.work.width, made.work.height)
        pictures = [processor.numpy_to_pil(processor.pt_to_numpy(one))[0] for one in made.pictures]
        return [one if one.size == size else one.crop((0, 0, *size)) for one in pictures]

    def _run(self, prepared: _Prepared, tick: Tick, memory: AbstractContextManager[None]) -> _Made:
        work = prepared.work
        self._adapters.use(prepared.adapters, tick)
        self._pipe.text_adapters = self._adapters.in_text_encoders(prepared.adapters)
        with memory, self._pipe.one_picture():
            return _Made(work, [self._picture(prepared, seed, tick) for seed in work.seeds])

    def _picture(self, prepared: _Prepared, seed: int, tick: Tick) -> torch.Tensor:
        """Return the picture of one seed: what the stock pipeline makes of it alone."""
        work = prepared.work
        height, width = prepared.image.shape[-2:]
        result = self._pipe(
            **self._prompt(work),
            image=prepared.image,
            mask_image=prepared.mask,
            width=width,
            height=height,
            strength=1.0,
            num_inference_steps=work.steps,
            guidance_scale=work.guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
            callback_on_step_end=_StepEnd(work.steps, tick),
            output_type="pt",
        )
        picture: torch.Tensor = result.images.cpu()
        tick("decode")
        return picture

    def _prompt(self, work: Work) -> dict[str, Any]:
        length = min(MAX_SEQUENCE_LENGTH, self._pipe.tokenizer_2.model_max_length)
        return {"prompt": work.prompt, "max_sequence_length": length}

    @property
    def _multiple(self) -> int:
        """What width and height must be multiples of: one token's side in pixels."""
        return int(self._pipe.vae_scale_factor) * 2

    @contextmanager
    def _offloaded(self) -> Iterator[None]:
        """Keep on the device only the part that computes, and let the VAE work in tiles where the profile allows it.

        The first changes no result, the second does: never under `exact`.
        """
        if self._device.type == "cpu":
            yield
            return
        try:
            if self._profile.vae_tiling is VaeTiling.AUTO:
                self._pipe.vae.enable_tiling()
            place(self._pipe, Offload.MODEL, self._device)
            yield
        finally:
            try:
                if self._profile.vae_tiling is VaeTiling.AUTO:
                    self._pipe.vae.disable_tiling()
                self._pipe.remove_all_hooks()
                place(self._pipe, self._profile.offload, self._device)
            except Exception as error:  # half of the model is elsewhere: nothing more can be done with it here
                raise DeviceBroken(f"the model could not be moved back to the device: {error}") from error


class _StepEnd:
    """Called by the pipeline after each step: tells that it goes on, and looks at the result before it is decoded."""

    def __init__(self, steps: int, tick: Tick) -> None:
        self._last = steps - 1
        self._tick = tick

    def __call__(self, _pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        self._tick("step")
        if step == self._last:
            if not bool(torch.isfinite(tensors["latents"]).all()):
                raise Rejected(
                    "not_finite",
                    "the model's numbers overflowed, and the image would be black; use smaller LoRA scales",
                )
            self._tick("decode")
        return tensors


def _padded(image: Image.Image, mask: Image.Image, multiple: int) -> tuple[Image.Image, Image.Image]:
    """Return both with their last row and column repeated up to whole tokens; else the pipeline would cut them."""
    width, height = (-(-side // multiple) * multiple for side in image.size)
    if (width, height) == image.size:
        return image, mask
    return _extended(image, width, height), _extended(mask, width, height)


def _as_tensor(processor: Any, image: Image.Image) -> torch.Tensor:
    # As the pipeline does it with an image, up to where it goes on with a tensor of 0 to 1 in the same way.
    tensor: torch.Tensor = processor.numpy_to_pt(processor.pil_to_numpy(image))
    return tensor


def _extended(image: Image.Image, width: int, height: int) -> Image.Image:
    whole = Image.new(image.mode, (width, height))
    whole.paste(image, (0, 0))
    if width > image.width:
        edge = whole.crop((image.width - 1, 0, image.width, image.height))
        whole.paste(edge.resize((width - image.width, image.height)), (image.width, 0))
    if height > image.height:
        edge = whole.crop((0, image.height - 1, width, image.height))
        whole.paste(edge.resize((width, height - image.height)), (0, image.height))
    return whole


def _dtype(wish: str, device: torch.device) -> torch.dtype:
    if wish == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wish]


def _no_tick(_: str) -> None:
    """The model loads: how long that may take is watched from outside."""


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _raise_if_broken(error: Exception) -> None:
    if is_device_broken(error):
        raise DeviceBroken(str(error)) from error
