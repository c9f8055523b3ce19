"""The `fillfleet` command as a user gives it: in this process where that is enough, else as a process to kill."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.settings import Settings
from producer.cli.main import main

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """What a command has left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return what it printed as JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """Return the one line that says what is wrong."""
        assert "Traceback" not in self.err
        assert self.out == ""
        lines = [line for line in self.err.splitlines() if line.startswith(("fillfleet: ", "Error: "))]
        assert len(lines) == 1, self.err
        return lines[0]


class Cli:
    """Gives commands with one environment, in one folder."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, read: Callable[[], tuple[str, str]], environment: Mapping[str, str]
    ) -> None:
        self.environment = dict(environment)
        self._monkeypatch = monkeypatch
        self._read = read
        for name in (*(name.upper() for name in Settings.model_fields), "FILLFLEET_URL", "FILLFLEET_SYSTEM"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    def __call__(self, *arguments: object) -> Done:
        """Run a command to its end in this process."""
        self._monkeypatch.setattr(sys, "argv", ["fillfleet", *map(str, arguments)])
        self._read()
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        out, err = self._read()
        return Done(code if isinstance(code, int) else 0, out, err)

    def start(self, *arguments: object, **more: Any) -> subprocess.Popen[str]:
        """Start a command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", "from producer.cli.main import main; main()", *map(str, arguments)],
            env=self.environment | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )
