"""Which objects outside its own prefixes an owner may read: what the operator wrote into S3_READ_PREFIXES.

Entries name whole folders, part by part: s3://b/pre says nothing about s3://b/prefix2/. Nothing is allowed by default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from common.s3_uri import check_key, split_s3_uri
from common.urls import BadUrl

EVERYBODY: Final = "*"
_OWNER: Final = re.compile(r"[^\s*=]{1,100}")
NameOf = Callable[[UUID], str | None]
"""Looks up the name of an owner, by which entries know it; None where there is no such owner."""


@dataclass(frozen=True)
class ReadPrefix:
    """A folder (or a single object) that an owner may read. `parts` are the key's, none of them empty."""

    owner: str
    """An owner's name, or `*` for all."""
    bucket: str
    parts: tuple[str, ...]

    def covers(self, bucket: str, key: str) -> bool:
        """Return whether the object, or the whole folder, lies there. The key must have passed check_key."""
        return self.bucket == bucket and tuple(key.split("/"))[: len(self.parts)] == self.parts


def parse_read_prefixes(text: str) -> tuple[ReadPrefix, ...]:
    """Return the entries `OWNERNAME=s3://bucket/prefix/` or `*=s3://bucket/prefix/`, comma separated.

    Raises ValueError naming the entry.
    """
    return tuple(_entry(part.strip()) for part in text.split(",") if part.strip())


def may_read(prefixes: Iterable[ReadPrefix], bucket: str, key: str, owner: UUID, name_of: NameOf) -> bool:
    """Return whether an entry lets `owner` read the object. The name is looked up only where it decides."""
    owners = {prefix.owner for prefix in prefixes if prefix.covers(bucket, key)}
    return EVERYBODY in owners or (bool(owners) and name_of(owner) in owners)


def _entry(text: str) -> ReadPrefix:
    owner, sign, uri = text.partition("=")
    if not sign or not (owner == EVERYBODY or _OWNER.fullmatch(owner)):
        raise ValueError(f'S3_READ_PREFIXES: "{text}" must look like OWNERNAME=s3://bucket/prefix/ or *=s3://…')
    try:
        bucket, key = split_s3_uri(uri)
        folder = key.removesuffix("/")
        if key:
            check_key(folder)
    except BadUrl as error:
        raise ValueError(f'S3_READ_PREFIXES: "{text}" {error}') from None
    return ReadPrefix(owner, bucket, tuple(folder.split("/")) if folder else ())
