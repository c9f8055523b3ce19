"""A prompt as the plain words that rules are compared with: without what only looks different.

It folds what Unicode has several forms for (case, width, ligatures, composed letters) and removes what nobody sees.
Letters that merely look alike in other scripts stay what they are. Nothing here does I/O.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_UNSEEN: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\u0488\u0489\u1abe\u20dd-\u20e0\u20e2-\u20e4\ua670-\ua672]"
)
"""Unicode's default-ignorable characters: of no width, joiners, soft hyphens, marks of direction, variation selectors,
fillers. And marks that enclose a letter. Inside a word they would make another word of it."""
_WORD: Final = re.compile(r"[^\W_]+")
_PATTERN: Final = re.compile(r"(?:[^\W_]|\*)+")
_MARKS_ON_A_LETTER: Final = 3
"""More than any language has. A prompt of ten thousand of them would take 80 ms to bring into order."""


def words_of(text: str) -> list[str]:
    """Return the words of `text` in the form in which words are compared: runs of letters and digits, in order."""
    return _WORD.findall(_folded(text))


def patterns_of(text: str) -> list[str]:
    """Return the same of a rule, in which `*` counts as a letter."""
    return _PATTERN.findall(_folded(text))


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    composed = unicodedata.normalize("NFKC", _few_marks(_UNSEEN.sub("", text)))
    folded = unicodedata.normalize("NFKC", composed.casefold())
    # What could not be composed is on a letter that no language writes so: it is there to make another word of it.
    bare = "".join(one for one in _UNSEEN.sub("", folded) if not unicodedata.combining(one))
    return unicodedata.normalize("NFKC", bare)  # what a mark kept apart may belong together


def _few_marks(text: str) -> str:
    kept: list[str] = []
    marks = 0
    for one in text:
        marks = marks + 1 if unicodedata.combining(one) else 0
        if marks <= _MARKS_ON_A_LETTER:
            kept.append(one)
    return "".join(kept)
