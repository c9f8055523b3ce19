"""Which keys a pass over many shards has met, in flat memory: ten million of them lie in a temporary file."""

from __future__ import annotations

import hashlib
import sqlite3


class SeenKeys:
    """A set that only grows. The file goes when it is closed, or when the process ends."""

    def __init__(self) -> None:
        # An empty name is SQLite's for a private file that is written to only once its cache is full.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("CREATE TABLE seen (digest INTEGER PRIMARY KEY)")
        self._database.execute("BEGIN")

    def close(self) -> None:
        """Forget everything."""
        self._database.close()

    def add(self, key: str) -> bool:
        """Add `key`; returns False where it was there. One in a trillion new keys is taken for an old one."""
        digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()
        value = int.from_bytes(digest, signed=True)
        return self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (value,)).rowcount == 1
