"""Encoded prompts that are kept, so that a batch of 50,000 rows with one prompt pays for its text encoders once.

An entry is what the encoders gave, bit for bit; who asks must name in the key all that they read. It lives in the
host's memory, not in the device's: at the real size 4 MiB a prompt, which reach the device in well under a millisecond.
Only the device's thread calls it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PromptKey:
    """All that decides what the text encoders make of a prompt, for one loaded model."""

    prompt: str
    max_sequence_length: int
    text_adapters: tuple[tuple[str, float], ...]
    """Name and scale of each active adapter that reaches into a text encoder."""


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """What the two text encoders made of a prompt: 1 x tokens x width, and 1 x width."""

    embeds: torch.Tensor
    pooled: torch.Tensor

    @property
    def bytes(self) -> int:
        """What both take in memory."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.embeds, self.pooled))

    def to(self, device: torch.device | str) -> EncodedPrompt:
        """Return the same numbers on a device."""
        return EncodedPrompt(self.embeds.to(device), self.pooled.to(device))


class PromptCache:
    """Keeps at most so many bytes; what was not asked for longest goes first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[PromptKey, EncodedPrompt] = OrderedDict()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """What all entries take."""
        return self._bytes

    def get(self, key: PromptKey) -> EncodedPrompt | None:
        """Return the entry, or None where there is none."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: PromptKey, encoded: EncodedPrompt) -> None:
        """Keep an entry that is not there yet, if it fits at all."""
        entry = encoded.to("cpu")
        if entry.bytes > self._max_bytes or key in self._kept:
            return
        self._kept[key] = entry
        self._bytes += entry.bytes
        while self._bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.bytes
