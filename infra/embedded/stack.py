"""The whole system on one machine: servers, migrations, API, dispatcher, workers and Flower.

Started in the order in which they need each other, watched while they run, stopped from the outside in: first who takes
jobs, last the servers. What it must never do is leave a process behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Never

from common.settings import Settings
from infra.embedded.errors import StartFailed
from infra.embedded.ports import LOOPBACK, is_free
from infra.embedded.process import Program, describe_exit
from infra.embedded.readiness import accepts_key, answers, database_time, workers_seen
from infra.embedded.ready_file import READY_FILE, Ready, write_ready
from infra.embedded.servers import EmbeddedServers
from infra.embedded.services import COMMAND, RunningService, Service, service_environment, service_table
from infra.embedded.supervisor import Part, Supervisor

OWNER: Final = "local"
FLOWER_USER: Final = "fillfleet"
_ONE_SHOT_SECONDS: Final = 300.0
_HTTP_READY_SECONDS: Final = 120.0
_REMIND_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.25


@dataclass(frozen=True)
class StackOptions:
    """What `fillfleet up` was asked for."""

    directory: Path | None = None
    ready_file: Path | None = None
    port: int | None = None
    workers: int = 1
    command: Sequence[str] = COMMAND


class Stack:
    """Everything that runs. Call `start`, then `watch` until something raises, and `stop` in any case."""

    def __init__(self, options: StackOptions, say: Callable[[str], None]) -> None:
        self.servers = EmbeddedServers()
        self.ready: Ready | None = None
        self._options = options
        self._say = say
        self._services: list[RunningService] = []
        self._environment: dict[str, str] = {}

    def start(self) -> Ready:
        """Start all and return once all are ready. Raises StartFailed, ValidationError; `stop` has to follow then."""
        began = time.monotonic()
        options = self._options
        if options.port is not None and not is_free(options.port):
            raise StartFailed(f"port {options.port} of {LOOPBACK} is taken: name another one with --port")
        self.servers.open(options.directory)
        self._remove_ready_files()  # whoever waits for one must not read the last time's
        self.servers.start()
        self._say(f"servers are up in {self.servers.home.directory}")
        settings = self._prepare_environment()
        self._run_once("migrate", [*options.command, "migrate"])
        self._say("database is migrated")
        self._services = [self._service(service) for service in self._choose_services(settings)]
        since = database_time(self.servers.database_url)
        workers = [service for service in self._services if service.service.arguments == ("worker",)]
        for service in self._services:
            if service not in workers:
                service.start()
        for worker in workers:
            worker.start()
        ready = self._wait_until_ready(len(workers), since)
        self._publish(ready)
        self._say(f"all is ready after {time.monotonic() - began:.1f} s")
        return ready

    def watch(self) -> Never:
        """Start again whatever ends, for ever. Raises GuardianLost."""
        supervisor = Supervisor([*self.servers.servers(), *self._services], say=self._say)
        while True:
            if supervisor.look() and self.ready is not None:
                self._publish(replace(self.ready, pids=self._pids()))
            time.sleep(_LOOK_SECONDS)

    def stop(self, hurry: threading.Event) -> None:
        """Stop all in order. Once `hurry` is set nobody is waited for, so jobs that run are left for the next time."""
        try:
            self._remove_ready_files()
            for group in _groups(self._services):
                _stop_together(group, hurry, self._say)
        finally:
            self.servers.stop()

    def _prepare_environment(self) -> Settings:
        identity = self.servers.home.identity
        self._environment = service_environment(
            {**os.environ, **self.servers.environment()},
            flower_user=FLOWER_USER,
            flower_password=identity.flower_password,
        )
        # Checked here already: a mistake in the environment is then one line, and not the end of some log.
        known = {name: self._environment.get(name.upper()) for name in Settings.model_fields}
        return Settings.model_validate({name: value for name, value in known.items() if value})

    def _choose_services(self, settings: Settings) -> list[Service]:
        claims, known = self.servers.claims, self.servers.home.identity.ports
        known["api"] = self._options.port or claims.claim(known.get("api"))
        known["flower"] = claims.claim(known.get("flower"))
        self.servers.home.save()
        return service_table(
            api_port=known["api"],
            flower_port=known["flower"],
            workers=self._options.workers,
            drain_seconds=settings.drain_seconds,
        )

    def _service(self, service: Service) -> RunningService:
        return RunningService(
            service,
            self.servers.guardian,
            command=self._options.command,
            env=self._environment,
            log=self.servers.home.log(service.name),
        )

    def _one_shot(self, name: str, argv: Sequence[str]) -> Program:
        return Program(name=name, argv=argv, log=self.servers.home.log(name), env=self._environment, cwd=Path.cwd())

    def _run_once(self, name: str, argv: Sequence[str]) -> None:
        self.servers.guardian.run(self._one_shot(name, argv), seconds=_ONE_SHOT_SECONDS)

    def _wait_until_ready(self, workers: int, since: str) -> Ready:
        identity, ports = self.servers.home.identity, self.servers.home.identity.ports
        api_url, flower_url = (f"http://{LOOPBACK}:{ports[name]}" for name in ("api", "flower"))
        flower_login = (FLOWER_USER, identity.flower_password)
        self._wait("the API", lambda: answers(f"{api_url}/readyz"), _HTTP_READY_SECONDS)
        self._wait("Flower", lambda: answers(flower_url, login=flower_login), _HTTP_READY_SECONDS)
        # Loading a real model, and downloading it the first time, takes as long as it takes.
        self._wait(
            "the worker (loading the model)", lambda: workers_seen(self.servers.database_url, since) >= workers, None
        )
        return Ready(
            api_url=api_url,
            api_key=self._api_key(api_url),
            flower_url=flower_url,
            flower_user=FLOWER_USER,
            flower_password=identity.flower_password,
            redis_url=self.servers.redis_url,
            database_url=self.servers.database_url,
            s3_endpoint=self.servers.s3_endpoint,
            s3_access_key=self.servers.s3_access_key,
            s3_secret_key=self.servers.s3_secret_key,
            s3_bucket=self.servers.s3_bucket,
            pids=self._pids(),
        )

    def _wait(self, what: str, is_ready: Callable[[], bool], seconds: float | None) -> None:
        began = time.monotonic()
        remind = began + _REMIND_SECONDS
        while not is_ready():
            self._check_that_all_live()
            now = time.monotonic()
            if seconds is not None and now - began > seconds:
                raise StartFailed(f"{what} was not ready within {seconds:.0f} s: see {self.servers.home.logs}")
            if now > remind:
                self._say(f"still waiting for {what}: {now - began:.0f} s so far")
                remind = now + _REMIND_SECONDS
            time.sleep(0.1)

    def _check_that_all_live(self) -> None:
        started = [service for service in self._services if service.started]
        parts: list[Part] = [*self.servers.servers(), *started]
        for part in parts:
            code = part.exit_code()
            if code is not None:
                raise StartFailed(f"{part.name} ended with {describe_exit(code)} while starting. {part.last_words()}")

    def _api_key(self, api_url: str) -> str:
        """Return the folder's key, a new one where there is none yet or it was revoked."""
        identity = self.servers.home.identity
        if identity.api_key is None or not accepts_key(api_url, identity.api_key):
            identity.api_key = self._create_key()
            self.servers.home.save()
        return identity.api_key

    def _create_key(self) -> str:
        # Not through the guardian: what it runs writes to a log, which is no place for a key.
        done = subprocess.run(
            [*self._options.command, "keys", "create", "--owner", OWNER, "--json"],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise StartFailed(f"no API key could be made: {done.stderr.strip()[-2000:]}")
        return str(json.loads(done.stdout)["key"])

    def _pids(self) -> dict[str, int]:
        return {**self.servers.pids(), **{service.name: service.pid for service in self._services}}

    def _ready_files(self) -> list[Path]:
        """Return where the ready file goes. Nowhere before the folder is ours: the files may be another system's."""
        if not self.servers.opened:
            return []
        named = [self._options.ready_file] if self._options.ready_file else []
        return [self.servers.home.directory / READY_FILE, *named]

    def _remove_ready_files(self) -> None:
        for path in self._ready_files():
            path.unlink(missing_ok=True)

    def _publish(self, ready: Ready) -> None:
        self.ready = ready
        for path in self._ready_files():
            write_ready(path, ready)


def _groups(services: Iterable[RunningService]) -> list[list[RunningService]]:
    """Return what is stopped together, in order: one service each, all workers at once."""
    groups: dict[str, list[RunningService]] = {}
    for service in services:
        if service.started:
            groups.setdefault(service.service.arguments[0], []).append(service)
    return list(groups.values())


def _stop_together(group: Sequence[RunningService], hurry: threading.Event, say: Callable[[str], None]) -> None:
    for service in group:
        service.process.ask_to_stop()
    began = time.monotonic()
    said = False
    for service in group:
        deadline = began + service.service.stop_seconds
        while service.exit_code() is None:
            if hurry.is_set() or time.monotonic() > deadline:
                service.process.kill()
            elif not said and time.monotonic() - began > 3:
                say(f"waiting for {service.name} to finish what it runs (once more to not wait)")
                said = True
            time.sleep(0.05)
