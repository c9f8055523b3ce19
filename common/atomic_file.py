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
def atomic_file(target: Path, *, private: bool = False) -> Iterator[IO[bytes]]:
    """Yield a file to write; on a clean exit it becomes `target`, on an exception it is removed.

    A `private` one can be read by its owner alone, from the first byte on; others are as public as the user's other
    files. The temporary file lies next to the target, since a rename is atomic only within one file system.
    Raises OSError where the folder cannot be written to.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    name = target.parent / f".{target.name[:100]}.{secrets.token_hex(8)}.part"
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if private else 0o666)
        with os.fdopen(descriptor, "wb") as file:
            yield file
        os.replace(name, target)
    except BaseException:
        name.unlink(missing_ok=True)
        raise
