"""What an image, mask or adapter may be named by: an http(s) URL, or an object of its owner in our bucket.

Our own presigned links are objects, too: they never travel over HTTP, and they open nothing to another owner.
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
from common.settings import Settings
from common.urls import BadUrl, check_characters, origin, shown, split_http_url

MAX_KEY_BYTES = 1024
OWNED_FOLDERS = ("inputs", "uploads", "outputs")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class HttpSource:
    """Something to fetch over http(s)."""

    url: str


@dataclass(frozen=True)
class ObjectSource:
    """An object of our bucket; the key is not percent-encoded."""

    bucket: str
    key: str


Source = HttpSource | ObjectSource


def parse_source(text: str, settings: Settings, *, what: str = "source") -> Source:
    """Return what `text` names. `what` is the field's name in messages.

    Raises Rejected: source_invalid where it is neither kind, source_forbidden where the bucket is not ours.
    """
    try:
        if text[:5].lower() == "s3://":
            bucket, key = _split_s3(text)
        elif not text.lower().lstrip().startswith(("http:", "https:")):
            raise BadUrl("must begin with https://, http:// or s3://")
        else:
            parts = split_http_url(text)
            own = _key_of_own_link(parts, settings)
            if own is None:
                return HttpSource(text)
            bucket, key = settings.s3_bucket, own
        _check_key(key)
    except BadUrl as error:
        raise Rejected("source_invalid", f"{what}: {shown(text)} {error}") from None
    if bucket != settings.s3_bucket:
        raise Rejected("source_forbidden", f"{what}: {shown(text)} lies in a bucket that may not be read here")
    return ObjectSource(bucket, key)


def check_source_owner(source: Source, owner: UUID, *, what: str = "source") -> None:
    """Raise Rejected (source_forbidden) unless `source` is a URL or lies under a prefix of `owner`."""
    if isinstance(source, HttpSource):
        return
    try:
        _check_key(source.key)
    except BadUrl as error:
        raise Rejected("source_invalid", f"{what}: {_shown_object(source)} {error}") from None
    if not any(source.key.startswith(f"{folder}/{owner.hex}/") for folder in OWNED_FOLDERS):
        raise Rejected("source_forbidden", f"{what}: {_shown_object(source)} is not yours; upload the file first")


def read_source(
    source: Source, fetcher: Fetcher, objects: Objects, *, max_bytes: int, seconds: float, what: str
) -> Fetched:
    """Return the content of `source`, whose owner must have been checked before.

    `seconds` bounds what comes over HTTP; our own store has its own time-outs. Raises as Fetcher.get and
    Objects.get do.
    """
    if isinstance(source, HttpSource):
        return fetcher.get(source.url, max_bytes=max_bytes, seconds=seconds, what=what)
    if source.bucket != objects.bucket:
        raise Rejected(
            "source_forbidden", f"{what}: {_shown_object(source)} lies in a bucket that may not be read here"
        )
    try:
        data = objects.get(source.key, max_bytes=max_bytes)
    except Rejected as error:
        raise Rejected(error.code, f"{what}: {_shown_object(source)}: {error.message}") from None
    return Fetched(data, hashlib.sha256(data).hexdigest(), None)


def _split_s3(text: str) -> tuple[str, str]:
    """Return bucket and key of an s3:// URI; the key is taken as it stands, as all S3 tools do."""
    check_characters(text)
    bucket, _, key = text[len("s3://") :].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise BadUrl("has no valid bucket; write s3://bucket/key")
    return bucket, key


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


def _check_key(key: str) -> None:
    if not key:
        raise BadUrl("names no object; write s3://bucket/key")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise BadUrl(f"has a key longer than {MAX_KEY_BYTES} bytes")
    check_characters(key)
    if any(part in {"", ".", ".."} for part in key.split("/")):
        raise BadUrl('holds an empty part, "." or ".." in its key')


def _shown_object(source: ObjectSource) -> str:
    return shown(f"s3://{source.bucket}/{source.key}")
