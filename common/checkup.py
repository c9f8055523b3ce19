"""What one check of `fillfleet doctor` found: of the settings, a server, the model, this machine.

A check looks and changes nothing. Its words are for the operator, so they may name hosts and paths, but never a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from common.settings import Settings


class Verdict(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    NOTE = "note"
    """Nothing is wrong, and it is good to know."""
    WARNING = "warning"
    """It works, and somebody has to think about it."""
    MISSING = "missing"
    """What needs this cannot work."""


@dataclass(frozen=True)
class Finding:
    """What was found, in words; `todo` says what to do about it, `facts` are the same for programs: JSON's values."""

    check: str
    verdict: Verdict
    found: str
    todo: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


Check = Callable[[Settings], Sequence[Finding]]
"""Looks at one thing; a few seconds at most, also where nothing answers."""
