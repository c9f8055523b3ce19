"""How an s3:// URI is read: one strict way for all that users and operators write. It decides nothing about access."""

from __future__ import annotations

import re
from typing import Final

from common.urls import BadUrl, check_characters

SCHEME: Final = "s3://"
MAX_KEY_BYTES: Final = 1024
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def is_s3_uri(text: str) -> bool:
    """Return whether `text` begins like one."""
    return text[: len(SCHEME)].lower() == SCHEME


def split_s3_uri(text: str) -> tuple[str, str]:
    """Return bucket and key of an s3:// URI; the key is taken as it stands, as all S3 tools do. Raises BadUrl."""
    check_characters(text)
    bucket, _, key = text[len(SCHEME) :].partition("/")
    if not is_s3_uri(text) or not _BUCKET.fullmatch(bucket):
        raise BadUrl("has no valid bucket; write s3://bucket/key")
    return bucket, key


def check_key(key: str) -> None:
    """Raise BadUrl unless `key` names just one object, in whole parts that a path cannot be tricked with."""
    if not key:
        raise BadUrl("names no object; write s3://bucket/key")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise BadUrl(f"has a key longer than {MAX_KEY_BYTES} bytes")
    check_characters(key)
    if any(part in {"", ".", ".."} for part in key.split("/")):
        raise BadUrl('holds an empty part, "." or ".." in its key')
