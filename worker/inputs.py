"""What a job needs before it can be drawn: image, mask and LoRAs, fetched, pinned, decoded and checked.

A retry must make the same image, so each input's sha256 is pinned at its first fetch: other bytes later fail the job.
The LoRAs of a batch are pinned for all its jobs by the one that fetches them first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from PIL.Image import Image

from common.contract import LoraRef
from common.errors import Rejected
from common.fetch import Fetcher
from common.lifecycle import AdapterPin, Claim
from common.objects import Objects
from common.read_prefixes import NameOf
from common.settings import Settings
from common.sources import check_source_owner, parse_source, read_source
from common.urls import shown
from worker.batch_pins import BatchPins
from worker.decode import decode_image, decode_mask
from worker.lease import Lease
from worker.loras.source import LocalLora, LoraSource
from worker.work import Adapter

AdapterCheck = Callable[[Path, str], None]
"""Reads the file and raises Rejected, naming the field, where it does not fit the model."""


@dataclass(frozen=True)
class Inputs:
    """Decoded inputs. `sha256` is by field name, `pins` holds those and the LoRAs'."""

    image: Image
    mask: Image | None
    adapters: tuple[Adapter, ...]
    sha256: dict[str, str]
    pins: Mapping[str, str]


class InputReader:
    """Reads the inputs of claimed jobs; shared by all job threads of a worker."""

    def __init__(
        self,
        settings: Settings,
        fetcher: Fetcher,
        objects: Objects,
        loras: LoraSource,
        check_adapter: AdapterCheck,
        name_of: NameOf,
        batch_pins: BatchPins,
    ) -> None:
        self._settings = settings
        self._fetcher = fetcher
        self._objects = objects
        self._loras = loras
        self._check_adapter = check_adapter
        self._name_of = name_of
        self._batch_pins = batch_pins

    def read(self, claim: Claim, lease: Lease) -> Inputs:
        """Fetch, check and decode everything that the job names.

        Raises Rejected, Transient, Unavailable, Cancelled or LeaseLost.
        """
        request, pins = claim.request, dict(claim.pins)
        image_data = self._fetch("image", request.image, claim, lease, pins)
        mask_data = None
        if request.mask_image is not None:
            mask_data = self._fetch("mask_image", request.mask_image, claim, lease, pins)
        sha256 = dict(pins)  # so far images only: the LoRAs' pins follow
        lease.enter("decode", self._settings.decode_seconds)
        image = decode_image(image_data, what="image", settings=self._settings)
        mask = None
        if mask_data is not None:
            lease.enter("decode", self._settings.decode_seconds)
            mask = decode_mask(mask_data, what="mask_image", settings=self._settings)
        adapters = tuple(
            self._adapter(f"loras[{number}].path", lora, claim, lease, pins)
            for number, lora in enumerate(request.loras)
        )
        return Inputs(
            image=image,
            mask=mask,
            adapters=adapters,
            sha256={name: value for name, value in sha256.items() if name in {"image", "mask_image"}},
            pins=pins,
        )

    def _fetch(self, what: str, text: str, claim: Claim, lease: Lease, pins: dict[str, str]) -> bytes:
        seconds = self._settings.fetch_seconds
        lease.enter("fetch", 2 * seconds)  # the fetch ends itself in time; this is for what it cannot see
        source = parse_source(text, self._settings, what=what)
        check_source_owner(source, claim.owner, self._settings, name_of=self._name_of, what=what)
        fetched = read_source(
            source,
            self._fetcher,
            self._objects,
            max_bytes=self._settings.fetch_max_bytes,
            seconds=seconds,
            what=what,
        )
        if pins.setdefault(what, fetched.sha256) != fetched.sha256:
            raise Rejected(
                "input_changed",
                f"{what}: the file at this address is another one than at the first try; submit the job again",
            )
        return fetched.data

    def _adapter(self, what: str, lora: LoraRef, claim: Claim, lease: Lease, pins: dict[str, str]) -> Adapter:
        # Its own fetch, and before that those of the other slots, if they want the same file and do not get it.
        lease.enter("adapters", (1 + self._settings.worker_slots) * self._settings.lora_fetch_seconds)
        held = None if claim.batch is None else self._batch_pins.find(claim.batch, lora.path)
        if held is not None:
            local = self._held(what, lora.path, claim.owner, held)
        else:
            local = self._loras.resolve(lora.path, owner=claim.owner, what=what, pinned=pins.get(what))
            self._check_adapter(local.path, what)
            if claim.batch is not None:
                local = self._first_of_batch(what, lora.path, claim.owner, claim.batch, local)
        pins[what] = local.sha256
        return Adapter(
            source=lora.path,
            sha256=local.sha256,
            path=local.path,
            bytes=local.bytes,
            scale=lora.scale,
            revision=local.revision,
        )

    def _first_of_batch(self, what: str, path: str, owner: UUID, batch: UUID, local: LocalLora) -> LocalLora:
        """Pin what was found; return that, or what another worker found at the same time and was faster to pin."""
        held = self._batch_pins.set(batch, path, AdapterPin(local.sha256, local.revision))
        if held.sha256 != local.sha256:
            return self._held(what, path, owner, held)
        return replace(local, revision=held.revision)

    def _held(self, what: str, path: str, owner: UUID, held: AdapterPin) -> LocalLora:
        """Return the file that the batch is pinned to. Raises Rejected (lora_changed) where it is another one now."""
        try:
            local = self._loras.resolve(path, owner=owner, what=what, pinned=held.sha256, revision=held.revision)
        except Rejected as error:
            if error.code != "lora_changed":
                raise
            raise Rejected(
                error.code,
                f"{what}: the file at {shown(path)} is another one than the batch began with; "
                "submit the rest as a new batch",
            ) from None
        self._check_adapter(local.path, what)
        return replace(local, revision=held.revision)
