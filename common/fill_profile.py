"""The words for how the model computes. They stand in settings, in the model version, and in what doctor says.

Which of them go together, and on which device, is in worker/profile.py; nothing here knows torch.
"""

from __future__ import annotations

import re
from enum import StrEnum

_SIZE = re.compile(r"(\d{2,5})[*x](\d{2,5})")


class FillProfile(StrEnum):
    """One of these holds for a whole fleet (FILL_PROFILE)."""

    EXACT = "exact"
    """The model's output is, bit for bit, what stock diffusers makes of the same inputs."""
    FAST = "fast"
    """Work is skipped or done in other numbers; docs/quality.md says how far from exact the outputs are."""


class Quantization(StrEnum):
    """In which numbers the transformer's weights lie (FILL_QUANTIZATION)."""

    NONE = "none"
    """As FILL_DTYPE says."""
    INT8 = "int8"
    """Weights alone, for half the memory; they are computed with in FILL_DTYPE."""
    FP8 = "fp8"
    """Weights and activations, for half the memory and faster products; needs FILL_COMPILE and a recent GPU."""


class Attention(StrEnum):
    """What computes attention (FILL_ATTENTION)."""

    NATIVE = "native"
    """torch's own choice, as stock."""
    CUDNN = "cudnn"
    FLASH = "flash"
    """FlashAttention 2."""
    FLASH_3 = "flash3"
    """FlashAttention 3, for Hopper."""
    SAGE = "sage"
    """SageAttention: its products are in 8 bits."""
    XFORMERS = "xformers"


class VaeTiling(StrEnum):
    """Whether the VAE works in overlapping tiles, which takes less memory and other last bits (FILL_VAE_TILING)."""

    AUTO = "auto"
    """Only in the second try of a job that did not fit into memory, and only under `fast`."""
    ON = "on"
    OFF = "off"


class Offload(StrEnum):
    """What lies in the host's memory while it does not compute; all of it computes on the device (FILL_OFFLOAD)."""

    NONE = "none"
    TEXT = "text"
    """The text encoders: they are on the device only while a prompt is encoded that is not in the cache."""
    MODEL = "model"
    """Every part but the one that computes: for cards that cannot hold the transformer beside anything else."""


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Return widths and heights of entries such as 1024*1024, comma separated. Raises ValueError."""
    return tuple(_parse_size(part.strip()) for part in text.split(",") if part.strip())


def _parse_size(text: str) -> tuple[int, int]:
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r}: sizes must look like 1024*1024,768*512")
    return int(found[1]), int(found[2])
