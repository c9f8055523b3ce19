"""Bodies that are lines of JSON: told by their Content-Type, and brought to the disk where they are large."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import anyio
from starlette.requests import Request

from common.contract import Problem, shorten
from common.errors import Unavailable
from producer.api.envelope import invalid
from producer.api.json_body import check_encoding

_KINDS: Final = frozenset(
    {
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/jsonlines",
        "application/x-jsonlines",
    }
)
_ALLOWED: Final = "application/x-ndjson or application/jsonl"
_BLOCK_BYTES: Final = 1024 * 1024
"""What is written at a time: a thread for each network packet would cost more than the writing."""


@dataclass(frozen=True)
class Spooled:
    """A body that lies on the disk."""

    path: Path
    size: int
    sha256: str


def is_lines(content_type: str) -> bool:
    """Whether a body of this Content-Type is lines of JSON."""
    return content_type.partition(";")[0].strip().lower() in _KINDS


def check_lines(request: Request) -> None:
    """Raise ApiError (400) unless the headers say lines of JSON in plain UTF-8."""
    kind = request.headers.get("content-type", "")
    if not is_lines(kind):
        raise invalid([Problem("Content-Type", shorten(kind), "is not supported", _ALLOWED)])
    check_encoding(request)


async def spool(request: Request, path: Path) -> Spooled:
    """Write the body to `path` as it comes; memory stays flat. Raises Unavailable where the disk is full."""
    digest = hashlib.sha256()
    size = 0
    block = bytearray()

    def write(file: BinaryIO, data: bytes) -> None:
        digest.update(data)
        file.write(data)

    try:
        with path.open("wb") as file:
            async for piece in request.stream():
                block += piece
                if len(block) >= _BLOCK_BYTES:
                    size += len(block)
                    await _on_thread(write, file, bytes(block))
                    block.clear()
            size += len(block)
            await _on_thread(write, file, bytes(block))
    except OSError as error:
        raise Unavailable("disk_full", "this server has no room to put the body down") from error
    return Spooled(path, size, digest.hexdigest())


async def _on_thread(write: Callable[[BinaryIO, bytes], None], file: BinaryIO, data: bytes) -> None:
    await anyio.to_thread.run_sync(write, file, data)
