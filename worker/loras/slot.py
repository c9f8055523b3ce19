"""Adapters for a compiled transformer: one slot beside every layer, into which each job's adapters are copied.

To the compiler a further adapter is another model, to be compiled anew; other numbers in the same place are not. So the
slot reaches every layer that an adapter may change, at one rank, and is made before anything is compiled. The adapters
of one job share it, rank beside rank: how many they are, and how wide, changes no shape. peft's own hot-swap copies in
the same way, but diffusers deletes the slot where it fails, other alphas are refused, and scales are lost or wrong.
Only the device's thread calls this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers.loaders.lora_base import (
    _remove_text_encoder_monkey_patch,
    disable_lora_for_text_encoder,
    enable_lora_for_text_encoder,
    set_adapters_for_text_encoder,
)
from diffusers.utils import delete_adapter_layers
from torch import Tensor

from common.errors import Rejected
from worker.loras.base_shapes import BaseShapes
from worker.loras.file import VerifiedLora
from worker.loras.layers import check_loaded, tuned_layers

_SLOT: Final = "slot"


@dataclass(frozen=True)
class _Pair:
    """What one adapter does to one layer, on the device: it adds up·down times `factor`."""

    down: Tensor
    up: Tensor
    factor: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])


class SlotLayers:
    """The Layers of a pipeline whose transformer is compiled; its text encoder, which is not, keeps them by name."""

    def __init__(self, pipe: Any, base: BaseShapes, rank: int) -> None:
        """Make the slot, empty and not active. `pipe` must be where it will compute, and have no adapters."""
        self._pipe = pipe
        self._rank = rank
        self._kept: dict[str, dict[str, _Pair]] = {}
        self._in_text: set[str] = set()
        self._is_warming_up = False
        state = {}
        for name, (outputs, inputs) in base.transformer.items():
            state[f"transformer.{name}.lora_A.weight"] = torch.zeros(1, inputs)
            state[f"transformer.{name}.lora_B.weight"] = torch.zeros(outputs, 1)
        pipe.transformer.enable_lora_hotswap(target_rank=rank)
        pipe.load_lora_into_transformer(state, None, pipe.transformer, adapter_name=_SLOT, _pipeline=pipe)
        self._slot = dict(tuned_layers(pipe.transformer, _SLOT))
        if self._slot.keys() != base.transformer.keys():
            raise RuntimeError("the slot for LoRAs does not reach every layer of the transformer")
        pipe.transformer.disable_lora()

    def load(self, name: str, lora: VerifiedLora, what: str) -> int:
        """See Layers."""
        layers = lora.layers.get("text_encoder", {})
        size = 0
        if layers:
            text = {key: value for key, value in lora.state.items() if key.startswith("text_encoder.")}
            alphas = {key: value for key, value in text.items() if key.endswith(".alpha")}
            weights = {key: value for key, value in text.items() if key not in alphas}
            self._pipe.load_lora_into_text_encoder(
                weights, alphas, self._pipe.text_encoder, prefix="text_encoder", adapter_name=name, _pipeline=self._pipe
            )
            size = check_loaded(self._pipe.text_encoder, name, layers, what)
            self._in_text.add(name)
        pairs = {layer: self._pair(lora, layer) for layer in lora.layers.get("transformer", {})}
        self._kept[name] = pairs
        return size + sum(pair.down.nbytes + pair.up.nbytes for pair in pairs.values())

    def activate(self, scales: Mapping[str, float]) -> None:
        """See Layers. Raises Rejected (lora_rank_too_large) where they do not fit into the slot side by side."""
        parts = [(self._kept[name], scale) for name, scale in scales.items()]
        self._check_rank([pairs for pairs, _ in parts])
        self._pipe.transformer.disable_lora()  # until the last number is in its place
        if self._is_warming_up or any(pairs for pairs, _ in parts):
            self._fill_slot(parts)
            self._pipe.transformer.enable_lora()
        self._activate_text({name: scale for name, scale in scales.items() if name in self._in_text})

    def remove(self, names: Collection[str], left: Collection[str]) -> None:  # noqa: ARG002 - it knows what is left
        """See Layers. What is in the slot stays there until the next job's adapters."""
        for name in names:
            del self._kept[name]
        in_text, others = self._in_text & set(names), self._in_text - set(names)
        if in_text and not others:
            _remove_text_encoder_monkey_patch(self._pipe.text_encoder)
        elif in_text:
            set_adapters_for_text_encoder(sorted(others), self._pipe.text_encoder)
            for name in in_text:
                delete_adapter_layers(self._pipe.text_encoder, name)
        self._in_text = others

    def reset(self) -> None:
        """See Layers."""
        self._pipe.transformer.disable_lora()
        _remove_text_encoder_monkey_patch(self._pipe.text_encoder)
        self._kept.clear()
        self._in_text.clear()

    def variants(self) -> Iterator[None]:
        """See Layers: with the slot passed by, and with the slot in use, empty."""
        yield
        self._is_warming_up = True
        try:
            yield
        finally:
            self._is_warming_up = False

    def _pair(self, lora: VerifiedLora, layer: str) -> _Pair:
        like = self._slot[layer].lora_A[_SLOT].weight
        down, up = (
            lora.state[f"transformer.{layer}.lora_{half}.weight"].to(device=like.device, dtype=like.dtype)
            for half in "AB"
        )
        found = lora.layers["transformer"][layer]
        return _Pair(down, up, 1.0 if found.alpha is None else found.alpha / found.rank)

    def _check_rank(self, adapters: Sequence[Mapping[str, _Pair]]) -> None:
        ranks: dict[str, int] = {}
        for pairs in adapters:
            for layer, pair in pairs.items():
                ranks[layer] = ranks.get(layer, 0) + pair.rank
        if max(ranks.values(), default=0) > self._rank:
            raise Rejected(
                "lora_rank_too_large",
                f"the LoRAs of this job have rank {max(ranks.values())} together; at most {self._rank} is allowed here",
            )

    @torch.no_grad()
    def _fill_slot(self, parts: Sequence[tuple[Mapping[str, _Pair], float]]) -> None:
        for name, layer in self._slot.items():
            down, up = layer.lora_A[_SLOT].weight, layer.lora_B[_SLOT].weight
            down.zero_()
            up.zero_()
            own = [(pairs[name], scale) for pairs, scale in parts if name in pairs]
            # One alone is scaled where stock does it, after the product, and so rounded as it is there.
            alone = own[0][1] * own[0][0].factor if len(own) == 1 else 1.0
            layer.scaling[_SLOT].fill_(alone)
            begin = 0
            for pair, scale in own:
                end = begin + pair.rank
                down[begin:end, : pair.down.shape[1]].copy_(pair.down)
                up[:, begin:end].copy_(pair.up if len(own) == 1 else pair.up.float() * (scale * pair.factor))
                begin = end

    def _activate_text(self, scales: Mapping[str, float]) -> None:
        if scales:
            enable_lora_for_text_encoder(self._pipe.text_encoder)
            set_adapters_for_text_encoder(list(scales), self._pipe.text_encoder, list(scales.values()))
        else:
            disable_lora_for_text_encoder(self._pipe.text_encoder)
