"""Adapters in the model the way diffusers and peft keep them: each beside every layer that it changes, under a name.

After each load the model is compared with what the file says, since diffusers drops in silence what it does not know.
Only the device's thread calls this.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

from peft.tuners.tuners_utils import BaseTunerLayer

from common.errors import Rejected
from worker.loras.file import PARTS, Layer, VerifiedLora

# peft warns that a name such as proj_out fits further layers, too (it changes only those that the file names, which
# check_loaded makes sure of), and of every second adapter.
warnings.filterwarnings("ignore", message="While injecting the PEFT adapters", category=RuntimeWarning)
warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute", category=UserWarning)


class Layers(Protocol):
    """Where the loaded adapters are, and how some of them become active. Names have no dots: peft takes none."""

    def load(self, name: str, lora: VerifiedLora, what: str) -> int:
        """Take an adapter in, not yet active, and return the bytes that it has on the device.

        Raises Rejected where the model is not what the file says, and whatever the libraries raise; then only `reset`
        may follow.
        """

    def activate(self, scales: Mapping[str, float]) -> None:
        """Make just these loaded adapters active, each at its scale; with none, the model is the base alone."""

    def remove(self, names: Collection[str], left: Collection[str]) -> None:
        """Take out `names`; `left` are the loaded ones that stay."""

    def reset(self) -> None:
        """Take out all of them, also where a load ended half-way."""

    def variants(self) -> Iterator[None]:
        """Yield once for each form of the model that a compiler sees; a job without LoRAs then runs in that form."""


class StockLayers:
    """For a transformer that is not compiled: any number of adapters of any shape, bit for bit as stock diffusers."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._is_plain = True

    def load(self, name: str, lora: VerifiedLora, what: str) -> int:
        """See Layers."""
        self._is_plain = False
        self._pipe.load_lora_weights(dict(lora.state), adapter_name=name)
        listed = self._pipe.get_list_adapters()
        for part in PARTS:
            if (name in listed.get(part, [])) != bool(lora.layers.get(part)):
                raise _only_in_part(what)
        return sum(check_loaded(getattr(self._pipe, part), name, lora.layers.get(part, {}), what) for part in PARTS)

    def activate(self, scales: Mapping[str, float]) -> None:
        """See Layers."""
        if scales:
            self._pipe.enable_lora()
            self._pipe.set_adapters(list(scales), list(scales.values()))
        elif not self._is_plain:
            self._pipe.disable_lora()

    def remove(self, names: Collection[str], left: Collection[str]) -> None:
        """See Layers."""
        if not left:
            self.reset()
        elif names:
            # Others first become active: peft would choose some itself, and warn, where it deletes an active one.
            self._pipe.set_adapters(list(left))
            self._pipe.delete_adapters(list(names))

    def reset(self) -> None:
        """See Layers."""
        self._pipe.unload_lora_weights()
        self._is_plain = True

    def variants(self) -> Iterator[None]:
        """See Layers."""
        yield


def check_loaded(model: Any, name: str, layers: Mapping[str, Layer], what: str) -> int:
    """Return the bytes that the adapter takes in one part of the model. Raises Rejected where that is not `layers`."""
    found = dict(tuned_layers(model, name))
    if found.keys() != layers.keys():
        raise _only_in_part(what)
    size = 0
    for layer_name, layer in found.items():
        expected = layers[layer_name]
        scale = 1.0 if expected.alpha is None else expected.alpha / expected.rank
        if abs(float(layer.scaling[name]) - scale) > 1e-4 * max(1.0, abs(scale)):
            raise Rejected(
                "lora_unsupported",
                f"{what} has alphas that cannot be kept ({layer_name}); give every layer an alpha, or none",
            )
        size += layer.lora_A[name].weight.nbytes + layer.lora_B[name].weight.nbytes
    return size


def tuned_layers(model: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the layers beside which there is an adapter of this name, with their own names."""
    for layer_name, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer) and name in layer.lora_A:
            yield layer_name, layer


def _only_in_part(what: str) -> Rejected:
    return Rejected("lora_unsupported", f"{what} was loaded only in part; use a plain LoRA for FLUX.1")
