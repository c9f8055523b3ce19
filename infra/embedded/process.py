"""Child processes that never outlive us: what to run, a handle on what runs, and the line to the guardian.

Nothing here starts a server or service by itself: the guardian does, and it stops them all when this process is gone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from infra.embedded.errors import GuardianLost, StartFailed

_ANSWER_SECONDS: Final = 30.0
_END_SECONDS: Final = 30.0
"""The guardian gives the slowest of its wards well under this."""
_LOG_MAX_BYTES: Final = 20 * 1024 * 1024


@dataclass(frozen=True)
class Program:
    """What to run and how it ends."""

    name: str
    argv: Sequence[str]
    log: Path
    """Both outputs are appended here."""
    env: Mapping[str, str]
    cwd: Path
    user: tuple[int, int] | None = None
    """uid and gid to become; only root may."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0
    """How long an orderly stop may take before SIGKILL."""
    crash_seconds: float = 0.0
    """The same when our process has died: 0 is SIGKILL at once, for what loses nothing by it."""
    leftovers: Sequence[Path] = field(default=())
    """Files outside our folder to remove once it has ended."""


class Guardian:
    """The line to the guardian process. Threads may share it."""

    def __init__(self, *, log: Path, keep_open: Sequence[int] = (), remove: Sequence[Path] = ()) -> None:
        """Start the guardian. It keeps the file descriptors `keep_open` until it ends, and then removes `remove`."""
        ours, theirs = socket.socketpair()
        script = Path(__file__).with_name("guardian.py")
        with log.open("ab") as output, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(script), str(theirs.fileno()), str(os.getpid()), *map(str, remove)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(theirs.fileno(), *keep_open),
                cwd="/",
            )
        ours.settimeout(_ANSWER_SECONDS)
        self._socket = ours
        self._lock = threading.Lock()
        self._received = b""
        self._orders = 0

    @property
    def pid(self) -> int:
        """The guardian's own process id."""
        return self._process.pid

    def spawn(self, program: Program) -> Process:
        """Start a process. Raises StartFailed where it cannot even be executed, GuardianLost."""
        _set_aside_a_long_log(program.log)
        offset = program.log.stat().st_size if program.log.exists() else 0
        pid = self._ask(
            "spawn",
            argv=list(map(str, program.argv)),
            log=str(program.log),
            env=dict(program.env),
            cwd=str(program.cwd),
            user=program.user,
            stop_signal=int(program.stop_signal),
            crash_seconds=program.crash_seconds,
            leftovers=list(map(str, program.leftovers)),
        )
        return Process(self, program, int(pid), offset)

    def run(self, program: Program, *, seconds: float) -> Process:
        """Run a process to its end. Raises StartFailed with the tail of its log unless it ends with 0 in time."""
        process = self.spawn(program)
        code = process.wait(seconds)
        if code is None:
            process.kill()
            raise StartFailed(f"{program.name} did not finish within {seconds:.0f} s. {process.last_words()}")
        if code != 0:
            raise StartFailed(f"{program.name} ended with {describe_exit(code)}. {process.last_words()}")
        return process

    def exit_code(self, pid: int) -> int | None:
        """Return how a process ended, or None while it runs."""
        code = self._ask("exit_code", pid=pid)
        return None if code is None else int(code)

    def signal(self, pid: int, number: signal.Signals) -> bool:
        """Send a signal; return whether the process still ran."""
        return bool(self._ask("signal", pid=pid, signal=int(number)))

    def forget(self, pid: int) -> None:
        """Drop an ended process from the books."""
        self._ask("forget", pid=pid)

    def close(self) -> None:
        """Hang up and wait until the guardian has stopped what still ran and is gone itself."""
        self._socket.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()  # on Linux its wards die with it
            self._process.wait()

    def _ask(self, what: str, **details: Any) -> Any:
        with self._lock:
            self._orders += 1
            order = self._orders
            try:
                self._socket.sendall(json.dumps({"do": what, "id": order, **details}).encode() + b"\n")
                while True:
                    answer = json.loads(self._read_line())
                    if answer["id"] == order:  # an older one is of a question that Ctrl-C interrupted
                        break
            except OSError as error:
                raise GuardianLost from error
        if "error" in answer:
            raise StartFailed(f"cannot {what} {details.get('argv', [''])[0]}: {answer['error']}")
        return answer["result"]

    def _read_line(self) -> bytes:
        while b"\n" not in self._received:
            received = self._socket.recv(65536)
            if not received:
                raise ConnectionResetError
            self._received += received
        line, self._received = self._received.split(b"\n", 1)
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Process:
    """One running (or ended) process."""

    def __init__(self, guardian: Guardian, program: Program, pid: int, log_offset: int) -> None:
        self.program = program
        self.pid = pid
        self.started = time.monotonic()
        self._guardian = guardian
        self._log_offset = log_offset
        self._exit_code: int | None = None

    def exit_code(self) -> int | None:
        """Return how it ended (minus the signal's number if by a signal), or None while it runs."""
        if self._exit_code is None:
            self._exit_code = self._guardian.exit_code(self.pid)
            if self._exit_code is not None:
                self._guardian.forget(self.pid)
        return self._exit_code

    def wait(self, seconds: float) -> int | None:
        """Wait for its end for at most `seconds`; return as exit_code does."""
        deadline = time.monotonic() + seconds
        while (code := self.exit_code()) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        if self.exit_code() is None:
            self._guardian.signal(self.pid, number)

    def ask_to_stop(self) -> None:
        """Send its stop signal."""
        self.signal(self.program.stop_signal)

    def stop(self) -> int:
        """Ask it to stop, insist with SIGKILL after its stop_seconds, and return how it ended."""
        self.ask_to_stop()
        code = self.wait(self.program.stop_seconds)
        return self.kill() if code is None else code

    def kill(self) -> int:
        """SIGKILL it, and whom it started, and wait for the end."""
        self.signal(signal.SIGKILL)
        while (code := self.wait(10.0)) is None:
            pass  # in uninterruptible sleep: the disk has to answer first
        return code

    def output(self) -> str:
        """Return what this run has written so far."""
        try:
            with self.program.log.open("rb") as log:
                log.seek(self._log_offset)
                return log.read(_LOG_MAX_BYTES).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def last_words(self, lines: int = 20) -> str:
        """Return the tail of what this run has written, introduced by the log's place."""
        tail = self.output().rstrip().splitlines()[-lines:]
        if not tail:
            return f"It wrote nothing to {self.program.log}"
        return f"The end of {self.program.log}:\n" + "\n".join(f"  {line}" for line in tail)


def describe_exit(code: int) -> str:
    """Return an exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _set_aside_a_long_log(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LOG_MAX_BYTES:
        log.replace(log.with_suffix(".log.old"))
