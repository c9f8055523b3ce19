"""How this worker computes: what the FILL_ settings say together, checked before the model is loaded.

The rules come from what was measured and published (docs/performance.md). No torch here: `fillfleet doctor` asks the
same questions, and a refusal must not take the minutes that loading the model takes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from common.errors import Rejected
from common.fill_profile import Attention, FillProfile, Offload, Quantization, VaeTiling
from common.settings import Settings

_INSTALL_FAST: Final = "pip install 'fillfleet[fast]'"
_FP8_CAPABILITY: Final = (8, 9)
"""Ada Lovelace (RTX 40, L4, L40) and later have products of 8-bit floats."""
_FLASH_3_CAPABILITY: Final = (9, 0)


class Backend(NamedTuple):
    """What computes attention: diffusers' name for it, and where it is not torch's own, the package it needs."""

    name: str
    module: str | None = None
    package: str | None = None


BACKENDS: Final = {
    # diffusers knows more, which fetch code from the hub as it is there today and run it: not on somebody's fleet.
    Attention.NATIVE: Backend("native"),
    Attention.CUDNN: Backend("_native_cudnn"),
    Attention.FLASH: Backend("flash", "flash_attn", "flash-attn"),
    Attention.FLASH_3: Backend("_flash_3", "flash_attn_interface", "flash-attn-3"),
    Attention.SAGE: Backend("sage", "sageattention", "sageattention"),
    Attention.XFORMERS: Backend("xformers", "xformers", "xformers"),
}


@dataclass(frozen=True)
class StepCache:
    """When a step takes over what an earlier one computed; FILL_STEP_CACHE_… say what the numbers mean."""

    threshold: float
    warmup_steps: int


@dataclass(frozen=True)
class Compilation:
    """Where compiled code is kept, and which sizes are filled once at start."""

    cache: Path
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Profile:
    """All that decides how the model computes, but for its dtype."""

    name: FillProfile = FillProfile.EXACT
    step_cache: StepCache | None = None
    compilation: Compilation | None = None
    quantization: Quantization = Quantization.NONE
    attention: Attention = Attention.NATIVE
    vae_tiling: VaeTiling = VaeTiling.OFF
    offload: Offload = Offload.NONE

    @property
    def libraries(self) -> tuple[str, ...]:
        """The packages beyond the worker's own that take part in computing."""
        used = []
        if self.step_cache is not None:
            used.append("cache-dit")
        if self.quantization is not Quantization.NONE:
            used.append("torchao")
        package = BACKENDS[self.attention].package
        return (*used, package) if package else tuple(used)

    @property
    def in_effect(self) -> dict[str, str]:
        """What changes results, in words for the model version. FILL_OFFLOAD is not in it: it changes none."""
        words = {"profile": self.name.value}
        if self.step_cache is not None:
            words["step_cache"] = (
                f"TaylorSeer, threshold {self.step_cache.threshold}, warm-up {self.step_cache.warmup_steps}"
            )
        if self.compilation is not None:
            words["compile"] = "repeated blocks"
        if self.quantization is not Quantization.NONE:
            words["quantization"] = self.quantization.value
        if self.vae_tiling is not VaeTiling.OFF:
            words["vae_tiling"] = self.vae_tiling.value
        return words


@dataclass(frozen=True)
class Host:
    """What the rules ask of a worker's host. `kind` is torch's word for the device: cuda, mps or cpu."""

    kind: str
    capability: tuple[int, int] | None = None
    """CUDA's compute capability."""
    has_module: Callable[[str], bool] = lambda module: find_spec(module) is not None
    has_program: Callable[[str], bool] = lambda program: shutil.which(program) is not None


def profile_of(settings: Settings, host: Host) -> Profile:
    """Return the profile that the settings name.

    Raises Rejected (profile_is_exact, profile_conflict, profile_device, profile_not_installed) where something does not
    go together; the message names the setting to change.
    """
    if settings.fill_profile is FillProfile.EXACT:
        _check_exact(settings)
    _check_compile(settings, host)
    _check_quantization(settings, host)
    _check_attention(settings, host)
    _check_offload(settings, host)
    if settings.fill_profile is FillProfile.EXACT:
        return Profile(offload=settings.fill_offload)
    return Profile(
        name=FillProfile.FAST,
        step_cache=_step_cache(settings, host),
        compilation=_compilation(settings),
        quantization=settings.fill_quantization,
        attention=settings.fill_attention,
        vae_tiling=settings.fill_vae_tiling,
        offload=settings.fill_offload,
    )


def _check_exact(settings: Settings) -> None:
    wanted = [
        name
        for name, is_set in (
            ("FILL_STEP_CACHE", settings.fill_step_cache),
            ("FILL_COMPILE", settings.fill_compile),
            ("FILL_QUANTIZATION", settings.fill_quantization is not Quantization.NONE),
            ("FILL_ATTENTION", settings.fill_attention is not Attention.NATIVE),
            ("FILL_VAE_TILING", settings.fill_vae_tiling is VaeTiling.ON),
        )
        if is_set
    ]
    if wanted:
        names = " and ".join(wanted)
        raise Rejected(
            "profile_is_exact",
            f"{names} would change the images, and FILL_PROFILE=exact promises that they equal stock "
            f"diffusers' bit for bit: set FILL_PROFILE=fast, or leave {names} out",
        )


