"""WebDataset tars as manifests: KEY.image.png (or KEY.png), KEY.mask.png, KEY.json with fields, KEY.txt as the prompt.

Read as a stream, one sample in memory at a time; what is in a tar is never written to the disk. The members of a
sample follow each other, as all writers have it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from tarfile import TarInfo
from typing import Any, Final

from common.contract import shorten
from producer.manifest.jsonl import JsonlManifest
from producer.manifest.local_paths import Places
from producer.manifest.options import Form, ManifestOptions
from producer.manifest.owner_objects import OwnerObjects
from producer.manifest.row import BadRow, Content, InlineContent, ManifestError, ManifestRow, NoRows
from producer.manifest.row_builder import RowBuilder, bad_text
from producer.manifest.s3_location import is_s3
from producer.manifest.seen_keys import SeenKeys
from producer.manifest.shards import Shard, find_shards
from producer.manifest.tar_members import TarMembers
from producer.manifest.text import FileSource

MAX_MEMBER_BYTES: Final = 50 * 1024 * 1024
"""As much as may be uploaded by default; a larger image is a bad row."""
MAX_TEXT_BYTES: Final = 1024 * 1024
_SHOWN_CHARACTERS: Final = 200
_PARTS: Final[Mapping[str, str]] = {
    **{f"{name}{ext}": "image" for name in ("", "image.", "img.") for ext in ("png", "jpg", "jpeg", "webp")},
    **{f"{name}{ext}": "mask_image" for name in ("mask.", "mask_image.") for ext in ("png", "jpg", "jpeg", "webp")},
    "json": "json",
    "txt": "prompt",
}
"""What comes after KEY. → what it is."""
_NAME: Final = re.compile(r"((?:.*/)?[^./][^/.]*)\.([^/]+)", re.DOTALL)
"""KEY and ending: the key goes up to the first dot of the file's name, as the webdataset library has it."""


@dataclass
class _Sample:
    key: str
    parts: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """What it is → (name of the member, bytes)."""
    others: list[str] = field(default_factory=list)
    """Endings of members that mean nothing here."""
    flaw: tuple[str, str, str] | None = None
    """(field, name of the member, what is wrong with it)."""


class WebdatasetManifest:
    """One tar or many, in the order of their names."""

    form = Form.WEBDATASET

    def __init__(self, name: str, shards: list[Shard], options: ManifestOptions, places: Places) -> None:
        self.name = name
        self._shards = shards
        self._builder = _SampleBuilder(options, places)
        # What a KEY.json may say is what a line of JSONL may say.
        self._json = JsonlManifest(FileSource(Path(name)), options, self._builder)

    def rows(self) -> Iterator[ManifestRow | BadRow]:
        """Yield the rows. Raises ManifestError where a tar cannot be read on, NoRows; FillfleetError of the store."""
        number = 0
        with closing(SeenKeys()) as seen:
            for shard in self._shards:
                members = TarMembers(shard)
                for sample in _samples(members):
                    number += 1
                    identity = sample.key
                    if len(self._shards) > 1 and not seen.add(sample.key):
                        identity = f"{shard.stem}/{sample.key}"
                    yield self._row(number, shard, sample, identity)
                    members.row = number
        if number == 0:
            raise NoRows(f"{self.name} holds no rows: no member is called KEY.image.png, KEY.png or the like")

    def _row(self, number: int, shard: Shard, sample: _Sample, identity: str) -> ManifestRow | BadRow:
        where = f"{shard.name}, {_shown(sample.key[:_SHOWN_CHARACTERS])}"
        if sample.flaw is not None:
            what, name, reason = sample.flaw
            known = identity if _is_text(identity) else None
            return BadRow(number, where, what, shorten(_shown(name)), reason, known)
        self._builder.sample(sample, shard, identity)
        try:
            text = self._text(sample, "json") or "{}"
            prompt = self._text(sample, "prompt")
        except _NotText as error:
            return BadRow(number, where, error.what, shorten(error.name), str(error), identity)
        self._builder.prompt = prompt
        row = self._json.row(number, where, text)
        if isinstance(row, BadRow):
            return replace(row, custom_id=row.custom_id or identity)
        if "image" in row.body or "image" in row.files:
            return row
        held = f"; it holds {', '.join(sample.others[:5])}" if sample.others else ""
        reason = f"has no image: add {sample.key}.image.png (or .jpg, .webp), or name one in its .json{held}"
        return BadRow(number, where, "image", "", reason, identity)

    def _text(self, sample: _Sample, what: str) -> str | None:
        if what not in sample.parts:
            return None
        name, data = sample.parts[what]
        try:
            text = data.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise _NotText(what, name, f"byte {error.start + 1} is not UTF-8; write it as UTF-8") from None
        if (flaw := bad_text(text)) is not None:
            raise _NotText(what, name, flaw)
        return text


