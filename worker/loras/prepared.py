"""LoRAs that were read, hashed and verified on the jobs' threads, in the host's memory, for the device to take.

Each file is read once for all jobs that want it, and one file at a time. What nobody waits for is kept within
LORA_PREPARED_BYTES; besides, each job holds on to its own. Nothing here touches the model.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from pathlib import Path

from common.errors import Transient
from common.settings import Settings
from common.urls import shown
from worker.loras.base_shapes import BaseShapes
from worker.loras.file import VerifiedLora, verify_lora
from worker.work import Adapter


class PreparedLoras:
    """Verified adapters by sha256; what was not asked for longest goes first. Any thread may call it."""

    def __init__(self, base: BaseShapes, settings: Settings) -> None:
        self._base = base
        self._settings = settings
        self._kept: OrderedDict[str, VerifiedLora] = OrderedDict()
        self._held: weakref.WeakValueDictionary[str, VerifiedLora] = weakref.WeakValueDictionary()
        """Those kept, and those that jobs hold on to."""
        self._checked: set[tuple[str, int, int]] = set()
        self._memory = threading.Lock()
        self._reading = threading.Lock()
        """Held while a file is read: each may have LORA_MAX_BYTES, and is in memory twice while it is unpacked."""

    def check(self, path: Path, what: str) -> None:
        """Read the file at `path` unless it passed before and is unchanged; `what` names the field in messages.

        Raises Rejected as verify_lora does, and Transient (lora_gone).
        """
        try:
            status = path.stat()
            version = (str(path), status.st_size, status.st_mtime_ns)
            if version in self._checked:
                return
            with self._reading:
                if version in self._checked:  # read by the job that was waited for
                    return
                lora = verify_lora(path, self._base, self._settings, what=f"{what}: this file")
                self._checked.add(version)
        except OSError:  # removed since it was resolved, to make room
            raise Transient("lora_gone", f"{what}: this file is no longer there and has to be fetched again") from None
        self._keep(lora)

    def get(self, adapter: Adapter) -> VerifiedLora:
        """Return the adapter's tensors, byte for byte those of its sha256.

        Raises Rejected (lora_changed, or as verify_lora), and Transient (lora_gone).
        """
        kept = self._find(adapter.sha256)
        if kept is not None:
            return kept
        what = f"the LoRA {shown(adapter.source)}"
        with self._reading:
            kept = self._find(adapter.sha256)  # read by the job that was waited for
            if kept is not None:
                return kept
            try:
                lora = verify_lora(adapter.path, self._base, self._settings, what=what, sha256=adapter.sha256)
            except OSError:
                raise Transient("lora_gone", f"{what} is no longer there and has to be fetched again") from None
            self._keep(lora)
        return lora

    def _find(self, sha256: str) -> VerifiedLora | None:
        with self._memory:
            if sha256 in self._kept:
                self._kept.move_to_end(sha256)
            return self._held.get(sha256)

    def _keep(self, lora: VerifiedLora) -> None:
        budget = self._settings.lora_prepared_bytes
        with self._memory:
            self._held[lora.sha256] = lora
            if lora.bytes > budget:
                return  # it would push out all others, and not fit either
            self._kept[lora.sha256] = lora
            self._kept.move_to_end(lora.sha256)
            while sum(one.bytes for one in self._kept.values()) > budget:
                self._kept.popitem(last=False)
