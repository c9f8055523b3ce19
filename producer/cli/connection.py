"""Which way a command takes to the fleet: its HTTP API with a key, or its database on a machine that may reach it.

What stands on the command line wins over the environment. Nothing is guessed: where nothing says which fleet is meant,
the error names what to set.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from common.errors import FillfleetError

if TYPE_CHECKING:
    from common.settings import Settings
    from producer.doors.door import Door
    from producer.manifest.owner_objects import OwnerObjects

READY_FILE: Final = "ready.json"
IDENTITY_FILE: Final = "fillfleet.json"
"""What `fillfleet up --dir D` writes into D: where everything is, and what makes this system itself."""
DEFAULT_OWNER: Final = "local"
"""Whom `fillfleet up` makes its key for."""
PATIENCE_SECONDS: Final = 5.0
LONG_PATIENCE_SECONDS: Final = 120.0
"""How long a call goes on trying while the API is away; the long one where the work cannot begin anew."""
HOW: Final = (
    "nothing says which fleet is meant. Set FILLFLEET_URL and FILLFLEET_API_KEY (or --url and --key) for its HTTP API, "
    "FILLFLEET_SYSTEM (or --system) for the folder of a running `fillfleet up --dir`, or DATABASE_URL and the other "
    "settings for its database"
)


@dataclass(frozen=True)
class Access:
    """What the command line says of the way."""

    url: str | None = None
    key: str | None = None
    system: Path | None = None
    owner: str | None = None
    quiet: bool = False

    @property
    def again(self) -> str:
        """The same options, but for the key, for commands that are shown to the user; each with a space in front."""
        said = {"--url": self.url, "--system": self.system, "--owner": self.owner}
        return "".join(f" {name} {shlex.quote(str(value))}" for name, value in said.items() if value is not None)


@dataclass(frozen=True)
class Fleet:
    """A fleet that is connected to."""

    door: Door
    said: str
    """Where that is, for people."""
    settings: Settings | None = None
    """Those of the direct way; None through the API."""
    objects: OwnerObjects | None = None
    """The buckets as the owner may read them, in the direct way."""


@contextmanager
def connected(access: Access, *, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[Fleet]:
    """Connect, say on stderr to what, and close in the end. Raises FillfleetError, click.UsageError.

    `patience_seconds` is how long a call goes on trying while the API is away.
    """
    fleet = _connect(access, os.environ, patience_seconds)
    try:
        if not access.quiet:
            click.secho(f"fleet: {fleet.said}", err=True, dim=True)
        yield fleet
    finally:
        fleet.door.close()


def _connect(access: Access, environ: Mapping[str, str], patience: float) -> Fleet:
    if access.url is not None and (access.system is not None or access.owner is not None):
        other = "--system" if access.system is not None else "--owner"
        raise click.UsageError(f"--url and {other} are two different ways; give one of them (a key has its owner)")
    system = access.system
    if system is None and access.url is None and not environ.get("FILLFLEET_URL") and environ.get("FILLFLEET_SYSTEM"):
        system = Path(environ["FILLFLEET_SYSTEM"])
    if access.owner is not None:
        said = {} if system is None else system_settings(system)
        return _direct(said, access.owner, f"{system}" if system else "DATABASE_URL")
    if system is not None:
        ready = _read(system / READY_FILE, system)
        return _http(ready["api_url"], ready["api_key"], f"{system}", patience)
    url = access.url or environ.get("FILLFLEET_URL")
    if url:
        key = access.key or environ.get("FILLFLEET_API_KEY")
        if not key:
            raise click.UsageError("the API needs a key: set FILLFLEET_API_KEY (`fillfleet keys create` makes one)")
        return _http(url, key, "--url" if access.url else "FILLFLEET_URL", patience)
    if environ.get("DATABASE_URL"):
        return _direct({}, environ.get("FILLFLEET_OWNER") or DEFAULT_OWNER, "DATABASE_URL")
    raise click.UsageError(HOW)


def _http(url: str, key: str, source: str, patience: float) -> Fleet:
    from producer.doors.http import HttpDoor  # each way brings along what the other does not need

    door = HttpDoor(url, key, patience_seconds=patience, on_trouble=lambda text: click.echo(text, err=True))
    return Fleet(door, f"{door.name} (from {source})")


def _direct(said: Mapping[str, Any], owner: str, source: str) -> Fleet:
    from common.settings import Settings
    from producer.doors.direct import DirectDoor

    settings = Settings(**said)
    door = DirectDoor(settings, owner)
    return Fleet(door, f"{door.name} as owner {owner} (from {source})", settings, door.manifests)


def system_settings(system: Path) -> dict[str, Any]:
    """Return the settings of the system that `fillfleet up --dir` runs in this folder. Raises FillfleetError."""
    ready, identity = _read(system / READY_FILE, system), _read(system / IDENTITY_FILE, system)
    names = ("database_url", "redis_url", "s3_endpoint", "s3_bucket", "s3_access_key", "s3_secret_key")
    secrets = {name: identity[name] for name in ("api_key_secret", "webhook_secret") if identity.get(name)}
    # What `up` gives its own processes: servers on loopback, with passwords of their own.
    return {"fillfleet_env": "development", **{name: ready[name] for name in names}, **secrets}


def _read(path: Path, system: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_bytes())
        if isinstance(said, dict):
            return said
    except (OSError, ValueError):
        pass
    raise FillfleetError(
        "no_system", f"no system is running in {system}: start it with `fillfleet up --dir {shlex.quote(str(system))}`"
    )
