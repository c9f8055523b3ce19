"""Which file each LoRA of a batch is, so that all its rows get the same one; a worker remembers the latest batches'.

A pin never changes once it is set, so what is remembered stays true; what is not remembered is looked up.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from sqlalchemy import Engine

from common import lifecycle
from common.database import transaction
from common.lifecycle import AdapterPin

REMEMBERED_BATCHES: Final = 64


class BatchPins:
    """The pins in the database, seldom asked for: a batch's 50,000 jobs on one worker ask about once. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._remembered: OrderedDict[UUID, Mapping[str, AdapterPin]] = OrderedDict()  # the latest used last

    def find(self, batch: UUID, path: str) -> AdapterPin | None:
        """Return what the LoRA `path` is for this batch, or None where no job has used it yet. Raises Unavailable."""
        with self._lock:
            pin = self._remembered.get(batch, {}).get(path)
            if pin is not None:
                self._remembered.move_to_end(batch)
                return pin
        with transaction(self._engine) as connection:
            pins = lifecycle.adapter_pins(connection, batch)
        return self._remember(batch, pins).get(path)

    def set(self, batch: UUID, path: str, pin: AdapterPin) -> AdapterPin:
        """Pin `path` unless somebody was faster; return what it is from now on. Raises Unavailable."""
        with transaction(self._engine) as connection:
            pins = lifecycle.pin_adapters(connection, batch, {path: pin})
        return self._remember(batch, pins)[path]

    def _remember(self, batch: UUID, pins: Mapping[str, AdapterPin]) -> Mapping[str, AdapterPin]:
        with self._lock:
            # Merged: another thread's look may have been the later one.
            known = self._remembered[batch] = {**self._remembered.get(batch, {}), **pins}
            self._remembered.move_to_end(batch)
            while len(self._remembered) > REMEMBERED_BATCHES:
                self._remembered.popitem(last=False)
        return known
