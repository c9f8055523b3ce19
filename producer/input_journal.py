"""What this machine remembers of the files it has uploaded, so that nothing is hashed or sent twice.

A cache and never the truth: a journal that is broken, locked or not writable is left aside with one warning, and then
the files are hashed and asked for again. Several processes may use one at the same time.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from common.telemetry import get_logger

log = get_logger(__name__)

DEFAULT_PATH: Final = Path("~/.cache/fillfleet/inputs.sqlite")
BUSY_SECONDS: Final = 10.0
TRUST_SECONDS: Final = 24 * 3600.0
"""How long an upload counts as still there; the bucket's owner may remove objects, so later it is asked again."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS contents (
    identity BLOB PRIMARY KEY, sha256 TEXT NOT NULL, extension TEXT NOT NULL, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uploads (
    store TEXT NOT NULL, key TEXT NOT NULL, seen_at REAL NOT NULL, PRIMARY KEY (store, key)) WITHOUT ROWID;
"""
T = TypeVar("T")


@dataclass(frozen=True)
class KnownContent:
    """What hashing a file once has shown."""

    sha256: str
    extension: str
    size: int
    """Bytes."""


class InputJournal:
    """A SQLite file. Threads may share one. No call raises for a journal that cannot be used."""

    def __init__(self, path: Path = DEFAULT_PATH) -> None:
        self._path = path.expanduser()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        try:
            self._connection = _connect(self._path)
        except (OSError, sqlite3.Error) as error:
            self._leave_aside(error)

    def close(self) -> None:
        """Close the file; the journal knows nothing from then on."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def content(self, identity: str) -> KnownContent | None:
        """Return what is known of the file with this identity (a row.Content's), or None."""
        found = self._run(
            lambda connection: connection.execute(
                "SELECT sha256, extension, size FROM contents WHERE identity = ?", (_digest(identity),)
            ).fetchone()
        )
        return None if found is None else KnownContent(*found)

    def remember_content(self, identity: str, content: KnownContent) -> None:
        """Note what hashing has shown."""
        values = (_digest(identity), content.sha256, content.extension, content.size)
        self._run(lambda connection: connection.execute("REPLACE INTO contents VALUES (?, ?, ?, ?)", values))

    def has_upload(self, store: str, key: str) -> bool:
        """Return whether `key` was seen in the store not long ago."""
        since = time.time() - TRUST_SECONDS
        query = "SELECT 1 FROM uploads WHERE store = ? AND key = ? AND seen_at > ?"
        return self._run(lambda connection: connection.execute(query, (store, key, since)).fetchone()) is not None

    def remember_upload(self, store: str, key: str) -> None:
        """Note that `key` is in the store now."""
        values = (store, key, time.time())
        self._run(lambda connection: connection.execute("REPLACE INTO uploads VALUES (?, ?, ?)", values))

    def _run(self, call: Callable[[sqlite3.Connection], T]) -> T | None:
        with self._lock:
            if self._connection is None:
                return None
            try:
                return call(self._connection)
            except sqlite3.Error as error:
                self._leave_aside(error)
                return None

    def _leave_aside(self, error: Exception) -> None:
        log.warning(
            "input_journal_unusable",
            path=str(self._path),
            reason=str(error),
            advice="files are hashed and looked for again; delete the journal if this goes on",
        )
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    # isolation_level None: each statement commits by itself, so that a kill loses nothing that was noted.
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last lines, never the file
        connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def _digest(identity: str) -> bytes:
    # File names need not be UTF-8, which SQLite's text has to be.
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).digest()