def open_webdataset(source: str, options: ManifestOptions, objects: OwnerObjects | None) -> WebdatasetManifest:
    """Return the manifest that one or more tars are: a file, a folder or prefix of them, shard-{000..012}.tar.

    Raises ManifestError; of the store's trouble Unavailable and Transient.
    """
    if options.masks is not None:
        raise ManifestError("a folder of masks goes with a folder of images; put each mask into the tar: KEY.mask.png")
    shards = find_shards(source, objects)
    name = source.rstrip("/").rpartition("/")[2] or source
    if is_s3(source):
        above = shards[0].folder
        places = Places(Path.cwd(), above, False, above)
    else:
        root = options.root or Path(shards[0].folder)
        places = Places(root, str(root), options.local_files)
    return WebdatasetManifest(name, shards, options, places)


class _NotText(ValueError):
    def __init__(self, what: str, name: str, reason: str) -> None:
        super().__init__(reason)
        self.what = what
        self.name = name


class _SampleBuilder(RowBuilder):
    """Builds the row of a sample from its JSON, with what the sample brings beside that."""

    prompt: str | None = None
    _identity: str = ""
    _files: Mapping[str, Content] = {}

    def sample(self, sample: _Sample, shard: Shard, identity: str) -> None:
        """Set what the next row has."""
        self._identity = identity
        self._files = {
            name: InlineContent(data, f"{shard.name}: {member}")
            for name, (member, data) in sample.parts.items()
            if name in ("image", "mask_image")
        }

    def build(
        self,
        number: int,
        where: str,
        body: dict[str, Any],
        custom_id: Any = None,
        extra: Mapping[str, Any] | None = None,
        files: dict[str, Content] | None = None,
    ) -> ManifestRow | BadRow:
        """Return the row; what the JSON says wins over the .txt and the key, the sample's files win over both."""
        if self.prompt is not None:
            body.setdefault("prompt", self.prompt)
        identity = self._identity if custom_id is None or custom_id == "" else custom_id
        return super().build(number, where, body, identity, extra, {**self._files, **(files or {})})


def _samples(members: TarMembers) -> Iterator[_Sample]:
    sample: _Sample | None = None
    for member in members:
        name = member.name.removeprefix("./")
        found = _NAME.fullmatch(name)
        if member.isdir() or found is None or _is_hidden(name):
            continue
        key, ending = found[1], found[2].lower()
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        _take(sample, ending, name, member, members)
    if sample is not None:
        yield sample


def _take(sample: _Sample, ending: str, name: str, member: TarInfo, members: TarMembers) -> None:
    """Add a member to its sample; only what is needed is read."""
    what = _PARTS.get(ending)
    if what is None:
        if len(sample.others) < 100:
            sample.others.append(ending)
        return
    field_name = "row" if what == "json" else what
    limit = MAX_MEMBER_BYTES if what in ("image", "mask_image") else MAX_TEXT_BYTES
    reason = ""
    if name.startswith("/") or ".." in name.split("/"):
        reason = "has a path that leads out of the tar; write it with a relative path"
    elif not _is_text(name):
        reason = "has a name that is not UTF-8; rename it"
    elif not member.isfile():
        reason = "is a link or a device, not a file; put the file itself into the tar"
    elif member.size > limit:
        reason = f"has {member.size} bytes; at most {limit} are allowed"
    elif what in sample.parts:
        reason = f"is a second one beside {sample.parts[what][0]}; keep one of them"
    elif member.size == 0 and what != "prompt":
        reason = "is empty; write it again"
    if reason:
        sample.flaw = sample.flaw or (field_name, name, reason)
        sample.parts.clear()
    elif sample.flaw is None:
        sample.parts[what] = (name, members.read(member))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/")) or "__MACOSX" in name


def _is_text(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= char <= "\udfff" for char in name)


def _shown(name: str) -> str:
    return name.encode(errors="surrogateescape").decode(errors="replace")
