"""How much of a GPU's memory a model takes under each profile, and which of them fit: what `fillfleet doctor` advises.

Numbers in, numbers out: weights are counted elsewhere (worker/model_size.py). It is an estimate to choose settings by,
for one image at a time of 1024*1024 without LoRAs; nothing is refused because of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from common.fill_profile import FillProfile, Offload, Quantization

GIB: Final = 1024**3
# What computing takes beside the weights. FLUX.1 Fill in bf16 peaks at 33.9 GiB with 31.4 of weights (published), and
# the peak is the VAE's decoding; the widest block of a step holds less than 1 GiB at 4608 tokens, T5 a fraction of it.
ENCODE_BYTES: Final = int(0.3 * GIB)
STEP_BYTES: Final = 1 * GIB
DECODE_BYTES: Final = int(2.5 * GIB)
CONTEXT_BYTES: Final = GIB // 2
"""CUDA's own, with its libraries' kernels."""
QUANTIZED_SHARE: Final = 0.52
"""Of the 16-bit transformer's bytes: scales, norms and embeddings stay as they are."""
TIGHT_SHARE: Final = 0.05
"""With less than this left, a larger image or a LoRA does not fit any more."""


@dataclass(frozen=True)
class ModelSize:
    """How many bytes each part takes on the device, not quantized."""

    transformer: int
    text_encoders: tuple[int, ...]
    vae: int

    @property
    def bytes(self) -> int:
        """Return what all parts take."""
        return self.transformer + sum(self.text_encoders) + self.vae

    def transformer_in(self, quantization: Quantization) -> int:
        """Return what the transformer takes in these numbers."""
        return self.transformer if quantization is Quantization.NONE else int(QUANTIZED_SHARE * self.transformer)

    def offloaded(self, offload: Offload) -> int:
        """Return what lies in the host's memory instead."""
        return {Offload.NONE: 0, Offload.TEXT: sum(self.text_encoders), Offload.MODEL: self.bytes}[offload]


@dataclass(frozen=True)
class Plan:
    """Settings that a worker may run under."""

    profile: FillProfile = FillProfile.EXACT
    quantization: Quantization = Quantization.NONE
    offload: Offload = Offload.NONE

    @property
    def settings(self) -> dict[str, str]:
        """Return what to set beside the defaults."""
        said = {
            "FILL_PROFILE": (self.profile, FillProfile.EXACT),
            "FILL_QUANTIZATION": (self.quantization, Quantization.NONE),
            "FILL_OFFLOAD": (self.offload, Offload.NONE),
        }
        return {name: value.value for name, (value, default) in said.items() if value is not default}

    def needs_bytes(self, size: ModelSize) -> int:
        """Return the most that is on the device at once, in the greatest of its three moments."""
        transformer = size.transformer_in(self.quantization)
        text = sum(size.text_encoders)
        if self.offload is Offload.MODEL:  # one part at a time
            largest = max(size.text_encoders, default=0)
            moments = largest + ENCODE_BYTES, transformer + STEP_BYTES, size.vae + DECODE_BYTES
        else:
            rest = transformer + size.vae
            resting = 0 if self.offload is Offload.TEXT else text
            # A prompt that is not in the cache is encoded beside the transformer.
            moments = rest + text + ENCODE_BYTES, rest + resting + STEP_BYTES, rest + resting + DECODE_BYTES
        return CONTEXT_BYTES + max(moments)


PLANS: Final = (
    Plan(),
    Plan(offload=Offload.TEXT),
    Plan(offload=Offload.MODEL),
    Plan(FillProfile.FAST),
    Plan(FillProfile.FAST, offload=Offload.TEXT),
    Plan(FillProfile.FAST, Quantization.INT8),
    Plan(FillProfile.FAST, Quantization.INT8, Offload.TEXT),
    Plan(FillProfile.FAST, Quantization.INT8, Offload.MODEL),
)
"""Of each profile the one to prefer comes first: what is moved about costs time, what is quantized costs likeness."""


def best_plans(size: ModelSize, memory_bytes: int) -> dict[FillProfile, Plan | None]:
    """Return of each profile the first plan that fits, or None where none does."""
    return {profile: next(_fitting(size, memory_bytes, profile), None) for profile in FillProfile}


def _fitting(size: ModelSize, memory_bytes: int, profile: FillProfile) -> Iterator[Plan]:
    return (plan for plan in PLANS if plan.profile is profile and plan.needs_bytes(size) <= memory_bytes)


def advice(size: ModelSize, memory_bytes: int) -> str:
    """Return in words which profiles fit, and under which settings."""
    said = []
    for profile, plan in best_plans(size, memory_bytes).items():
        if plan is None:
            least = min(one.needs_bytes(size) for one in PLANS if one.profile is profile)
            said.append(f"{profile} does not fit: it needs {in_gib(least)} at least")
            continue
        needs = plan.needs_bytes(size)
        how = [f"{name}={value}" for name, value in plan.settings.items() if name != "FILL_PROFILE"]
        tight = ": tight" if memory_bytes - needs < TIGHT_SHARE * memory_bytes else ""
        said.append(f"{profile} fits{' with ' if how else ''}{' '.join(how)} ({in_gib(needs)}{tight})")
    return "; ".join(said)


def in_gib(amount: int) -> str:
    """Return a number of bytes for people."""
    return f"{amount / GIB:.1f} GiB"
