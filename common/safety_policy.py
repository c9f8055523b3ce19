"""What may become of an output that the safety checker flagged. The word stands in settings, results and tables.

How each is done is in worker/safety/flagged.py; nothing here looks at an image.
"""

from __future__ import annotations

from enum import StrEnum


class SafetyPolicy(StrEnum):
    """One of these holds for a whole fleet (SAFETY_POLICY). has_nsfw_contents says true under each."""

    BLANK = "blank"
    """A black image of the same size is stored in its place."""
    BLUR = "blur"
    """What is stored is so blurred that nothing but large areas of colour is left."""
    DROP = "drop"
    """Nothing is stored: the output's place in every list stays, and is empty."""
    ALLOW = "allow"
    """It is stored as it is, for operators who want the flag alone."""
