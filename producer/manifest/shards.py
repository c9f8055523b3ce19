"""The tars of a dataset, by name: one, a folder of them, or shard-{000..012}.tar; on this machine or in a bucket."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from common.contract import shorten
from common.sources import ObjectSource
from producer.manifest.owner_objects import OwnerObjects
from producer.manifest.row import ManifestError
from producer.manifest.s3_location import S3File, as_prefix, is_s3, location_of
from producer.manifest.trees import is_hidden

MAX_SHARDS: Final = 100_000
ENDINGS: Final = (".tar", ".tar.gz", ".tgz")
_BUFFER_BYTES: Final = 1024 * 1024
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_RANGE: Final = re.compile(r"([0-9]{1,12})\.\.([0-9]{1,12})")


@dataclass(frozen=True)
class Shard:
    """One tar."""

    name: str
    """For messages and ids, such as shard-0001.tar."""
    place: str
    """The path, or the key in its bucket."""
    objects: OwnerObjects | None = None
    bucket: str = ""

    @property
    def folder(self) -> str:
        """Where the tar lies: a path, or an s3:// URI; without / at its end."""
        return str(Path(self.place).parent) if self.objects is None else self._at.uri.rpartition("/")[0]

    @property
    def _at(self) -> ObjectSource:
        return ObjectSource(self.bucket, self.place)

    def open(self) -> io.BufferedReader:
        """Return the bytes as they lie there, front to back. Raises OSError, FillfleetError."""
        raw = io.FileIO(self.place) if self.objects is None else S3File(self.objects, self._at)
        return io.BufferedReader(raw, _BUFFER_BYTES)

    @property
    def stem(self) -> str:
        """The name without its ending."""
        ending = next((ending for ending in ENDINGS if self.name.lower().endswith(ending)), "")
        return self.name[: len(self.name) - len(ending)]


def find_shards(source: str, objects: OwnerObjects | None) -> list[Shard]:
    """Return the tars that `source` names, in order. Raises ManifestError where there is none or one is missing.

    Raises Unavailable and Transient of the store, and Rejected where its bucket cannot be read.
    """
    shards = _in_bucket(source, objects) if is_s3(source) else _on_disk(source)
    if not shards:
        raise ManifestError(f"{shorten(source)} holds no tar ({', '.join(ENDINGS)}); name the folder that holds them")
    names = {shard.name for shard in shards}
    if len(names) < len(shards):  # {a,b}/000.tar
        return [replace(shard, name=shard.place) for shard in shards]
    return shards


def expand_braces(text: str) -> Iterator[str]:
    """Yield what shells make of `text`: {000..012} and {train,test} are expanded, from left to right.

    Raises ManifestError where it would be more than MAX_SHARDS.
    """
    found = _BRACES.search(text)
    if found is None:
        yield text
        return
    numbers = _RANGE.fullmatch(found[1])
    if numbers is None and "," not in found[1]:  # as shells have it: a lone {word} is no pattern
        head = text[: found.end()]
        yield from (head + rest for rest in expand_braces(text[found.end() :]))
        return
    for word in _numbers(numbers[1], numbers[2], text) if numbers else found[1].split(","):
        yield from expand_braces(f"{text[: found.start()]}{word}{text[found.end() :]}")


def _numbers(first: str, last: str, text: str) -> Iterator[str]:
    width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
    low, high = int(first), int(last)
    if abs(high - low) >= MAX_SHARDS:
        raise ManifestError(f"{shorten(text)} names more than {MAX_SHARDS} shards; check the numbers in braces")
    step = 1 if high >= low else -1
    return (str(number).zfill(width) for number in range(low, high + step, step))


def _expanded(source: str) -> list[str]:
    places = []
    for place in expand_braces(source):
        places.append(place)
        if len(places) > MAX_SHARDS:
            raise ManifestError(f"{shorten(source)} names more than {MAX_SHARDS} shards; check the braces")
    return places


def _on_disk(source: str) -> list[Shard]:
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            names = sorted(os.listdir(path), key=os.fsencode)
            found = [name for name in names if name.lower().endswith(ENDINGS) and not is_hidden(name)]
            return [Shard(name, str(path / name)) for name in found if (path / name).is_file()]
        places = [source] if path.is_file() else _expanded(source)
        shards = [Shard(Path(place).name, str(Path(place).expanduser())) for place in places]
    except (OSError, ValueError):
        raise ManifestError(f"{shorten(source)} cannot be read; check the path") from None
    for shard in shards:
        if not os.path.isfile(shard.place):
            raise ManifestError(f"there is no file {shorten(shard.place)}; check the path and the numbers in braces")
    return shards


def _in_bucket(source: str, objects: OwnerObjects | None) -> list[Shard]:
    objects, at = location_of(source, objects)
    if at.key.lower().endswith(ENDINGS):
        # Each by itself has to be the owner's to read: what stands in braces may lead anywhere.
        places = [ObjectSource(at.bucket, key) for key in _expanded(at.key)]
        for place in places:
            if objects.size(place) is None:
                raise ManifestError(f"there is no object {shorten(place.uri)}; check its name")
        return [Shard(place.key.rpartition("/")[2], place.key, objects, at.bucket) for place in places]
    prefix = as_prefix(at)
    found = []
    for key, _ in objects.list_keys(prefix):
        name = key[len(prefix.key) :]
        if "/" not in name and name.lower().endswith(ENDINGS) and not is_hidden(name):
            found.append(Shard(name, key, objects, at.bucket))
    return sorted(found, key=lambda shard: shard.name.encode())
