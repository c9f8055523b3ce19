"""The files below a folder, one folder at a time and in an order that no file system decides.

Subfolders come before the files of the folder that holds them, each sorted by name, here as in a bucket. What cannot be
read is listed with its reason; a link is followed only where it stays inside, and never in a circle.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from producer.manifest.row import Content, LocalFile

IMAGE_EXTENSIONS: Final = (".png", ".jpg", ".jpeg", ".webp")
CAPTION: Final = ".txt"
_SKIPPED_FOLDERS: Final = frozenset({"__MACOSX", "@eaDir"})
_LEFT_OUT: Final = ""
EMPTY: Final = "is an empty file; copy it again"


@dataclass
class Listing:
    """The files of one folder that matter: images and captions."""

    path: str
    """Relative to the tree, with / at its end; "" is the tree itself."""
    images: dict[str, str | None] = field(default_factory=dict)
    """Name → what is wrong with the file, None where nothing is. Sorted by name."""
    captions: set[str] = field(default_factory=set)
    """Names of .txt files."""
    broken: list[tuple[str, str]] = field(default_factory=list)
    """(name, what is wrong with it) of folders that are not read."""

    @property
    def order(self) -> bytes:
        """What the listings of a tree are sorted by: subfolders before the folder that holds them."""
        return self.path.encode() + b"\xff"


class Tree(Protocol):
    """Files below a folder or a prefix."""

    @property
    def name(self) -> str:
        """For messages, such as photos."""

    def listings(self) -> Iterator[Listing]:
        """Yield each folder that holds anything, sorted by `order`. A fresh pass each time."""

    def content(self, path: str) -> Content | str:
        """Return the file at `path`, relative to the tree; of a bucket its s3:// URI."""

    def text(self, path: str, max_bytes: int) -> bytes:
        """Return the file's bytes, at most max_bytes + 1. Raises OSError, FillfleetError."""


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def is_hidden(name: str) -> bool:
    """Whether a file or folder is skipped in silence: hidden ones, and what macOS and NAS boxes leave behind."""
    return name.startswith(".") or name in _SKIPPED_FOLDERS


class LocalTree:
    """A folder of this machine."""

    def __init__(self, folder: Path, name: str, root: Path | None = None, skip: Path | None = None) -> None:
        """Links may lead anywhere below `root` (default: the folder); the folder `skip` is left out.

        Raises OSError where the folder does not exist.
        """
        self.name = name
        self._folder = str(folder)
        self._real = os.path.realpath(folder, strict=True)
        self._root = os.path.realpath(root, strict=True) if root is not None else self._real
        self._skip = os.path.realpath(skip) if skip is not None else None

    def content(self, path: str) -> Content:
        """Return the file at `path`."""
        return LocalFile(Path(self._folder, path), f"{self.name}/{path}")

    def text(self, path: str, max_bytes: int) -> bytes:
        """Return the file's bytes, at most max_bytes + 1. Raises OSError."""
        with open(os.path.join(self._folder, path), "rb") as file:
            return file.read(max_bytes + 1)

    def listings(self) -> Iterator[Listing]:
        """Yield each folder that holds anything, sorted by `order`. Raises OSError where the folder itself is gone."""
        linked: set[str] = set()  # real paths of folders that were reached by a link
        top, folders = self._list("", linked)
        # A stack and not recursion: folders may be nested deeper than Python calls.
        stack = [(top, iter(folders))]
        while stack:
            listing, rest = stack[-1]
            name = next(rest, None)
            if name is None:
                stack.pop()
                if listing.images or listing.captions or listing.broken:
                    yield listing
                continue
            try:
                inner, folders = self._list(f"{listing.path}{name}/", linked)
            except OSError as error:
                listing.broken.append((name, _folder_words(error)))
            else:
                stack.append((inner, iter(folders)))

    def _list(self, path: str, linked: set[str]) -> tuple[Listing, list[str]]:
        listing = Listing(path)
        folders: list[str] = []
        with os.scandir(os.path.join(self._folder, path)) as entries:
            # By bytes, as a bucket sorts its keys.
            for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
                if not is_hidden(entry.name):
                    self._sort_in(entry, listing, folders, linked)
        return listing, sorted(folders, key=lambda name: os.fsencode(name + "/"))

    def _sort_in(self, entry: os.DirEntry[str], listing: Listing, folders: list[str], linked: set[str]) -> None:
        try:
            if entry.is_dir():
                trouble = self._folder_trouble(entry, linked)
                if trouble is None:
                    folders.append(entry.name)
                elif trouble != _LEFT_OUT:
                    listing.broken.append((entry.name, trouble))
                return
            if not is_image(entry.name) and not entry.name.endswith(CAPTION) and not entry.is_symlink():
                return
            trouble = self._file_trouble(entry)
        except OSError as error:
            trouble = _file_words(error)
        if is_image(entry.name):
            listing.images[entry.name] = trouble
        elif entry.name.endswith(CAPTION) and trouble is None:
            listing.captions.add(entry.name)
        elif trouble is not None and not os.path.splitext(entry.name)[1]:
            listing.broken.append((entry.name, trouble))  # likely meant a folder: its images would be missed in silence

    def _file_trouble(self, entry: os.DirEntry[str]) -> str | None:
        if (trouble := _name_trouble(entry.name)) is not None:
            return trouble
        if entry.is_symlink() and not _inside(os.path.realpath(entry.path, strict=True), self._root):
            return self._outside()
        if not entry.is_file():
            return "is not a regular file; put the image itself there"
        if entry.stat().st_size == 0:
            return EMPTY
        return None if os.access(entry.path, os.R_OK) else "may not be read; give yourself the right to read it"

    def _folder_trouble(self, entry: os.DirEntry[str], linked: set[str]) -> str | None:
        """Return None for a folder to read, _LEFT_OUT for the one to skip, else what is wrong with it."""
        if self._skip is not None and os.path.realpath(entry.path) == self._skip:
            return _LEFT_OUT
        if not entry.is_symlink():
            return _name_trouble(entry.name)
        real = os.path.realpath(entry.path, strict=True)
        if _inside(os.path.realpath(os.path.dirname(entry.path)), real):
            return "is a link in a circle: it leads to a folder that it lies in; remove it"
        if not _inside(real, self._root):
            return self._outside()
        if real in linked or _inside(real, self._real):
            return "is a link to a folder that is read already; remove the link, or put the files there"
        linked.add(real)
        return _name_trouble(entry.name)

    def _outside(self) -> str:
        return f"is a link that leads out of {self.name}/; put the file itself there, or name a root folder above both"


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder if folder.endswith(os.sep) else folder + os.sep)


def _name_trouble(name: str) -> str | None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8; rename it"
    return None


def _file_words(error: OSError) -> str:
    return {
        errno.ENOENT: "is a link to a file that does not exist; put the file itself there",
        errno.ELOOP: "is a link in a circle: it leads back to itself; put the file itself there",
        errno.EACCES: "may not be read; give yourself the right to read it",
    }.get(error.errno or 0, "cannot be read; check its disk")


def _folder_words(error: OSError) -> str:
    return {
        errno.EACCES: "is a folder that may not be read; give yourself the right to read it",
        errno.ENAMETOOLONG: "is a folder with too long a path; move it further up",
    }.get(error.errno or 0, "is a folder that cannot be read; check its disk")
