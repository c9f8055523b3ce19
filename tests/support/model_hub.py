"""A hub that models come from, for tests: folders behind the hub's own HTTP API, open or gated."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from huggingface_hub import metadata_load

FILL: Final = "black-forest-labs/FLUX.1-Fill-dev"
FILL_PAGES: Final = f"https://huggingface.co/{FILL}"
FILL_PROMPT: Final = (
    f'By clicking "Agree", you agree to the [FluxDev Non-Commercial License Agreement]({FILL_PAGES}/blob/main/'
    f"LICENSE.md)\n  and acknowledge the [Acceptable Use Policy]({FILL_PAGES}/blob/main/POLICY.md)."
)
FILL_CARD: Final = f"""---
language:
- en
license: other
license_name: flux-1-dev-non-commercial-license
license_link: LICENSE.md
extra_gated_prompt: {FILL_PROMPT}
tags:
- image-generation
- flux
---

`FLUX.1 Fill [dev]` is a rectified flow transformer.
"""
"""The metadata of the real model's card, as the hub has it."""
COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"


class ModelHub(ThreadingHTTPServer):
    """A server of one commit of each model. Of a gated one anybody may read the metadata, and only `token` the files.

    `refused` are files that it answers with HTTP 503; those of `held` it does not give away before their event is set.
    """

    daemon_threads = True

    def __init__(self, models: Mapping[str, Path], *, token: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.models = dict(models)
        self.token = token
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[str] = []
        self.refused: set[str] = set()
        self.held: dict[str, threading.Event] = {}

    def environment(self, home: Path) -> dict[str, str]:
        """Return what makes a process ask this hub and keep what it gets in `home`."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}

    def facts(self, name: str, folder: Path) -> dict[str, Any]:
        """Return what the hub says of a model."""
        card = folder / "README.md"
        return {
            "_id": "1",
            "id": name,
            "sha": COMMIT,
            "gated": "auto" if self.token else False,
            "cardData": (metadata_load(card) or {}) if card.is_file() else {},
            "siblings": [{"rfilename": path, "size": size} for path, size in _files(folder).items()],
        }


class _Answer(BaseHTTPRequestHandler):
    server: ModelHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0])
        self.server.asked.append(f"{self.command} {path}")
        owner, name, *wish = path.removeprefix("/api/models").strip("/").split("/")
        folder = self.server.models.get(f"{owner}/{name}")
        if folder is None:
            return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        match wish:
            case ["resolve", _commit, *file]:
                return self._file(folder, "/".join(file))
            case ["tree", *_]:
                files = _files(folder).items()
                return self._json([{"type": "file", "path": path, "size": size, "oid": "0"} for path, size in files])
            case _:
                return self._json(self.server.facts(f"{owner}/{name}", folder))

    do_HEAD = do_GET  # noqa: N815 - the base class's name

    def _file(self, folder: Path, path: str) -> None:
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._send(401, b"", {"X-Error-Code": "GatedRepo"})
        if path in self.server.refused:
            return self._send(503, b"")
        if path not in _files(folder):
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        data = (folder / path).read_bytes()
        if path in self.server.held and self.command == "GET":
            self.server.held[path].wait(60)
        etag = hashlib.sha256(data).hexdigest()
        return self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


def _files(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
    }


@contextmanager
def running_hub(models: Mapping[str, Path], *, token: str | None = None) -> Iterator[ModelHub]:
    """Yield a hub that runs."""
    hub = ModelHub(models, token=token)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


def with_card(model: Path, target: Path, card: str | None) -> Path:
    """Make a copy of a model's folder that has this card, or none; weights are shared where the disk allows it."""
    shutil.copytree(model, target, copy_function=_link)
    (target / "README.md").unlink(missing_ok=True)
    if card is not None:
        (target / "README.md").write_text(card)
    return target


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
