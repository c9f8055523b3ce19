"""Writes a manifest and reads it, for the tests of its forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from common.objects import Objects
from common.settings import Environment, Settings
from producer.manifest.open import open_manifest
from producer.manifest.options import ManifestOptions
from producer.manifest.owner_objects import OwnerObjects
from producer.manifest.row import BadRow, ManifestError, ManifestRow


def write(folder: Path, name: str, content: str | bytes) -> Path:
    """Write one file and return its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path | str, **options: Any) -> list[ManifestRow | BadRow]:
    """Return all rows."""
    return list(open_manifest(str(path), ManifestOptions(**options)).rows())


def owned(objects: Objects, owner: UUID, name: str = "alice", allowed: str = "") -> OwnerObjects:
    """Return the buckets as the owner of that id and name may read them; `allowed` is S3_READ_PREFIXES."""
    values = {"fillfleet_env": Environment.TEST, "s3_bucket": objects.bucket, "s3_read_prefixes": allowed}
    return OwnerObjects(objects, Settings.model_validate(values), owner, {owner: name}.get)


def good(path: Path | str, **options: Any) -> list[ManifestRow]:
    """Return all rows, each of which must be a good one."""
    rows = read(path, **options)
    assert all(isinstance(row, ManifestRow) for row in rows), rows
    return [row for row in rows if isinstance(row, ManifestRow)]


def bad(path: Path | str, **options: Any) -> list[BadRow]:
    """Return the bad rows."""
    return [row for row in read(path, **options) if isinstance(row, BadRow)]


def error(path: Path | str, **options: Any) -> str:
    """Return the message of the ManifestError that reading ends with."""
    with pytest.raises(ManifestError) as caught:
        read(path, **options)
    return caught.value.message


def brought(row: ManifestRow, field: str = "image") -> bytes:
    """Return the bytes that a row brings along."""
    with row.files[field].open() as file:
        return file.read()