def _check_compile(settings: Settings, host: Host) -> None:
    if not settings.fill_compile:
        return
    if host.kind not in ("cuda", "cpu"):
        raise Rejected(
            "profile_device", f"FILL_COMPILE works on CUDA and on CPUs, and not on {host.kind}: leave it out"
        )
    # On a GPU Triton builds its launchers with a C compiler, on a CPU torch builds the kernels themselves in C++.
    on_cpu = host.kind == "cpu"
    language, variable, names = ("C++", "CXX", ["g++", "clang++"]) if on_cpu else ("C", "CC", ["gcc", "cc", "clang"])
    chosen = os.environ.get(variable)
    if not any(host.has_program(name) for name in ([chosen] if chosen else names)):
        raise Rejected(
            "profile_not_installed",
            f"FILL_COMPILE needs a {language} compiler on this host, and there is none ({variable} or "
            f"{' or '.join(names)}): install {names[0]}, or leave FILL_COMPILE out",
        )


def _check_quantization(settings: Settings, host: Host) -> None:
    wish = settings.fill_quantization
    if wish is Quantization.NONE:
        return
    if wish is Quantization.FP8:
        _check_fp8(settings, host)
    if not host.has_module("torchao"):
        raise Rejected(
            "profile_not_installed",
            f"FILL_QUANTIZATION={wish} needs torchao, which is not installed here: {_INSTALL_FAST}",
        )


def _check_fp8(settings: Settings, host: Host) -> None:
    if host.kind != "cuda" or host.capability is None or host.capability < _FP8_CAPABILITY:
        what = "this is no CUDA GPU" if host.capability is None else f"this one has {_dotted(host.capability)}"
        raise Rejected(
            "profile_device",
            f"FILL_QUANTIZATION=fp8 needs a GPU of compute capability {_dotted(_FP8_CAPABILITY)} (Ada, Hopper) or "
            f"newer, and {what}: use int8, which saves the same memory, or none",
        )
    if not settings.fill_compile:
        raise Rejected(
            "profile_conflict",
            "FILL_QUANTIZATION=fp8 without FILL_COMPILE is slower than no quantization at all: set FILL_COMPILE=true "
            "as well, or FILL_QUANTIZATION=int8 if it is for the memory",
        )
    if settings.fill_dtype not in ("auto", "bfloat16"):
        raise Rejected(
            "profile_conflict",
            f"FILL_QUANTIZATION=fp8 is made for bfloat16, and FILL_DTYPE is {settings.fill_dtype}: set FILL_DTYPE=auto",
        )


def _check_attention(settings: Settings, host: Host) -> None:
    wish = settings.fill_attention
    if wish is Attention.NATIVE:
        return
    if host.kind != "cuda":
        raise Rejected(
            "profile_device", f"FILL_ATTENTION={wish} needs a CUDA GPU, and this worker is on {host.kind}: use native"
        )
    if wish is Attention.FLASH_3 and host.capability is not None and host.capability < _FLASH_3_CAPABILITY:
        raise Rejected(
            "profile_device",
            f"FILL_ATTENTION=flash3 needs a GPU of compute capability {_dotted(_FLASH_3_CAPABILITY)} (Hopper) or "
            f"newer, and this one has {_dotted(host.capability)}: use flash or native",
        )
    backend = BACKENDS[wish]
    if backend.module is not None and not host.has_module(backend.module):
        raise Rejected(
            "profile_not_installed",
            f"FILL_ATTENTION={wish} needs {backend.package}, which is not installed here. It is built for one CUDA "
            f"and one torch: install the {backend.package} for yours, or use native or cudnn",
        )
    if settings.fill_dtype == "float32":
        raise Rejected(
            "profile_conflict",
            f"FILL_ATTENTION={wish} computes in 16 bits, and FILL_DTYPE is float32: set FILL_DTYPE=auto, or use native",
        )


def _check_offload(settings: Settings, host: Host) -> None:
    if settings.fill_offload is not Offload.NONE and host.kind != "cuda":
        raise Rejected(
            "profile_device",
            f"FILL_OFFLOAD={settings.fill_offload} moves parts of the model out of a GPU's memory, and this worker is "
            f"on {host.kind}, which has none of its own: leave it out",
        )
    if settings.fill_offload is Offload.MODEL and settings.fill_compile:
        raise Rejected(
            "profile_conflict",
            "FILL_OFFLOAD=model moves the whole transformer for every job, which takes longer than FILL_COMPILE saves: "
            "use FILL_OFFLOAD=text, or leave FILL_COMPILE out",
        )


def _step_cache(settings: Settings, host: Host) -> StepCache | None:
    if settings.fill_step_cache is False:
        return None
    if not host.has_module("cache_dit"):
        raise Rejected(
            "profile_not_installed",
            "FILL_STEP_CACHE, which is on under FILL_PROFILE=fast, needs cache-dit, which is not installed here: "
            f"{_INSTALL_FAST}, or set FILL_STEP_CACHE=false",
        )
    return StepCache(settings.fill_step_cache_threshold, settings.fill_step_cache_warmup_steps)


def _compilation(settings: Settings) -> Compilation | None:
    if not settings.fill_compile:
        return None
    return Compilation(settings.fill_compile_cache.expanduser(), settings.fill_compile_sizes)


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
