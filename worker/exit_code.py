"""How a worker process ends, and what its supervisor may read from that."""

from __future__ import annotations

import signal
from enum import IntEnum


class ExitCode(IntEnum):
    """What a worker's exit code means. Whatever else there is (a signal, say) was an accident: it may start again."""

    DRAINED = 0
    """It was told to stop, and has stopped."""
    FAILED = 1
    """It could not start, or broke off, for a reason that may pass: the hub does not answer, say."""
    BAD_SETTINGS = 2
    """The settings contradict each other: the next start would end the same way."""
    WEDGED = 70
    """The device did not come back, or is in an error that no later call survives: a new process is needed."""
    CANNOT_START = 78
    """The operator has to do something first: no such model, no licence accepted, no such device."""


LASTING = frozenset({ExitCode.BAD_SETTINGS, ExitCode.CANNOT_START})
"""After these a new start is in vain until somebody has changed something."""

_IN_WORDS = {
    ExitCode.DRAINED: "drained",
    ExitCode.FAILED: "exit code 1",
    ExitCode.BAD_SETTINGS: "exit code 2: the settings are wrong",
    ExitCode.WEDGED: "exit code 70: the device did not come back",
    ExitCode.CANNOT_START: "exit code 78: it cannot start before somebody has done what its log says",
}


def in_words(code: int) -> str:
    """Return how a process ended; `code` is minus the signal's number where one ended it, as subprocess has it."""
    if code in _IN_WORDS:
        return _IN_WORDS[ExitCode(code)]
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name}: the kernel does that where memory runs out" if -code == signal.SIGKILL else name
