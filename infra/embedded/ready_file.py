"""The ready file: where everything is, with the passwords, for scripts that wait until the system is up."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from common.atomic_file import atomic_file

READY_FILE: Final = "ready.json"
"""Its name in the system's own folder, where there is always one."""


@dataclass(frozen=True)
class Ready:
    """What the ready file says. `pids` is by name: valkey, postgres, seaweedfs, api, dispatcher, worker, flower."""

    api_url: str
    api_key: str
    flower_url: str
    flower_user: str
    flower_password: str
    redis_url: str
    database_url: str
    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: str
    s3_bucket: str
    pids: dict[str, int]


def write_ready(path: Path, ready: Ready) -> None:
    """Write the file in one step, readable by its owner alone."""
    with atomic_file(path, private=True) as file:
        file.write(json.dumps(asdict(ready), indent=2).encode() + b"\n")
