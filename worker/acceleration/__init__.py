"""Puts a profile (worker/profile.py) into effect on the pipeline, at start. Under `exact` it does nothing to it.

Each acceleration comes from a well-kept library, in a file of its own here. What goes together is not asked here again.
"""

from __future__ import annotations

from typing import Any

from common.fill_profile import Attention, Quantization, VaeTiling
from worker.acceleration.attention import attend_with
from worker.acceleration.compiling import compile_blocks
from worker.acceleration.quantization import quantization_config
from worker.acceleration.step_cache import cache_steps
from worker.profile import BACKENDS, Profile


def loading_arguments(profile: Profile) -> dict[str, Any]:
    """Return what `from_pretrained` is to be told beyond the usual."""
    if profile.quantization is Quantization.NONE:
        return {}
    return {"quantization_config": quantization_config(profile.quantization)}


def accelerate(pipe: Any, profile: Profile) -> None:
    """Change the loaded pipeline as the profile says; once, and before it has adapters and hooks.

    Raises Rejected (profile_device, profile_folder).
    """
    if profile.attention is not Attention.NATIVE:
        attend_with(pipe.transformer, BACKENDS[profile.attention].name)
    if profile.vae_tiling is VaeTiling.ON:
        pipe.vae.enable_tiling()
    if profile.step_cache is not None:
        cache_steps(pipe, profile.step_cache)
    if profile.compilation is not None:
        compile_blocks(pipe.transformer, profile.compilation)
