"""Unpacks HTTP bodies that came compressed although we asked for plain ones, a small piece at a time.

A few kilobytes can unpack to gigabytes, so whoever reads the pieces counts them and may stop after any.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

PIECE_BYTES = 64 * 1024
PLAIN = frozenset({"", "identity"})
PACKED = frozenset({"gzip", "x-gzip", "deflate"})


def unpack(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the content of a gzip or zlib stream in pieces of at most PIECE_BYTES.

    Raises zlib.error where it is no such stream, EOFError where it ends too early.
    """
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: tell gzip and zlib apart by their header
    for block in blocks:
        while block:
            if stream.eof:  # gzip members may follow one another
                stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
            yield stream.decompress(block, PIECE_BYTES)
            block = stream.unused_data if stream.eof else stream.unconsumed_tail
    while not stream.eof:
        rest = stream.decompress(b"", PIECE_BYTES)
        if not rest:
            raise EOFError
        yield rest
