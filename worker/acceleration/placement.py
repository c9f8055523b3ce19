"""Where the model's parts lie: on the device, or in the host's memory until they compute (FILL_OFFLOAD).

Whatever lies elsewhere is moved to the device before it computes, never computed with where it lies: so the same
kernels see the same numbers, and results stay the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from common.fill_profile import Offload

_TEXT_ENCODERS: Final = ("text_encoder", "text_encoder_2")


def place(pipe: Any, offload: Offload, device: torch.device) -> None:
    """Put the parts where the setting wants them; again after anything has moved them."""
    match offload:
        case Offload.NONE:
            pipe.to(device)
        case Offload.MODEL:
            pipe.enable_model_cpu_offload(device=device)
        case Offload.TEXT:
            # Part by part: a card that is too small for all must not hold all for a moment.
            for name, part in pipe.components.items():
                if isinstance(part, torch.nn.Module):
                    part.to("cpu" if name in _TEXT_ENCODERS else device)
            pipe.rests_text_encoders = True


@contextmanager
def text_encoders_at(pipe: Any, device: torch.device) -> Iterator[None]:
    """Have the text encoders on the device in the block, and in the host's memory after it."""
    encoders = [part for part in (getattr(pipe, name) for name in _TEXT_ENCODERS) if part is not None]
    try:
        for encoder in encoders:
            encoder.to(device)
        yield
    finally:
        for encoder in encoders:
            encoder.to("cpu")
