"""What an image, mask or adapter may be named by: an http(s) URL, or an object that its owner may read.

Those are its own in our bucket, and what the operator allowed beside them. Our own presigned links are objects, too:
they never travel over HTTP, and they open nothing to another owner.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit
from uuid import UUID

from common.errors import Rejected
from common.fetch import Fetched, Fetcher
from common.objects import Objects
from common.read_prefixes import NameOf, may_read
from common.s3_uri import check_key, is_s3_uri, split_s3_uri
from common.settings import OWNED_FOLDERS, Settings
from common.urls import BadUrl, origin, shown, split_http_url

_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class HttpSource:
    """Something to fetch over http(s)."""

    url: str


@dataclass(frozen=True)
class ObjectSource:
    """An object, in our bucket or in another at the same endpoint; the key is not percent-encoded."""

    bucket: str
    key: str

    @property
    def uri(self) -> str:
        """The s3:// URI that parse_source makes this of."""
        return f"s3://{self.bucket}/{self.key}"


Source = HttpSource | ObjectSource


def parse_source(text: str, settings: Settings, *, what: str = "source", folders: bool = False) -> Source:
    """Return what `text` names. `what` is the field's name in messages.

    With `folders` it may also be a whole folder, with / at its end, or a whole bucket, whose key is "".

    Raises Rejected: source_invalid where it is neither kind, source_forbidden where nobody may read its bucket.
    """
    try:
        if is_s3_uri(text):
            bucket, key = split_s3_uri(text)
        elif not text.lower().lstrip().startswith(("http:", "https:")):
            raise BadUrl("must begin with https://, http:// or s3://")
        else:
            parts = split_http_url(text)
            own = _key_of_own_link(parts, settings)
            if own is None:
                return HttpSource(text)
            bucket, key = settings.s3_bucket, own
        _check_key(key, folders)
    except BadUrl as error:
        raise Rejected("source_invalid", f"{what}: {shown(text)} {error}") from None
    source = ObjectSource(bucket, key)
    if bucket not in {settings.s3_bucket, *(prefix.bucket for prefix in settings.s3_read_prefixes)}:
        raise _not_readable(source, what)
    return source


def check_source_owner(
    source: Source, owner: UUID, settings: Settings, *, name_of: NameOf, what: str = "source", folders: bool = False
) -> None:
    """Raise Rejected (source_forbidden) unless `source` is a URL, or an object that `owner` may read.

    That is one under a prefix of its own in our bucket, or one that S3_READ_PREFIXES allows it. With `folders` it may
    be a folder all of which the owner may read. Raises what `name_of` raises, which is asked only where the owner's
    name decides.
    """
    if isinstance(source, HttpSource):
        return
    try:
        _check_key(source.key, folders)
    except BadUrl as error:
        raise Rejected("source_invalid", f"{what}: {shown(source.uri)} {error}") from None
    ours = source.bucket == settings.s3_bucket
    key = f"{source.key}/" if folders else source.key  # an owner's own folder is whole without the slash, too
    if ours and any(key.startswith(f"{folder}/{owner.hex}/") for folder in OWNED_FOLDERS):
        return
    if may_read(settings.s3_read_prefixes, source.bucket, source.key, owner, name_of):
        return
    if ours:
        raise Rejected("source_forbidden", f"{what}: {shown(source.uri)} is not yours; upload the file first")
    raise _not_readable(source, what)


def read_source(
    source: Source, fetcher: Fetcher, objects: Objects, *, max_bytes: int, seconds: float, what: str
) -> Fetched:
    """Return the content of `source`, whose owner must have been checked before.

    `seconds` bounds what comes over HTTP; our own store has its own time-outs. Raises as Fetcher.get and
    Objects.get do.
    """
    if isinstance(source, HttpSource):
        return fetcher.get(source.url, max_bytes=max_bytes, seconds=seconds, what=what)
    try:
        data = objects.get(source.key, max_bytes=max_bytes, bucket=source.bucket)
    except Rejected as error:
        raise Rejected(error.code, f"{what}: {shown(source.uri)}: {error.message}") from None
    return Fetched(data, hashlib.sha256(data).hexdigest(), None)


def _check_key(key: str, folders: bool) -> None:
    """Raise BadUrl unless `key` names an object or, with `folders`, a folder or the whole bucket."""
    if not folders:
        check_key(key)
    elif key:
        check_key(f"{key}x" if key.endswith("/") else key)  # whatever lies below it


def _key_of_own_link(parts: SplitResult, settings: Settings) -> str | None:
    """Return the key that a link to our bucket names, or None for any other URL. Raises BadUrl."""
    endpoint = urlsplit(settings.s3_link_endpoint)
    if origin(parts) != origin(endpoint):
        return None
    if _BAD_PERCENT.search(parts.path):
        raise BadUrl("holds a % that is not followed by two hex digits; write it as %25")
    try:
        path = unquote(parts.path, errors="strict")
    except UnicodeDecodeError:
        raise BadUrl("is not percent-encoded UTF-8") from None
    prefix = f"{endpoint.path.rstrip('/')}/{settings.s3_bucket}/"
    return path.removeprefix(prefix) if path.startswith(prefix) else None


def _not_readable(source: ObjectSource, what: str) -> Rejected:
    return Rejected(
        "source_forbidden",
        f"{what}: {shown(source.uri)} lies in a bucket or folder that you may not read here; upload the file, or ask "
        "the operator to allow this folder",
    )
