"""The folder of one embedded system: its lock, its passwords and its ports.

One system at a time uses a folder; the passwords are made once and live in a file that only its owner can read. A
folder that nobody named is a temporary one, which the guardian removes at the end, however the end comes.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from common.atomic_file import atomic_file
from common.webhook_signature import make_secret
from infra.embedded.errors import StartFailed

_IDENTITY: Final = "fillfleet.json"
_OWNER_LOCK: Final = "owner.lock"
"""Held by the process that runs the system."""
_LOCK: Final = "lock"
"""Held by that process and by its guardian, so it is free only when nothing runs in the folder any more."""
_CRASH_SECONDS: Final = 20.0
"""How long the guardian of a system that has crashed may still be stopping its servers."""


def _secret() -> str:
    return secrets.token_urlsafe(24)


@dataclass
class Identity:
    """What makes this folder's system itself: made once, kept in the folder."""

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    redis_password: str = field(default_factory=_secret)
    postgres_password: str = field(default_factory=_secret)
    s3_access_key: str = field(default_factory=lambda: "fillfleet-" + secrets.token_hex(5))
    s3_secret_key: str = field(default_factory=_secret)
    s3_signing_key: str = field(default_factory=_secret)
    """Signs what the S3 server's own parts say to each other."""
    api_key_secret: str = field(default_factory=_secret)
    webhook_secret: str = field(default_factory=make_secret)
    flower_password: str = field(default_factory=_secret)
    api_key: str | None = None
    ports: dict[str, int] = field(default_factory=dict)
    """The ports of the last time by name, taken again where they are free, so that links stay valid."""


class Home:
    """An embedded system's folder, locked for this process."""

    def __init__(self, directory: Path | None = None) -> None:
        """Open or make the folder, a temporary one for None. Raises StartFailed where it is in use or not ours."""
        self.temporary = directory is None
        self.directory = _make_folder(directory)
        self._owner_descriptor = _lock_as_owner(self.directory)
        self.lock_descriptor = -1
        try:
            self.lock_descriptor = _lock_after_a_crash(self.directory)
            self.identity = self._read_identity()
            self.logs = self.directory / "logs"
            self.logs.mkdir(mode=0o700, exist_ok=True)
            self.save()
        except BaseException:
            self.close()
            raise

    def save(self) -> None:
        """Write the identity down, readable by the owner alone."""
        with atomic_file(self.directory / _IDENTITY, private=True) as file:
            file.write(json.dumps(asdict(self.identity), indent=2).encode())

    def log(self, name: str) -> Path:
        """Return where the output of `name` goes."""
        return self.logs / f"{name}.log"

    def close(self) -> None:
        """Let go of the locks; the folder is free once the guardian, which holds one of them too, is gone."""
        for descriptor in (self.lock_descriptor, self._owner_descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self.lock_descriptor = self._owner_descriptor = -1

    def _read_identity(self) -> Identity:
        path = self.directory / _IDENTITY
        if not path.exists():
            return Identity()
        if path.stat().st_uid != os.geteuid():
            raise StartFailed(
                f"{self.directory} belongs to user id {path.stat().st_uid} and you are {os.geteuid()}: "
                "start it as that user, or name another folder with --dir"
            )
        try:
            return Identity(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise StartFailed(
                f"{path} cannot be read ({error}). It holds the servers' passwords: restore it, or name another folder"
            ) from error


def _make_folder(directory: Path | None) -> Path:
    # Under root, PostgreSQL runs as somebody else, who must be able to walk through this folder (not to list it).
    mode = 0o711 if os.geteuid() == 0 else 0o700
    if directory is None:
        made = Path(tempfile.mkdtemp(prefix="fillfleet-")).resolve()
        made.chmod(mode)
        return made
    try:
        if not directory.exists():
            directory.mkdir(parents=True)
            directory.chmod(mode)
        resolved = directory.resolve()
        if not os.access(resolved, os.R_OK | os.W_OK | os.X_OK) or not resolved.is_dir():
            raise StartFailed(f"{directory} is not a folder that you may write to: name another one with --dir")
    except OSError as error:
        raise StartFailed(f"{directory} cannot be used as a folder: {error.strerror}") from error
    return resolved


def _lock_as_owner(directory: Path) -> int:
    """Return a descriptor that holds the owner's lock. Raises StartFailed where another system runs here."""
    descriptor = _open_lock(directory / _OWNER_LOCK)
    if not _try_lock(descriptor):
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise StartFailed(
            f"another fillfleet (process {holder or 'unknown'}) runs in {directory}: "
            "stop it first, or name another folder with --dir"
        )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _lock_after_a_crash(directory: Path) -> int:
    """Return a descriptor that holds the lock, once the guardian of a system that crashed here has cleared up."""
    descriptor = _open_lock(directory / _LOCK)
    deadline = time.monotonic() + _CRASH_SECONDS
    while not _try_lock(descriptor):
        if time.monotonic() > deadline:
            os.close(descriptor)
            raise StartFailed(f"servers of a system that crashed still run in {directory}: end them, then try again")
        time.sleep(0.05)
    return descriptor


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartFailed(
            f"{path.parent} cannot be used ({error.strerror}): it may be another user's; name another one with --dir"
        ) from error


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
