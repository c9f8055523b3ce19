"""Which of the three accepted kinds of image a file is, told by its first bytes and never by its name."""

from __future__ import annotations

from enum import Enum
from typing import Final

HEAD_BYTES: Final = 16
"""How many of a file's first bytes `image_kind` needs."""
NOT_AN_IMAGE: Final = "is not a PNG, JPEG or WebP image"


class ImageKind(Enum):
    """A kind of image; the value is its extension in the bucket."""

    PNG = "png"
    JPEG = "jpg"
    WEBP = "webp"

    @property
    def content_type(self) -> str:
        """The media type, such as image/png."""
        return f"image/{self.name.lower()}"


def image_kind(head: bytes) -> ImageKind | None:
    """Return what the file that begins with `head` claims to be, or None for anything else."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return ImageKind.PNG
    if head.startswith(b"\xff\xd8\xff"):
        return ImageKind.JPEG
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return ImageKind.WEBP
    return None
