"""A file that is either wholly there or not there at all.

Whoever looks at the target never sees a half-written file, also when the process is killed in between.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_file(target: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write; on a clean exit it becomes `target`, on an exception it is removed.

    The temporary file lies next to the target, since a rename is atomic only within one file system.
    Raises OSError where the folder cannot be written to.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp: it lets nobody else read, and what is written here is as public as the user's other files.
    name = target.parent / f".{target.name[:100]}.{secrets.token_hex(8)}.part"
    try:
        with open(name, "xb") as file:
            yield file
        os.replace(name, target)
    except BaseException:
        name.unlink(missing_ok=True)
        raise
