"""The file of bad rows: one JSON object a line, with what to mend where. It is written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from common.atomic_file import atomic_file
from common.lifecycle import Reject
from producer.batch_wire import RejectWire


def rejects_path(given: Path | None, batch_name: str) -> Path:
    """Return where bad rows go: the file that the user named, or one after the batch in the current folder."""
    if given is not None:
        return given
    return Path(f"{batch_name.replace(os.sep, '_').lstrip('.')}.rejects.jsonl")


def write_rejects(target: Path, rejects: Iterable[Reject]) -> bool:
    """Write the bad rows; returns False where there are none, and then no file is written. Raises OSError."""
    found = iter(rejects)
    first = next(found, None)
    if first is None:
        return False
    with atomic_file(target) as file:
        for reject in chain([first], found):
            file.write(RejectWire.of(reject).model_dump_json().encode() + b"\n")
    return True


def in_words(reject: Reject) -> str:
    """Return a bad row in a line for people."""
    value = f"{reject.value} " if reject.value else ""
    return f"{reject.place}: {reject.field}: {value}{reject.reason}"
