"""diffusers' FluxFillPipeline without the work that changes nothing: what it returns stays the same, bit for bit.

Stock encodes each prompt anew; encodes the picture that is to be filled, and multiplies the result by zero; and encodes
the same masked picture once for every seed. Three methods are overridden here, and nothing of the denoising itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, FluxFillPipeline
from diffusers.pipelines.flux.pipeline_flux_fill import retrieve_latents
from diffusers.utils.torch_utils import randn_tensor

from worker.acceleration.placement import text_encoders_at
from worker.prompt_cache import EncodedPrompt, PromptCache, PromptKey

_Latents = tuple[torch.Tensor, torch.Tensor]
_Encoded = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class FluxFillPipelineWithoutDeadWork(FluxFillPipeline):  # type: ignore[misc]
    """The stock pipeline; libraries that look for it by name know it by how this one's begins."""

    prompts: PromptCache | None = None
    """Where encoded prompts are kept; without it each is encoded anew."""
    text_adapters: tuple[tuple[str, float], ...] = ()
    """See PromptKey; to be set whenever other adapters become active."""
    rests_text_encoders = False
    """Whether the text encoders lie in the host's memory, and are on the device only while they encode."""
    _encoded: Any = None
    _is_one_picture = False

    @contextmanager
    def one_picture(self) -> Iterator[None]:
        """Promise that all calls in this block have the same image and mask: they are then encoded once."""
        self._is_one_picture = True
        try:
            yield
        finally:
            self._is_one_picture, self._encoded = False, None

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        *,
        device: torch.device | None = None,
        max_sequence_length: int = 512,
        **stock: Any,
    ) -> _Encoded:
        """Return embeddings, pooled embeddings and text ids, as stock does."""
        more = {**stock, "device": device, "max_sequence_length": max_sequence_length}
        if self.prompts is None or not isinstance(prompt, str) or not _is_plain(stock):
            return self._encode(prompt, more)
        key = PromptKey(prompt, max_sequence_length, self.text_adapters)
        kept = self.prompts.get(key)
        if kept is None:
            embeds, pooled, text_ids = self._encode(prompt, more)
            self.prompts.put(key, EncodedPrompt(embeds, pooled))
            return embeds, pooled, text_ids
        here = kept.to(device or self._execution_device)
        given = {"prompt_embeds": here.embeds, "pooled_prompt_embeds": here.pooled}
        return _three(super().encode_prompt(None, **(more | given)))

    def prepare_latents(
        self,
        image: torch.Tensor,
        timestep: torch.Tensor,
        batch_size: int,
        num_channels_latents: int,
        height: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator,
        latents: torch.Tensor | None = None,
    ) -> _Latents:
        """Return the packed noise that the denoising begins with, and the ids of its tokens, as stock does.

        Where it begins with noise alone, stock's encoding of `image` is only drawn for, so that the seed's next numbers
        stay what they are.
        """
        if latents is None and batch_size == 1 and self._begins_with_noise(timestep):
            token = self.vae_scale_factor * 2
            shape = (1, num_channels_latents, 2 * (int(height) // token), 2 * (int(width) // token))
            if isinstance(self.vae, AutoencoderKL):  # whose encoding is a sample
                randn_tensor(shape, generator=generator, device=device, dtype=self.vae.dtype)
            noise = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
            latents = self._pack_latents(noise, *shape)
        made = super().prepare_latents(
            image,
            timestep,
            batch_size,
            num_channels_latents,
            height,
            width,
            dtype,
            device,
            generator,
            latents,
        )
        return cast(_Latents, made)

    def prepare_mask_latents(
        self,
        mask: torch.Tensor,
        masked_image: torch.Tensor,
        batch_size: int,
        num_channels_latents: int,
        *stock: Any,
    ) -> _Latents:
        """Return the packed mask and the packed encoding of the masked image, as stock does."""
        *_, generator = stock
        if self._is_one_picture and batch_size == 1 and masked_image.shape[1] != num_channels_latents:
            if self._encoded is None:
                self._encoded = self.vae.encode(masked_image)
            masked_image = retrieve_latents(self._encoded, generator=generator)  # stock takes latents as they are
        made = super().prepare_mask_latents(mask, masked_image, batch_size, num_channels_latents, *stock)
        return cast(_Latents, made)

    def _encode(self, prompt: str | list[str] | None, arguments: dict[str, Any]) -> _Encoded:
        here = arguments["device"] or self._execution_device
        with text_encoders_at(self, here) if self.rests_text_encoders else nullcontext():
            return _three(super().encode_prompt(prompt, **arguments))

    def _begins_with_noise(self, timestep: torch.Tensor) -> bool:
        if not isinstance(self.vae, (AutoencoderKL, AutoencoderTiny)):
            return False  # nobody knows what it draws
        first = self.scheduler.timesteps[0]
        return float(self.scheduler.sigmas[0]) == 1.0 and bool((timestep == first.to(timestep.device)).all())


def _is_plain(arguments: dict[str, Any]) -> bool:
    """Whether nothing was asked for that the cache's key does not know: one image of the one prompt."""
    return all(value is None or (name == "num_images_per_prompt" and value == 1) for name, value in arguments.items())


def _three(made: Any) -> _Encoded:
    return cast(_Encoded, made)
