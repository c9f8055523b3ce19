"""The recipes of docs/cookbook.md, as they stand there, and a terminal to follow them in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
BOOK: Final = ROOT / "docs" / "cookbook.md"
_BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COLOURS: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SECONDS: Final = 120.0
"""For one command: a limit for what hangs, not for a machine that has much to do."""


@dataclass(frozen=True)
class Done:
    """What a command has left: its exit code, and what it said, without colours."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Step:
    """A line of shell, or a Python program."""

    language: str
    text: str


def recipes() -> dict[str, tuple[Step, ...]]:
    """Return the steps of each recipe by its heading. Raises AssertionError at a block that no test would run."""
    _, *parts = re.split(r"^## (.+)$", BOOK.read_text(), flags=re.MULTILINE)
    return {heading: tuple(_steps(text)) for heading, text in zip(parts[::2], parts[1::2], strict=True)}


def _steps(text: str) -> Iterator[Step]:
    for language, block in _BLOCK.findall(text):
        assert language in {"sh", "python"}, block
        texts = block.splitlines() if language == "sh" else [block]
        yield from (Step(language, text) for text in texts if text)


class Kitchen:
    """A folder and an environment to run recipes in, as at a terminal: there `watch` looks each second."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        home = {"HOME": str(folder)}  # of the inputs that were uploaded a journal is kept there
        terminal = {"COLUMNS": "100", "TTY_COMPATIBLE": "1"}
        self._environment = {**os.environ, **environment, **home, **terminal, "PATH": path}

    def cook(self, recipe: Iterable[Step]) -> list[Done]:
        """Follow a recipe to its end, whatever the exit codes are; several threads may cook at once."""
        shells = {"sh": ["bash", "-c"], "python": [sys.executable, "-c"]}
        return [self._run([*shells[step.language], step.text]) for step in recipe]

    def _run(self, argv: list[str]) -> Done:
        done = subprocess.run(
            argv,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        out, err = (_COLOURS.sub("", said) for said in (done.stdout, done.stderr))
        assert "Traceback" not in err, err
        return Done(done.returncode, out, err)
