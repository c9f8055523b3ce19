"""The system that the demo runs on: `fillfleet up` as a child process, started, waited for and always stopped.

The guardian of infra/embedded runs it, so it stops in order even when the demo itself is killed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import infra
from infra.demo_model.files import LORAS
from infra.embedded.errors import StartFailed
from infra.embedded.process import Guardian, Process, Program, describe_exit
from infra.embedded.ready_file import Ready

CODE: Final = Path(infra.__file__).parent.parent
_SAID: Final = re.compile(r"^\d\d:\d\d:\d\d (.*)$")
"""A line of progress of `up`; the others may hold the key."""
_SHOWN_CHARACTERS: Final = 300
"""Of a line of a log in an error message: enough for its event, too little for a traceback in JSON."""
_LOOK_SECONDS: Final = 0.1
_START_SECONDS: Final = 600.0
_STOP_SECONDS: Final = 60.0
_CRASH_STOP_SECONDS: Final = 30.0


@dataclass(frozen=True)
class SystemFolders:
    """Where a run keeps what: the system's own folder, and beside it the logs of the demo's children."""

    root: Path

    @property
    def system(self) -> Path:
        """The folder of the servers, passwords and logs."""
        return self.root / "system"

    @property
    def loras(self) -> Path:
        """The operator's LoRA folder."""
        return self.root / "loras"

    @property
    def ready_file(self) -> Path:
        """Where `up` says that it is ready."""
        return self.root / "ready.json"

    @property
    def logs(self) -> Path:
        """Where the logs of all services are."""
        return self.system / "logs"

    def log(self, name: str) -> Path:
        """Return where the output of one of the demo's own children goes."""
        return self.root / f"{name}.log"


class System:
    """A running system, from `start` to `stop`; `ready` says where it is."""

    ready: Ready

    def __init__(
        self, folders: SystemFolders, environment: Mapping[str, str], say: Callable[[str], None], *, with_loras: bool
    ) -> None:
        self._folders = folders
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self._say = say
        self._with_loras = with_loras
        self._guardian: Guardian | None = None
        self._up: Process | None = None

    def start(self) -> None:
        """Start all and wait until it is ready; `stop` has to follow in any case. Raises StartFailed."""
        self._folders.loras.mkdir(parents=True, exist_ok=True)
        for lora in LORAS.glob("*.safetensors") if self._with_loras else ():
            shutil.copy(lora, self._folders.loras)
        self._folders.ready_file.unlink(missing_ok=True)
        self._guardian = Guardian(log=self._folders.log("guardian"))
        self._up = self._guardian.spawn(self._program())
        self.ready = self._wait(self._up)

    def stop(self) -> None:
        """Stop all in order; at the second call nothing is left to do."""
        guardian, self._guardian = self._guardian, None
        if guardian is None:
            return
        try:
            if self._up is not None:
                self._up.stop()
        finally:
            guardian.close()

    def wait_for_its_end(self) -> None:
        """Return when `up` has ended by itself, which it does not before something stops it."""
        while self._up is not None and self._up.exit_code() is None:
            time.sleep(_LOOK_SECONDS)

    def _program(self) -> Program:
        folders = self._folders
        # Folders as they are now: the child runs elsewhere.
        where = ["--dir", str(folders.system.resolve()), "--ready-file", str(folders.ready_file.resolve())]
        return Program(
            name="up",
            argv=[sys.executable, "-m", "producer.cli", "up", *where],
            log=folders.log("up"),
            env=self._environment,
            cwd=CODE,
            stop_signal=signal.SIGTERM,
            stop_seconds=_STOP_SECONDS,
            crash_seconds=_CRASH_STOP_SECONDS,
        )

    def _wait(self, up: Process) -> Ready:
        heard = 0
        deadline = time.monotonic() + _START_SECONDS
        while not self._folders.ready_file.exists():
            code = up.exit_code()
            lines = up.output().splitlines()
            for line in lines[heard:]:
                said = _SAID.match(line)
                if said:
                    self._say(said[1])
            heard = len(lines)
            if code is not None:
                raise StartFailed(f"the system did not start: it ended with {describe_exit(code)}. {_last_words(up)}")
            if time.monotonic() > deadline:
                raise StartFailed(f"the system was not ready within {_START_SECONDS:.0f} s. {_last_words(up)}")
            time.sleep(_LOOK_SECONDS)
        return read_ready(self._folders.ready_file)


def read_ready(path: Path) -> Ready:
    """Return what the ready file says; what it says beyond our needs is left alone."""
    said = json.loads(path.read_text(encoding="utf-8"))
    return Ready(**{field.name: said[field.name] for field in fields(Ready)})


def _last_words(process: Process) -> str:
    lines = process.last_words().splitlines()
    return "\n".join(line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}…" for line in lines)
