"""Finds the file of a LoRA that a job names: in the LoRA folder, behind a URL, in the owner's objects, or on the hub.

What comes from elsewhere is kept by its sha256 in LORA_CACHE_FOLDER and fetched once. Nothing here trusts the file:
whether it is a LoRA, and fits, is worker/loras/file.py's to say.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from common.errors import Rejected
from common.fetch import Fetcher
from common.objects import Objects
from common.read_prefixes import NameOf
from common.settings import Settings
from common.sources import HttpSource, check_source_owner, parse_source
from common.urls import shown
from worker.loras.cache import LoraCache
from worker.loras.hub import LoraHub, parse_hub_id

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,127}")
SUFFIX = ".safetensors"
REMEMBERED_SECONDS = 300.0
"""So long a URL or hub id without a pin is taken to lead to the same file as before: a burst of jobs asks once."""
_LOCKS = 64
_Wish = tuple[str, str | None]
"""What a LoRA was named by, and at which commit."""


@dataclass(frozen=True)
class LocalLora:
    """A LoRA's file on this host. `revision` is the hub's commit, where it came from there."""

    path: Path
    sha256: str
    bytes: int
    revision: str | None


class LoraSource:
    """Resolves what jobs name as LoRAs. Threads may share one; the same source is fetched by one of them at a time."""

    def __init__(
        self,
        settings: Settings,
        fetcher: Fetcher,
        objects: Objects | None,
        *,
        name_of: NameOf = lambda _: None,
        hub: LoraHub | None = None,
    ) -> None:
        self._settings = settings
        self._fetcher = fetcher
        self._objects = objects
        self._name_of = name_of
        self._hub = hub or LoraHub(settings)
        self._cache = LoraCache(settings.lora_cache_folder.expanduser(), settings.lora_cache_max_bytes)
        self._memory = threading.Lock()
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._remembered: dict[_Wish, tuple[float, LocalLora]] = {}
        self._hashes: dict[tuple[str, int, int, int], str] = {}

    def resolve(
        self, path: str, *, owner: UUID | None, what: str, pinned: str | None = None, revision: str | None = None
    ) -> LocalLora:
        """Return the file that `path` names for `owner`. `what` is the field's name in messages.

        `path` is a name in LORA_FOLDER (no slash), an http(s) or s3 URL, or a hub id `org/name`, also with a file:
        `org/name/file.safetensors`. `pinned` is the sha256 that it must have, from the job's first try or its batch's;
        a file of the hub is taken at the commit `revision`, by default the newest.
        Raises Rejected: lora_not_found, lora_ambiguous, lora_too_large, lora_changed, hub_*, fetch_*, source_*,
        object_not_found; Transient: hub_unavailable, fetch_*, lora_not_stored; Unavailable.
        """
        if "/" not in path:
            found = self._named(path, what)
            if pinned is not None and found.sha256 != pinned:
                raise _changed(path, what)
            return found
        if "://" in path:
            return self._from_url(path, owner, what, pinned)
        return self._from_hub(path, what, pinned, revision)

    def _named(self, name: str, what: str) -> LocalLora:
        folder = self._settings.lora_folder
        missing = Rejected(
            "lora_not_found",
            f"{what}: there is no LoRA named {shown(name)} here; give the name of one that is, "
            "a hub id (org/name) or an https URL",
        )
        if folder is None or not NAME.fullmatch(name):
            raise missing
        root = folder.expanduser().resolve()
        path = (root / (name if name.endswith(SUFFIX) else name + SUFFIX)).resolve()
        if path.parent != root or not path.is_file():  # a link may lead to another file of the folder, not out of it
            raise missing
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns, status.st_ino)
        if key not in self._hashes:
            with path.open("rb") as file:
                self._hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return LocalLora(path, self._hashes[key], status.st_size, None)

    def _from_url(self, url: str, owner: UUID | None, what: str, pinned: str | None) -> LocalLora:
        source = parse_source(url, self._settings, what=what)
        if isinstance(source, HttpSource):
            return self._once(
                url, what, pinned, lambda: (self._cache.add(lambda target: self._fetch(url, target, what)), None)
            )
        if owner is None or self._objects is None:
            raise Rejected("source_forbidden", f"{what}: {shown(url)} can only be read for its owner's jobs")
        check_source_owner(source, owner, self._settings, name_of=self._name_of, what=what)
        objects, found = self._objects, source

        def download(target: Path) -> None:
            try:
                objects.download(found.key, target, max_bytes=self._settings.lora_max_bytes, bucket=found.bucket)
            except Rejected as error:
                raise Rejected(error.code, f"{what}: {shown(url)}: {error.message}") from None

        return self._once(url, what, pinned, lambda: (self._cache.add(download), None))

    def _from_hub(self, path: str, what: str, pinned: str | None, revision: str | None) -> LocalLora:
        wish = parse_hub_id(path, what=what)

        def obtain() -> tuple[Path, str | None]:
            file = self._hub.find(wish, what=what, revision=revision)
            kept = self._cache.get(file.sha256) if file.sha256 is not None else None
            return kept or self._cache.add(lambda target: self._fetch(file.url, target, what)), file.commit

        return self._once(path, what, pinned, obtain, revision)

    def _fetch(self, url: str, target: Path, what: str) -> None:
        self._fetcher.download(
            url,
            target,
            max_bytes=self._settings.lora_max_bytes,
            seconds=self._settings.lora_fetch_seconds,
            what=what,
        )

    def _once(
        self,
        text: str,
        what: str,
        pinned: str | None,
        obtain: Callable[[], tuple[Path, str | None]],
        revision: str | None = None,
    ) -> LocalLora:
        """Return the file of `text`, obtained unless it is known; threads that want the same wait for one of them."""
        wish = (text, revision)  # an old commit is not what others mean who name none
        with self._locks[hash(wish) % _LOCKS]:
            known = self._known(wish, pinned)
            if known is not None:
                return known
            path, commit = obtain()
            lora = LocalLora(path, path.stem, path.stat().st_size, commit)
            with self._memory:
                self._remembered[wish] = (time.monotonic(), lora)
        if pinned is not None and lora.sha256 != pinned:
            raise _changed(text, what)
        return lora

    def _known(self, wish: _Wish, pinned: str | None) -> LocalLora | None:
        """Return what was wished for if it is known and still in the cache."""
        oldest = time.monotonic() - REMEMBERED_SECONDS
        with self._memory:
            self._remembered = {key: value for key, value in self._remembered.items() if value[0] > oldest}
            _, remembered = self._remembered.get(wish, (0.0, None))
        sha256 = pinned if pinned is not None or remembered is None else remembered.sha256
        path = self._cache.get(sha256) if sha256 is not None else None
        if path is None:
            return None
        if remembered is not None and remembered.sha256 == sha256:
            return remembered
        return LocalLora(path, path.stem, path.stat().st_size, wish[1])


def _changed(path: str, what: str) -> Rejected:
    return Rejected(
        "lora_changed",
        f"{what}: {shown(path)} is another file than when the job began; submit the job again to use the new one",
    )
