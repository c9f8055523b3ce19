"""The `fillfleet` command as a user gives it: a process of its own in the demo's folder, which comes in over HTTP."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import FillfleetError
from infra.embedded.ready_file import Ready
from infra.embedded.services import CODE, COMMAND

_SECONDS: Final = 300.0
_NEXT: Final = "Next:"
"""Where the command's advice begins; the demo takes it."""


@dataclass(frozen=True)
class Said:
    """A command that did its work, and what it printed."""

    arguments: tuple[str, ...]
    output: str

    @property
    def typed(self) -> str:
        """The command as one types it."""
        return shlex.join(("fillfleet", *self.arguments))

    @property
    def lines(self) -> list[str]:
        """What it printed, up to its advice."""
        return self.output.partition(_NEXT)[0].rstrip().splitlines()


class CommandLine:
    """A terminal in `folder`, in which FILLFLEET_URL and FILLFLEET_API_KEY are set."""

    def __init__(self, ready: Ready, folder: Path) -> None:
        known = os.environ.get("PYTHONPATH")
        self._folder = folder
        self._environment = {
            **os.environ,
            "FILLFLEET_URL": ready.api_url,
            "FILLFLEET_API_KEY": ready.api_key,
            "PYTHONPATH": f"{CODE}{os.pathsep}{known}" if known else str(CODE),
            "PYTHONUTF8": "1",
        }

    def run(self, *commands: Sequence[str]) -> list[Said]:
        """Run commands beside each other; return what they said, in order, when all are done.

        Raises FillfleetError where one of them fails. None is left running, whatever happens.
        """
        running: list[tuple[Sequence[str], subprocess.Popen[str]]] = []
        try:
            running.extend((arguments, self._start(arguments)) for arguments in commands)
            return [_finish(arguments, process) for arguments, process in running]
        finally:
            for _, process in running:
                with process:  # closes its pipes, and waits
                    process.kill()

    def _start(self, arguments: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )


def _finish(arguments: Sequence[str], process: subprocess.Popen[str]) -> Said:
    said = Said(tuple(arguments), "")
    try:
        output, complaints = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise FillfleetError("command_failed", f"{said.typed}: did not end within {_SECONDS:.0f} s") from None
    if process.returncode != 0:
        words = complaints.strip().splitlines()[-1:] or ["it said nothing"]
        raise FillfleetError("command_failed", f"{said.typed}: exit code {process.returncode}: {words[0]}")
    return Said(tuple(arguments), output)
