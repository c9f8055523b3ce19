"""The recipes of docs/cookbook.md, as they stand there, and a terminal to follow them in."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
BOOK: Final = ROOT / "docs" / "cookbook.md"
_BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COLOURS: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SECONDS: Final = 40.0


@dataclass(frozen=True)
class Done:
    """What a command has left. `err` is what the terminal has shown on the way, without colours."""

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
    """A folder and an environment to run recipes in, at a terminal: `watch` looks each second there."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, **environment, "PATH": path, "TERM": "xterm", "COLUMNS": "100"}

    def cook(self, recipe: Iterable[Step]) -> list[Done]:
        """Follow a recipe to its end, whatever the exit codes are; several threads may cook at once."""
        shells = {"sh": ["bash", "-c"], "python": [sys.executable, "-c"]}
        return [self._run([*shells[step.language], step.text]) for step in recipe]

    def _run(self, argv: list[str]) -> Done:
        ours, theirs = pty.openpty()
        shown: list[bytes] = []
        with os.fdopen(ours, "rb", buffering=0) as screen:
            reader = threading.Thread(target=_read, args=(screen.fileno(), shown))
            reader.start()
            try:
                done = subprocess.run(
                    argv,
                    cwd=self.folder,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=theirs,
                    text=True,
                    timeout=_SECONDS,
                    check=False,
                )
            finally:
                os.close(theirs)
                reader.join()
        said = _COLOURS.sub("", b"".join(shown).decode()).replace("\r\n", "\n")
        assert "Traceback" not in said, said
        return Done(done.returncode, done.stdout, said)


def _read(screen: int, into: list[bytes]) -> None:
    try:
        while data := os.read(screen, 65536):
            into.append(data)
    except OSError:
        pass  # how Linux says that nobody writes to the terminal any more
