"""The guardian: a small process that starts all others, so that none of them outlives whoever asked for them.

It is run as a script (`python -I -S guardian.py …`) in a session of its own and takes orders over a socket. When the
socket closes, or its parent is gone for any reason (SIGKILL too), it stops what runs, removes what is to be removed,
and exits. It must never import more than the standard library, start a thread, or end while a process of its own runs.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_TICK_SECONDS = 0.25
"""How often it looks whether its parent still lives; a closed socket is noticed at once."""
_PR_SET_PDEATHSIG = 1


class Ward:
    """One process that the guardian runs, and how it is to end."""

    def __init__(self, order: dict[str, Any], child: subprocess.Popen[bytes]) -> None:
        self.child = child
        self.stop_signal = int(order["stop_signal"])
        self.crash_seconds = float(order["crash_seconds"])
        self.leftovers = [Path(name) for name in order["leftovers"]]

    def exit_code(self) -> int | None:
        """Return how it ended, or None while it runs. What it left behind goes with it."""
        ended = self.child.returncode is not None
        code = self.child.poll()
        if code is not None and not ended:
            self._send_to_group(signal.SIGKILL)  # whoever it started itself
            for path in self.leftovers:
                path.unlink(missing_ok=True)
        return code

    def send(self, number: int) -> bool:
        """Send a signal to the process (SIGKILL: to all that it started, too); return whether it still ran."""
        if self.exit_code() is not None:
            return False
        if number == signal.SIGKILL:
            self._send_to_group(number)
        else:
            self.child.send_signal(number)
        return True

    def _send_to_group(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS says EPERM of a group of zombies
            os.killpg(self.child.pid, number)


class Guardian:
    """The orders it takes, and the end that it brings."""

    def __init__(self, control: socket.socket, parent: int, remove: list[Path]) -> None:
        self.control = control
        self.parent = parent
        self.remove = remove
        self.wards: dict[int, Ward] = {}
        self._received = b""
        self._die_with_me = _death_signal_setter()

    def serve(self) -> None:
        """Take orders until the parent hangs up or is gone."""
        while os.getppid() == self.parent:
            readable, _, _ = select.select([self.control], [], [], _TICK_SECONDS)
            for ward in self.wards.values():
                ward.exit_code()
            if not readable:
                continue
            try:
                received = self.control.recv(65536)
            except ConnectionError:
                return
            if not received:
                return
            self._received += received
            while b"\n" in self._received:
                line, self._received = self._received.split(b"\n", 1)
                self._answer(json.loads(line))

    def _answer(self, order: dict[str, Any]) -> None:
        try:
            answer = {"result": getattr(self, f"do_{order['do']}")(order)}
        except Exception as error:  # noqa: BLE001 - whatever it is, the asker has to know and the others live on
            answer = {"error": f"{type(error).__name__}: {error}"}
        answer["id"] = order["id"]
        with suppress(OSError):  # the parent is gone: the next look at it ends the loop
            self.control.sendall(json.dumps(answer).encode() + b"\n")

    def do_spawn(self, order: dict[str, Any]) -> int:
        """Start a process in a session of its own, so that the terminal's Ctrl-C does not reach it; return its pid."""
        user = order["user"]
        identity = {"user": user[0], "group": user[1], "extra_groups": []} if user else {}
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            child = subprocess.Popen(
                order["argv"],
                cwd=order["cwd"],
                env=order["env"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
                preexec_fn=self._die_with_me,  # safe: this process has one thread
                **identity,
            )
        finally:
            os.close(log)
        self.wards[child.pid] = Ward(order, child)
        return child.pid

    def do_exit_code(self, order: dict[str, Any]) -> int | None:
        """Return how a process ended (minus the signal's number if by a signal), or None while it runs."""
        return self.wards[order["pid"]].exit_code()

    def do_signal(self, order: dict[str, Any]) -> bool:
        """Send a signal; return whether the process still ran."""
        return self.wards[order["pid"]].send(int(order["signal"]))

    def do_forget(self, order: dict[str, Any]) -> None:
        """Drop an ended process from the books."""
        if self.wards[order["pid"]].exit_code() is not None:
            del self.wards[order["pid"]]

    def end(self) -> None:
        """Stop all that runs, in seconds: those that lose nothing by SIGKILL at once, the servers in an orderly way."""
        started = time.monotonic()
        for ward in self.wards.values():
            ward.send(ward.stop_signal if ward.crash_seconds > 0 else signal.SIGKILL)
        while running := [ward for ward in self.wards.values() if ward.exit_code() is None]:
            for ward in running:
                if time.monotonic() - started > ward.crash_seconds:
                    ward.send(signal.SIGKILL)
            time.sleep(0.02)
        for folder in self.remove:
            shutil.rmtree(folder, ignore_errors=True)


def _death_signal_setter() -> Callable[[], None] | None:
    """Return what a child calls before exec so that Linux kills it with the guardian; only Linux knows that."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    guardian = os.getpid()

    def die_with_guardian() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guardian:
            os._exit(1)

    return die_with_guardian


def main() -> None:
    """`guardian.py CONTROL_FD PARENT_PID [FOLDER_TO_REMOVE…]`"""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A service manager may signal everyone at once; the orderly stop is the parent's to lead. A handler that does
        # nothing, and not SIG_IGN, which all children would inherit.
        signal.signal(number, lambda _number, _frame: None)
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    guardian = Guardian(control, int(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
    try:
        guardian.serve()
    finally:
        guardian.end()


if __name__ == "__main__":
    main()
