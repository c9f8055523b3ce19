"""Under which names a row's outputs are saved: its custom_id made safe as a path, or its number.

The name comes from the row alone, so that a later run finds the files of an earlier one. Nothing that a custom_id says
leads out of the folder, and no two outputs get one name, also where the file system knows no case.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import unicodedata
from typing import Final, Self

from producer.results.columns import Row

_MAX_PART_BYTES: Final = 120  # of the 255 that file systems take, with room for number, digest, suffix
_MAX_PARTS: Final = 8
_UNSAFE: Final = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\\ud800-\udfff]')
_DEVICE: Final = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_LIKE_A_FILE: Final = re.compile(r"\.(png|jpe?g|webp|jsonl?|parquet)$", re.IGNORECASE)
_DIGEST: Final = re.compile(r"~[0-9a-f]{8}$")


def safe_stem(row: Row, *, dots: bool = True) -> str:
    """Return the row's relative path without suffix; `/` makes folders. Where it had to be changed, a digest is in it.

    With dots=False no part has a dot: in a WebDataset the key ends at the first one.
    """
    custom_id = row.get("custom_id")
    if not isinstance(custom_id, str):
        number = row.get("row")
        return f"row-{number:08d}" if isinstance(number, int) else f"job-{row.get('job_id')}"
    parts = custom_id.split("/")
    if len(parts) > _MAX_PARTS:
        parts = [*parts[: _MAX_PARTS - 1], "_".join(parts[_MAX_PARTS - 1 :])]
    safe = [_safe_part(part, dots=dots) for part in parts if part not in {"", "."}]
    # A folder must never have the name of a file: the outputs of the row "a" against the folder of "a.png/b".
    folders = [f"{part}_" if _LIKE_A_FILE.search(part) else part for part in safe[:-1]]
    stem = "/".join([*folders, *safe[-1:]]) or "_"
    # Names with a digest are ours: a custom_id that looks like one is changed, too.
    return stem if stem == custom_id and not _DIGEST.search(stem) else f"{stem}~{_digest(custom_id)}"


class FileNames:
    """The names given out so far, on disk, since a batch may have ten million rows."""

    def __init__(self) -> None:
        # Without a name it is a temporary file of SQLite's own, which vanishes with the connection.
        self._given = sqlite3.connect("", isolation_level=None)
        self._given.execute("CREATE TABLE given (name TEXT PRIMARY KEY) WITHOUT ROWID")
        self._given.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._given.close()

    def outputs(self, row: Row, extension: str) -> list[str]:
        """Return a relative path for each output of the row: STEM.EXTENSION, or STEM-0.EXTENSION … of several."""
        count = len(row.get("outputs") or ())
        suffixes = [f".{extension}"] if count == 1 else [f"-{number}.{extension}" for number in range(count)]
        stem = self._free(row, safe_stem(row), suffixes)
        return [stem + suffix for suffix in suffixes]

    def key(self, row: Row) -> str:
        """Return the row's key in a WebDataset."""
        return self._free(row, safe_stem(row, dots=False), [""])

    def _free(self, row: Row, stem: str, suffixes: list[str]) -> str:
        """Return `stem`, or where one of its names is taken, `stem` with the job's digest."""
        for candidate in (stem, f"{stem}~{_digest(str(row.get('job_id')))}", f"{stem}~{row.get('job_id')}"):
            names = [(unicodedata.normalize("NFC", candidate + suffix).casefold(),) for suffix in suffixes]
            if not any(self._given.execute("SELECT 1 FROM given WHERE name = ?", name).fetchone() for name in names):
                self._given.executemany("INSERT OR IGNORE INTO given VALUES (?)", names)
                return candidate
        return f"{stem}~{row.get('job_id')}"


def _safe_part(part: str, *, dots: bool) -> str:
    safe = _UNSAFE.sub("_", part).encode()[:_MAX_PART_BYTES].decode(errors="ignore")
    if not dots:
        safe = safe.replace(".", "_")
    safe = re.sub(r"^\.+|[. ]+$", lambda found: "_" * len(found[0]), safe)
    return f"_{safe}" if _DEVICE.fullmatch(safe) else safe


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
