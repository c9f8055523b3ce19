"""The operator's file of refused prompts (PROMPT_DENY_FILE), read at start and again when it changes.

A file that is bad when a process starts keeps it from starting. One that becomes bad, or goes away, later is complained
of in the log, and the rules that were good go on: none ever falls away by accident. Who is refused hears the category
alone, never a rule: the list is no help for getting around it.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

from common.contract import FillRequest, InvalidRequest, Problem, shorten
from common.errors import Rejected
from common.prompt_rules import BadRule, PromptRules, Rule, parse_rules
from common.telemetry import get_logger

log = get_logger(__name__)

INVALID: Final = "prompt_rules_invalid"
"""The code of an error that is the operator's to mend, and not the user's."""
DENIED: Final = "prompt_denied"
_MAX_BYTES: Final = 1024 * 1024
_LOOK_SECONDS: Final = 1.0
"""How often the file is looked at, at most: a million rows ask in half a minute."""
_ALLOWED: Final = "a prompt for a use that this fleet takes"

_Stamp = tuple[int, int, int] | None
"""By which a change is seen; None where there is no file."""


class PromptDenyFile:
    """The rules of one file, or none where there is no path. Safe to use from several threads at once."""

    def __init__(self, path: Path | None) -> None:
        """Read the file. Raises Rejected (prompt_rules_invalid), naming file and line."""
        self._path = path
        self._reading = threading.Lock()
        self._rules = PromptRules(())
        self._stamp: _Stamp = None
        self._next_look = 0.0
        self._last: tuple[PromptRules, str, str | None] | None = None
        """The last answer: the rows of a batch often share one prompt. Replaced as a whole, so it needs no lock."""
        if path is not None:
            self._read(path)

    @property
    def count(self) -> int:
        """How many rules there are."""
        return self._rules.count

    def check(self, request: FillRequest) -> None:
        """Raise InvalidRequest, naming the prompt, where it falls under a rule."""
        reason = self.reason(request.prompt)
        if reason is not None:
            raise InvalidRequest((Problem("prompt", shorten(request.prompt), reason, _ALLOWED),))

    def reason(self, prompt: str) -> str | None:
        """Return in words why the prompt is refused, or None."""
        if self._path is None:
            return None
        self._read_again(self._path)
        last = self._last
        if last is None or last[0] is not self._rules or last[1] != prompt:
            rules = self._rules
            self._last = last = (rules, prompt, _in_words(rules.find(prompt)))
        return last[2]

    def _read_again(self, path: Path) -> None:
        """Read the file where it has changed; whoever comes meanwhile goes on with what is known."""
        if time.monotonic() < self._next_look or not self._reading.acquire(blocking=False):
            return
        try:
            self._next_look = time.monotonic() + _LOOK_SECONDS
            if _stamp(path) != self._stamp:
                self._read(path)
        except Rejected as error:
            log.error("prompt_rules.not_read_again", why=error.message, hint="the rules that were read before hold on")
        finally:
            self._reading.release()

    def _read(self, path: Path) -> None:
        try:
            # Taken before the content: what is written in between is then seen as another change.
            self._stamp = _stamp(path)
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
            if len(data) > _MAX_BYTES:
                raise Rejected(INVALID, f"PROMPT_DENY_FILE: {path}: the file is larger than {_MAX_BYTES} bytes")
            self._rules = parse_rules(data.decode("utf-8"))
        except OSError as error:
            raise Rejected(INVALID, f"PROMPT_DENY_FILE: {path}: cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise Rejected(INVALID, f"PROMPT_DENY_FILE: {path}: is not UTF-8 text") from None
        except BadRule as error:
            raise Rejected(INVALID, f"PROMPT_DENY_FILE: {path}:{error.line}: {error}") from None
        log.info("prompt_rules.read", rules=self._rules.count)


def _in_words(rule: Rule | None) -> str | None:
    if rule is None:
        return None
    if rule.category is None:
        return "falls under a use that this fleet refuses"
    return f'falls under "{rule.category}", which this fleet refuses'


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
