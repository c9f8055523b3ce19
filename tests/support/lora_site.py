"""A server that LoRAs come from, for tests: plain files, and a hub with a history."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Site(ThreadingHTTPServer):
    """A server of files by path, that is also a hub: `repos` has the files of each by name, at the newest commit."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.host = f"127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commit = COMMIT
        self.history: dict[tuple[str, str], dict[str, bytes]] = {}
        self.statuses: dict[str, int] = {}
        self.headers: dict[str, str] = {}
        self.tells_sha256 = True
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.pause = 0.0

    def count(self, path: str) -> int:
        """Return how often a path was asked for."""
        return self.requests.count(path)

    def push(self, repo: str, files: dict[str, bytes], commit: str) -> None:
        """Make a new commit in a repository."""
        self.history[repo, self.commit] = self.repos[repo]
        self.repos[repo], self.commit = files, commit

    def at(self, repo: str, commit: str) -> dict[str, bytes] | None:
        """Return the files of a repository at a commit."""
        return self.repos.get(repo) if commit == self.commit else self.history.get((repo, commit))


class _Answer(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        site, path = self.server, unquote(self.path.split("?")[0])
        site.requests.append(path)
        site.tokens.add(self.headers.get("Authorization"))
        time.sleep(site.pause)
        if path in site.statuses:
            return self._send(site.statuses[path], b"no", *site.headers.items())
        if path.startswith("/api/models/"):
            return self._model(path.removeprefix("/api/models/"))
        body = site.files.get(path)
        if "/resolve/" in path:
            repo, _, place = path[1:].partition("/resolve/")
            commit, _, name = place.partition("/")
            body = (site.at(repo, commit) or {}).get(name)
        return self._send(404, b"nothing") if body is None else self._send(200, body)

    def _model(self, wish: str) -> None:
        repo, _, commit = wish.partition("/revision/")
        commit = commit or self.server.commit
        if repo not in self.server.repos:
            return self._send(404, b"{}", ("X-Error-Code", "RepoNotFound"))
        files = self.server.at(repo, commit)
        if files is None:
            return self._send(404, b"{}", ("X-Error-Code", "RevisionNotFound"))
        siblings = [
            {"rfilename": name, "size": len(data)}
            | (
                {"lfs": {"sha256": sha256_of(data), "size": len(data), "pointerSize": 1}}
                if self.server.tells_sha256
                else {}
            )
            for name, data in files.items()
        ]
        table = {"id": repo, "sha": commit, "private": False, "tags": [], "downloads": 0, "likes": 0}
        return self._send(200, json.dumps(table | {"siblings": siblings}).encode())

    def _send(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Length", str(len(body))), ("Content-Type", "application/json"), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running_site() -> Iterator[Site]:
    """Serve until the block ends."""
    started = Site()
    thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield started
    started.shutdown()
    thread.join()
    started.server_close()
