"""What a row's image or mask names: something to fetch (http, https, s3), or a file on this machine.

A relative path lies below the manifest's root and never leaves it, not through `..` and not through a symlink. An
absolute one is the user's own word, and taken as it stands. On a server (local_files False) no path is ever looked at.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

from producer.manifest.row import LocalFile

_REMOTE: Final = re.compile(r"(?:https?|s3)://", re.IGNORECASE)
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:|https?:|s3:", re.IGNORECASE)
_KNOWN_FOLDERS: Final = 4096


class BadPath(ValueError):
    """The message says what is wrong with a path and what to do, without the path itself."""


def is_remote(text: str) -> bool:
    """Whether `text` is an http, https or s3 URL, which stays in the row as it is."""
    return _REMOTE.match(text.strip()) is not None


@dataclass(frozen=True)
class Places:
    """Where the paths of one manifest lie."""

    root: Path
    """Relative paths are below it."""
    shown: str
    """The root as the user knows it, for messages; without a slash at its end."""
    local_files: bool = True
    base_uri: str | None = None
    """Of a manifest in a bucket: relative paths are objects below it, such as s3://bucket/data."""
    _real_folder: Callable[[str], str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # The files of a manifest lie in few folders: each is followed through its symlinks once.
        object.__setattr__(self, "_real_folder", lru_cache(_KNOWN_FOLDERS)(_real))
        object.__setattr__(self, "root", Path(os.path.realpath(self.root)))

    def find(self, text: str) -> LocalFile | str:
        """Return the file that `text` names, or the URL that it is. Raises BadPath."""
        text = text.strip()
        if is_remote(text):
            return text
        if _SCHEME.match(text):
            raise BadPath("is of a kind that cannot be read; name an http, https or s3 URL, or a file's path")
        if "\x00" in text:
            raise BadPath("holds a NUL character")
        if self.base_uri is not None:
            return _joined(self.base_uri, text)
        if not self.local_files:
            raise BadPath("is a path, and the server cannot read your files; name a URL, or upload the file first")
        return self._local(text)

    def _local(self, text: str) -> LocalFile:
        expanded = os.path.expanduser(text) if text.startswith("~") else text
        absolute = os.path.isabs(expanded)
        path = expanded if absolute else os.path.join(self.root, expanded)
        try:
            folder = self._real_folder(os.path.dirname(path))
            found = os.path.join(folder, os.path.basename(path))
            facts = os.lstat(found)
            if stat.S_ISLNK(facts.st_mode) or os.path.basename(path) in {"", ".", ".."}:
                found = _real(path)
                facts = os.stat(found)
        except (OSError, ValueError) as error:
            if not absolute and self._leaves(os.path.normpath(path)):
                raise self._outside() from None
            raise BadPath(self._reason(error, absolute)) from None
        if not absolute and self._leaves(found):
            raise self._outside()
        if not stat.S_ISREG(facts.st_mode):
            raise BadPath("is a folder, not a file" if stat.S_ISDIR(facts.st_mode) else "is not a regular file")
        if facts.st_size == 0:
            raise BadPath("is an empty file; copy it again")
        if not os.access(found, os.R_OK):
            raise BadPath("may not be read; give yourself the right to read it")
        return LocalFile(Path(found), text)

    def _leaves(self, real: str) -> bool:
        root = str(self.root)
        return not real.startswith(root if root.endswith(os.sep) else root + os.sep)

    def _outside(self) -> BadPath:
        return BadPath(f"leads out of {self.shown}/; move the file below it, or name a root folder that holds both")

    def _reason(self, error: OSError | ValueError, absolute: bool) -> str:
        number = error.errno if isinstance(error, OSError) else None
        if number in {errno.ENOENT, errno.ENOTDIR}:
            return "names no file; check the path" if absolute else f"names no file below {self.shown}/; check the path"
        return {
            errno.ELOOP: "is a symlink that leads back to itself; name the file itself",
            errno.EACCES: "may not be read; give yourself the right to read it",
            errno.ENAMETOOLONG: "is too long to be a path",
        }.get(number or 0, "cannot be opened; check the path and its disk")


def _real(path: str) -> str:
    """Return `path` without symlinks and dots. Raises OSError where it does not exist or leads in a circle."""
    return os.path.realpath(path, strict=True)


def _joined(base: str, text: str) -> str:
    """Return the object that the relative path `text` names below `base`. Raises BadPath."""
    path = posixpath.normpath(text)
    if text.startswith(("/", "~")) or path == ".." or path.startswith("../"):
        raise BadPath(f"leads out of {base}/; name an s3:// URI or a path below it")
    if text.endswith("/") or path == ".":
        raise BadPath("is a folder, not a file")
    return f"{base}/{path}"
