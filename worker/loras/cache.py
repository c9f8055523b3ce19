"""Downloaded LoRAs on this host's disk, each under its sha256; several workers may share the folder.

A file is either whole or not there. The folder stays within its bound: what was not used for longest goes first.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from common.errors import Transient

SUFFIX = ".safetensors"
IN_USE_SECONDS = 3600.0
"""A file used within this time is not removed: a job may be about to load it."""
DEAD_SECONDS = 86400.0
"""A download that began so long ago was left behind by a killed process."""
_SHA256 = re.compile("[0-9a-f]{64}")


class LoraCache:
    """A folder of files by sha256."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def get(self, sha256: str) -> Path | None:
        """Return the file with this sha256, marked as used now, or None."""
        if not _SHA256.fullmatch(sha256):
            return None
        path = self._folder / f"{sha256}{SUFFIX}"
        try:
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))  # the time of change stays: it names a version
        except OSError:
            return None
        return path

    def add(self, download: Callable[[Path], object]) -> Path:
        """Let `download` write a file, and return where it is kept; its name is its sha256.

        Raises what `download` raises, and Transient (lora_not_stored) where the folder cannot be written to.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=".part-", dir=self._folder) as scratch:
                part = Path(scratch) / "file"
                download(part)
                with part.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                path = self._folder / f"{sha256}{SUFFIX}"
                if not path.exists():  # else it stays the version that was checked before
                    os.replace(part, path)
            self._prune(keep=path)
        except OSError:
            raise Transient("lora_not_stored", "the worker could not store the LoRA; its disk may be full") from None
        return path

    def _prune(self, *, keep: Path) -> None:
        """Remove the least recently used files while all together take more than the bound, and dead downloads."""
        for part in self._folder.glob(".part-*"):
            if time.time() - part.stat().st_mtime > DEAD_SECONDS:
                shutil.rmtree(part, ignore_errors=True)
        files = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            try:
                status = path.stat()
            except OSError:  # another worker was faster
                continue
            files.append((status.st_atime, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for used, size, path in sorted(files):
            if total <= self._max_bytes or time.time() - used < IN_USE_SECONDS:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size
