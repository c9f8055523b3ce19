"""The LoRAs that are loaded into the model: which stay, which go, and which are active for this job.

Whatever happens here, the base model stays as it was: what is loaded was verified before, on the job's own thread, is
compared with the model after, and all are removed where a load fails. Only the device's thread calls this, but for
what says that any thread may.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from common.errors import FillfleetError, Rejected
from common.settings import Settings
from common.urls import shown
from worker.device_errors import is_device_broken, is_out_of_memory
from worker.loras.base_shapes import BaseShapes
from worker.loras.file import VerifiedLora
from worker.loras.layers import Layers, StockLayers
from worker.loras.prepared import PreparedLoras
from worker.loras.slot import SlotLayers
from worker.work import Adapter, DeviceBroken, Tick


@dataclass(frozen=True, eq=False)
class WantedAdapters:
    """What one job wants of Adapters, by sha256. `read` has those that were not loaded when it was prepared."""

    files: Mapping[str, Adapter]
    scales: Mapping[str, float]
    """The same file twice counts with the sum of its scales."""
    read: dict[str, VerifiedLora] = field(default_factory=dict)


@dataclass(frozen=True)
class _Resident:
    name: str
    bytes: int
    is_in_text: bool


class Adapters:
    """Keeps what is loaded within LORA_RESIDENT_BYTES; what was not used for longest goes first.

    What jobs in line wait for goes last of all: else adapters in turns would each be removed just before their turn.
    """

    def __init__(self, pipe: Any, base: BaseShapes, settings: Settings, *, slot_rank: int | None = None) -> None:
        """`slot_rank` is for a transformer that will be compiled: see worker/loras/slot.py."""
        self._settings = settings
        self._number_bytes = pipe.transformer.dtype.itemsize
        self._layers: Layers = StockLayers(pipe) if slot_rank is None else SlotLayers(pipe, base, slot_rank)
        self._prepared = PreparedLoras(base, settings)
        self._loaded: OrderedDict[str, _Resident] = OrderedDict()  # by sha256, the latest used last
        self._resident: frozenset[str] = frozenset()
        self._waiting: weakref.WeakSet[WantedAdapters] = weakref.WeakSet()
        self._line = threading.Lock()

    @property
    def resident(self) -> frozenset[str]:
        """The sha256 of all that is loaded. Any thread may read it."""
        return self._resident

    def check(self, path: Path, what: str) -> None:
        """See PreparedLoras. Any thread may call it."""
        self._prepared.check(path, what)

    def prepare(self, wanted: Sequence[Adapter]) -> WantedAdapters:
        """Read and verify what is not loaded, so that the device need not wait for it. Any thread may call it.

        Raises Rejected (as verify_lora, and lora_changed) and Transient (lora_gone).
        """
        scales: dict[str, float] = {}
        for adapter in wanted:
            scales[adapter.sha256] = scales.get(adapter.sha256, 0.0) + adapter.scale
        job = WantedAdapters({adapter.sha256: adapter for adapter in wanted}, scales)
        with self._line:
            self._waiting.add(job)  # before the look at what is loaded: what is in place now shall stay there
        for sha256, adapter in job.files.items():
            if sha256 not in self._resident:
                job.read[sha256] = self._prepared.get(adapter)
        return job

    def use(self, wanted: WantedAdapters, tick: Tick) -> None:
        """Make just these active, each at its scale.

        The job's own adapters are loaded even where they alone exceed the budget: it bounds what stays beside them.
        Raises Rejected (lora_does_not_load, lora_unsupported, lora_rank_too_large), DeviceBroken, as `prepare` where
        one had to go meanwhile, and what `tick` raises. The base model is unchanged in any case.
        """
        for sha256, adapter in wanted.files.items():
            if sha256 not in self._loaded:
                tick("load")
                self._load(adapter, wanted.read.get(sha256) or self._prepared.get(adapter), keep=wanted.files.keys())
                tick("load")
            self._loaded.move_to_end(sha256)
        self._layers.activate({self._loaded[sha256].name: scale for sha256, scale in wanted.scales.items()})

    def in_text_encoders(self, wanted: WantedAdapters) -> tuple[tuple[str, float], ...]:
        """Return, of adapters in use, those that change what a prompt is encoded to: each one's sha256 and scale."""
        return tuple(
            sorted((sha256, scale) for sha256, scale in wanted.scales.items() if self._loaded[sha256].is_in_text)
        )

    def keep_only(self, wanted: Collection[str]) -> None:
        """Remove all but the adapters with these sha256 from the device's memory."""
        self._remove([sha256 for sha256 in self._loaded if sha256 not in wanted])

    def variants(self) -> Iterator[None]:
        """Yield once for each form of the model that a compiler sees; a job without LoRAs then runs in that form."""
        return self._layers.variants()

    def _make_room(self, size: int, *, keep: Collection[str]) -> None:
        excess = sum(one.bytes for one in self._loaded.values()) + size - self._settings.lora_resident_bytes
        with self._line:
            awaited = {sha256 for job in self._waiting for sha256 in job.files}
        victims = []
        for sha256 in sorted(self._loaded, key=lambda one: one in awaited):  # else in the order of their last use
            if excess <= 0:
                break
            if sha256 not in keep:
                victims.append(sha256)
                excess -= self._loaded[sha256].bytes
        self._remove(victims)

    def _remove(self, victims: Collection[str]) -> None:
        if victims:
            names = [self._loaded.pop(sha256).name for sha256 in victims]
            self._resident = frozenset(self._loaded)
            self._layers.remove(names, [one.name for one in self._loaded.values()])

    def _load(self, adapter: Adapter, lora: VerifiedLora, *, keep: Collection[str]) -> None:
        what = f"the LoRA {shown(adapter.source)}"
        name = f"a{adapter.sha256[:24]}"  # peft takes no dots in names
        try:
            self._make_room(lora.numbers * self._number_bytes, keep=keep)
            size = self._layers.load(name, lora, what)
        except Exception as error:
            self._reset()
            if (cause := _cause_in_device(error)) is not None:
                raise cause from None
            if isinstance(error, FillfleetError):
                raise
            raise Rejected("lora_does_not_load", f"{what} could not be loaded into this model") from error
        self._loaded[adapter.sha256] = _Resident(name, size, bool(lora.layers.get("text_encoder")))
        self._resident = frozenset(self._loaded)

    def _reset(self) -> None:
        """Take every adapter out: after a load that failed, nobody knows how far it came."""
        self._loaded.clear()
        self._resident = frozenset()
        try:
            self._layers.reset()
        except Exception as error:
            raise DeviceBroken(f"the adapters could not be taken out of the model: {error}") from error
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _cause_in_device(error: BaseException) -> BaseException | None:
    """Return what the device said, also where diffusers failed in turn while it tidied up after that."""
    one: BaseException | None = error
    while one is not None and not is_out_of_memory(one) and not is_device_broken(one):
        one = one.__context__
    return one
