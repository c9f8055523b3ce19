"""The three real servers together: started in one folder, known by their URLs, stopped without a trace.

    with EmbeddedServers() as servers:
        subprocess.run([...], env={**os.environ, **servers.environment()})

They never outlive this process, however it ends.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from infra.embedded.home import Home
from infra.embedded.ports import PortClaims
from infra.embedded.postgres import PostgresPlan
from infra.embedded.process import Guardian
from infra.embedded.seaweedfs import BUCKET, REGION, SeaweedPlan
from infra.embedded.server import Server
from infra.embedded.unprivileged import private_folder, unprivileged_user
from infra.embedded.valkey import ValkeyPlan

_TEST: Final = "test"


class EmbeddedServers:
    """Valkey, PostgreSQL and SeaweedFS on loopback. `redis`, `postgres` and `s3` are the servers, to kill and start."""

    home: Home
    guardian: Guardian
    claims: PortClaims
    redis: Server
    postgres: Server
    s3: Server
    redis_url: str
    database_url: str
    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: str
    s3_bucket: str

    def __init__(self, *, durable: bool = True) -> None:
        """With durable=False nothing is flushed to disk: for tests, in which servers crash but not the machine."""
        self._durable = durable
        self.opened = False
        """Whether the folder is open and locked: from `open` or `start` until `stop`."""

    def open(self, directory: Path | None = None) -> None:
        """Make and lock the folder, a temporary one by default. Raises StartFailed where another system runs in it."""
        self.home = Home(directory)
        self.claims = PortClaims()
        self.opened = True

    def start(self, directory: Path | None = None) -> Self:
        """Start all three in `directory` (unless `open` came before) and return once each answers with its password.

        A folder of an earlier time goes on with its data. Raises StartFailed, with all stopped again.
        """
        if not self.opened:
            self.open(directory)
        try:
            self._start_servers()
        except BaseException:
            self.stop()
            raise
        return self

    def environment(self) -> dict[str, str]:
        """Return what a child process needs in its environment to use these servers."""
        test = os.environ.get("FILLFLEET_ENV") == _TEST
        return {
            "FILLFLEET_ENV": _TEST if test else "development",
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "S3_ENDPOINT": self.s3_endpoint,
            "S3_PUBLIC_ENDPOINT": self.s3_endpoint,
            "S3_REGION": REGION,
            "S3_BUCKET": self.s3_bucket,
            "S3_ACCESS_KEY": self.s3_access_key,
            "S3_SECRET_KEY": self.s3_secret_key,
            "API_KEY_SECRET": self.home.identity.api_key_secret,
            "WEBHOOK_SECRET": self.home.identity.webhook_secret,
        }

    def servers(self) -> tuple[Server, Server, Server]:
        """Return all three."""
        return (self.redis, self.postgres, self.s3)

    def pids(self) -> dict[str, int]:
        """Return each server's process id by name: valkey, postgres, seaweedfs."""
        return {server.name: server.pid for server in self.servers()}

    def stop(self) -> None:
        """Stop all three in an orderly way; a temporary folder is removed. Does nothing the second time."""
        if not self.opened:
            return
        guardian: Guardian | None = getattr(self, "guardian", None)
        try:
            if guardian is not None:
                self._stop_servers()
        finally:
            if guardian is not None:
                guardian.close()
            self.claims.release()
            self.home.close()
            self.opened = False

    def _start_servers(self) -> None:
        home = self.home
        user = unprivileged_user()
        folder = private_folder(home, user)
        remove = [home.directory, folder] if home.temporary else []
        self.guardian = Guardian(log=home.log("guardian"), keep_open=[home.lock_descriptor], remove=remove)
        valkey = ValkeyPlan(home, durable=self._durable)
        postgres = PostgresPlan(home, self.guardian, folder, user, durable=self._durable)
        seaweed = SeaweedPlan(home)
        plans = (valkey, postgres, seaweed)
        known = home.identity.ports
        self.redis, self.postgres, self.s3 = (Server(plan, self.guardian, self.claims, known) for plan in plans)
        for server in (self.s3, self.redis, self.postgres):  # the slowest first: they start side by side
            server.launch()
        for server in self.servers():
            server.finish()
            home.identity.ports.update(server.ports)
        home.save()
        self.redis_url = valkey.url
        self.database_url = postgres.url
        self.s3_endpoint = seaweed.endpoint
        self.s3_access_key = home.identity.s3_access_key
        self.s3_secret_key = home.identity.s3_secret_key
        self.s3_bucket = BUCKET

    def _stop_servers(self) -> None:
        """Ask all, then wait for each: together they take as long as the slowest."""
        servers = [server for server in (getattr(self, name, None) for name in ("redis", "postgres", "s3")) if server]
        for server in servers:
            server.ask_to_stop()
        for server in servers:
            server.stop()

    def __enter__(self) -> Self:
        return self if self.opened else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
