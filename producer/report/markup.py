"""Text of users on its way into HTML: escaped, isolated, and with nothing invisible left in it.

Prompts, ids and passthrough columns are anybody's: they may hold tags, quotes, or characters that turn around how the
line around them reads.
"""

from __future__ import annotations

import re
from html import escape
from typing import Final

_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Controls, direction overrides, halves of surrogates and tags. Joiners and marks stay: languages need them."""


def clip(text: str, limit: int) -> str:
    """Return `text`, or its beginning and its length where it is longer than `limit` characters."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def plain(text: object) -> str:
    """Return `text` for an attribute or an <option>: escaped, and each unseen character as its code: ⟨U+202E⟩."""
    return escape(_UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", str(text)))


def isolated(text: object) -> str:
    """Return `text` for the flow of a page: as `plain`, and with a reading direction of its own."""
    return f"<bdi>{plain(text)}</bdi>"


def code(text: object) -> str:
    """Return `text` as code."""
    return f"<code>{isolated(text)}</code>"
