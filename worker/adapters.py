"""The LoRAs that are loaded into the pipeline: which stay, which go, and which are active for this job.

Whatever happens here, the base model stays as it was: an adapter is verified before it is loaded, compared with the
model after, and all are removed where a load fails. Only the device's thread calls this.
"""

from __future__ import annotations

import gc
import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from common.errors import FillfleetError, Rejected, Transient
from common.settings import Settings
from common.urls import shown
from worker.base_shapes import BaseShapes
from worker.device_errors import is_device_broken, is_out_of_memory
from worker.lora_file import PARTS, VerifiedLora, verify_lora
from worker.work import Adapter, Tick

_TEXT_PARTS = tuple(part for part in PARTS if part.startswith("text_encoder"))

# peft warns that a name such as proj_out fits further layers, too (it changes only those that the file names, which
# _check_loaded makes sure of), and of every second adapter.
warnings.filterwarnings("ignore", message="While injecting the PEFT adapters", category=RuntimeWarning)
warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute", category=UserWarning)


@dataclass(frozen=True)
class _Resident:
    name: str
    bytes: int
    is_in_text: bool


class Adapters:
    """Keeps what is loaded within LORA_RESIDENT_BYTES; what was not used for longest goes first."""

    def __init__(self, pipe: Any, base: BaseShapes, settings: Settings) -> None:
        self._pipe = pipe
        self._base = base
        self._settings = settings
        self._loaded: OrderedDict[str, _Resident] = OrderedDict()  # by sha256, the latest used last
        self._resident: frozenset[str] = frozenset()

    @property
    def resident(self) -> frozenset[str]:
        """The sha256 of all that is loaded. Any thread may read it."""
        return self._resident

    def use(self, wanted: Sequence[Adapter], tick: Tick) -> None:
        """Make just `wanted` active, each at its scale; the same file twice counts with the sum of its scales.

        The job's own adapters are loaded even where they alone exceed the budget: it bounds what stays beside them.
        Raises Rejected (as verify_lora, and lora_changed, lora_does_not_load), Transient (lora_gone), and what `tick`
        raises. The base model is unchanged in any case.
        """
        scales: dict[str, float] = {}
        for adapter in wanted:
            scales[adapter.sha256] = scales.get(adapter.sha256, 0.0) + adapter.scale
            if adapter.sha256 not in self._loaded:
                tick("load")
                self._make_room(adapter.bytes, keep={one.sha256 for one in wanted})
                self._load(adapter)
                tick("load")
            self._loaded.move_to_end(adapter.sha256)
        if scales:
            self._pipe.enable_lora()
            self._pipe.set_adapters([self._loaded[sha256].name for sha256 in scales], list(scales.values()))
        elif self._loaded:
            self._pipe.disable_lora()

    def in_text_encoders(self, wanted: Sequence[Adapter]) -> tuple[tuple[str, float], ...]:
        """Return, of adapters in use, those that change what a prompt is encoded to: each one's sha256 and scale."""
        scales: dict[str, float] = {}
        for adapter in wanted:
            if self._loaded[adapter.sha256].is_in_text:
                scales[adapter.sha256] = scales.get(adapter.sha256, 0.0) + adapter.scale
        return tuple(sorted(scales.items()))

    def keep_only(self, wanted: Collection[str]) -> None:
        """Remove all but the adapters with these sha256 from the device's memory."""
        self._remove([sha256 for sha256 in self._loaded if sha256 not in wanted])

    def _make_room(self, size: int, *, keep: Collection[str]) -> None:
        excess = sum(one.bytes for one in self._loaded.values()) + size - self._settings.lora_resident_bytes
        victims = []
        for sha256, one in self._loaded.items():
            if excess <= 0:
                break
            if sha256 not in keep:
                victims.append(sha256)
                excess -= one.bytes
        self._remove(victims)

    def _remove(self, victims: Collection[str]) -> None:
        if not victims:
            return
        names = [self._loaded.pop(sha256).name for sha256 in victims]
        if self._loaded:
            # Others first become active: peft would choose some itself, and warn, where it deletes an active one.
            self._pipe.set_adapters([one.name for one in self._loaded.values()])
            self._pipe.delete_adapters(names)
        else:
            self._pipe.unload_lora_weights()
        self._resident = frozenset(self._loaded)

    def _load(self, adapter: Adapter) -> None:
        what = f"the LoRA {shown(adapter.source)}"
        try:
            with adapter.path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 != adapter.sha256:
                raise Rejected("lora_changed", f"{what} was replaced by another file meanwhile; submit the job again")
            verified = verify_lora(adapter.path, self._base, self._settings, what=what)
        except OSError:
            raise Transient("lora_gone", f"{what} is no longer there and has to be fetched again") from None
        name = f"a{adapter.sha256[:24]}"  # peft takes no dots in names
        try:
            self._pipe.load_lora_weights(dict(verified.state), adapter_name=name)
            size = self._check_loaded(name, verified, what)
        except Exception as error:
            self._reset()
            if is_out_of_memory(error) or is_device_broken(error) or isinstance(error, FillfleetError):
                raise
            raise Rejected("lora_does_not_load", f"{what} could not be loaded into this model") from error
        self._loaded[adapter.sha256] = _Resident(name, size, any(map(verified.layers.get, _TEXT_PARTS)))
        self._resident = frozenset(self._loaded)

    def _check_loaded(self, name: str, verified: VerifiedLora, what: str) -> int:
        """Return the bytes that the adapter takes. Raises Rejected where the model is not what the file says."""
        size = 0
        listed = self._pipe.get_list_adapters()
        for part in PARTS:
            layers = verified.layers.get(part, {})
            found = dict(_tuned_layers(getattr(self._pipe, part), name))
            if found.keys() != layers.keys() or (name in listed.get(part, [])) != bool(layers):
                raise Rejected("lora_unsupported", f"{what} was loaded only in part; use a plain LoRA for FLUX.1")
            for layer_name, layer in found.items():
                expected = layers[layer_name]
                scale = 1.0 if expected.alpha is None else expected.alpha / expected.rank
                if abs(float(layer.scaling[name]) - scale) > 1e-4 * max(1.0, abs(scale)):
                    raise Rejected(
                        "lora_unsupported",
                        f"{what} has alphas that cannot be kept ({part}.{layer_name}); "
                        "give every layer an alpha, or none",
                    )
                weights = (layer.lora_A[name].weight, layer.lora_B[name].weight)
                size += sum(weight.numel() * weight.element_size() for weight in weights)
        return size

    def _reset(self) -> None:
        """Take every adapter out: after a load that failed, nobody knows how far it came."""
        self._loaded.clear()
        self._resident = frozenset()
        self._pipe.unload_lora_weights()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _tuned_layers(model: Any, name: str) -> Iterator[tuple[str, Any]]:
    for layer_name, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer) and name in layer.lora_A:
            yield layer_name, layer
