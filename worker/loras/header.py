"""Reads a safetensors file's header, and nothing else of it, with every number checked against the file's size.

It decides whether the file may be opened by the libraries at all. It must never read more than the header's cap, run
anything of the file, or import torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import Rejected

MAX_HEADER_BYTES = 1024 * 1024
"""The format allows 100 MB; the largest FLUX adapters have about 300 KB."""
MAX_TENSORS = 10_000
MAX_NAME = 512
WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
SCALAR_WIDTHS = {"F64": 8, "I64": 8, "I32": 4}
"""Only an adapter's alpha, a single number, may have one of these."""
DOWN_ENDINGS = ("lora_A.weight", "lora_down.weight", "lora.down.weight", ".down.weight")
"""How the tensors end whose first dimension is the rank."""

_SIGNATURES = {
    b"PK\x03\x04": "a PyTorch or zip file",
    b"\x80": "a Python pickle",
    b"\x1f\x8b": "a gzip file",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
    b"<": "a web page",
    b"{": "a JSON text",
}


@dataclass(frozen=True)
class Entry:
    """One tensor as the header describes it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file's header says. `metadata` is what its author wrote: text, and not to be trusted."""

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]
    file_bytes: int

    @property
    def rank(self) -> int:
        """The highest rank among the tensors that show theirs."""
        downs = (e for name, e in self.tensors.items() if name.endswith(DOWN_ENDINGS) and len(e.shape) == 2)
        return max((entry.shape[0] for entry in downs), default=0)


def read_header(path: Path, *, max_bytes: int, max_rank: int) -> Header:
    """Return the header of the safetensors file at `path`.

    Raises Rejected: lora_not_safetensors (another format, empty, truncated, inconsistent), lora_too_large (more than
    `max_bytes`, or too many tensors), lora_rank_too_large, lora_unsupported (a number format that no adapter needs).
    """
    with path.open("rb") as file:
        return header_of(file, max_bytes=max_bytes, max_rank=max_rank)


def header_of(file: BinaryIO, *, max_bytes: int, max_rank: int) -> Header:
    """Return the header of an open file, or of bytes in memory. Raises as read_header."""
    size = file.seek(0, 2)
    file.seek(0)
    if size > max_bytes:
        raise too_large(size, max_bytes)
    start = file.read(64)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or length > MAX_HEADER_BYTES or 8 + length > size:
        raise _not_safetensors(start, length)
    file.seek(8)
    raw = file.read(length)
    tensors, metadata = _parse(raw)
    _check_layout(tensors, data_bytes=size - 8 - length)
    header = Header(tensors, metadata, size)
    if header.rank > max_rank:
        raise Rejected("lora_rank_too_large", f"has rank {header.rank}; at most {max_rank} is allowed")
    return header


def too_large(size: int, max_bytes: int) -> Rejected:
    """Return the error for a file of `size` bytes."""
    return Rejected("lora_too_large", f"has {size} bytes; at most {max_bytes} are allowed")


def _not_safetensors(start: bytes, length: int) -> Rejected:
    if len(start) < 9:
        return _bad("is empty" if not start else "is truncated")
    for signature, kind in _SIGNATURES.items():
        if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(signature):
            return _bad(f"is {kind}")
    if length > 2**40:  # no length at all, but the first letters of something
        return _bad("is of another format")
    return _bad("is truncated" if length <= MAX_HEADER_BYTES else f"claims a header of {length} bytes")


def _bad(reason: str) -> Rejected:
    return Rejected("lora_not_safetensors", f"{reason}; an adapter must be a whole .safetensors file")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _parse(raw: bytes) -> tuple[dict[str, Entry], dict[str, str]]:
    try:
        table = json.loads(raw, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise _bad("has a header that is not valid JSON") from None
    if not isinstance(table, dict):
        raise _bad("has a header that is not a table")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _bad("has metadata that is not text")
    if not table:
        raise _bad("holds no tensors")
    if len(table) > MAX_TENSORS:
        raise Rejected("lora_too_large", f"has {len(table)} tensors; at most {MAX_TENSORS} are allowed")
    return {name: _entry(name, value) for name, value in table.items()}, metadata


def _entry(name: str, value: object) -> Entry:
    if len(name) > MAX_NAME or not name.isprintable():
        raise _bad("has a tensor whose name is too long or not printable")
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _bad(f"describes {name} wrongly")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not _is_counts(shape) or len(shape) > 8 or not _is_counts(offsets) or len(offsets) != 2:
        raise _bad(f"describes {name} wrongly")
    count = math.prod(shape)
    width = WIDTHS.get(dtype) if isinstance(dtype, str) else None
    if width is None and count == 1:
        width = SCALAR_WIDTHS.get(dtype) if isinstance(dtype, str) else None
    if width is None:
        raise Rejected(
            "lora_unsupported", f"holds {name} as {str(dtype)[:20]}; allowed are {', '.join(WIDTHS)}: convert it first"
        )
    if offsets[1] - offsets[0] != count * width:
        raise _bad(f"describes {name} wrongly: its shape and its size differ")
    return Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _is_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**62 for n in value)


def _check_layout(tensors: Mapping[str, Entry], *, data_bytes: int) -> None:
    """Raise Rejected unless the tensors lie side by side and fill the file, as the format demands."""
    end = 0
    for entry in sorted(tensors.values(), key=lambda e: (e.begin, e.end)):
        if entry.begin != end:
            raise _bad("has tensors that overlap or leave gaps")
        end = entry.end
    if end > data_bytes:
        raise _bad("is truncated")
    if end < data_bytes:
        raise _bad("has bytes after its last tensor")
