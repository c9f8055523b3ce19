"""A plain client of the HTTP API: what anyone with a key and `requests` can do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import requests

from common.contract import Queue, Status
from common.urls import shown

_SECONDS: Final = 60.0
PRIORITY_HEADER: Final = "X-Fillfleet-Priority"


class ApiError(Exception):
    """The API, or the bucket, answered something else than success; the message is what it said."""


@dataclass(frozen=True)
class Prediction:
    """A job as the API tells of it. `timings` are milliseconds; `flags` is one has_nsfw_contents per output."""

    id: str
    model: str
    status: Status
    outputs: tuple[str, ...]
    flags: tuple[object, ...]
    seeds: tuple[int, ...]
    error: str
    error_code: str
    created_at: str
    timings: dict[str, int]
    model_version: dict[str, str]

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Self:
        """Return what `data` of the envelope says. Raises KeyError or ValueError where it breaks the contract."""
        return cls(
            id=data["id"],
            model=data["model"],
            status=Status(data["status"]),
            outputs=tuple(data["outputs"]),
            flags=tuple(data["has_nsfw_contents"]),
            seeds=tuple(data.get("seeds", ())),
            error=data["error"],
            error_code=data.get("error_code", ""),
            created_at=data["created_at"],
            timings=dict(data["timings"]),
            model_version=dict(data.get("model_version") or {}),
        )


class Client:
    """One key's view of the API. All methods raise ApiError, and requests.RequestException where nobody answers."""

    def __init__(self, api_url: str, key: str) -> None:
        self._root = f"{api_url.rstrip('/')}/api"
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy of the environment is not for loopback
        self._key = {"Authorization": f"Bearer {key}"}

    def upload_form(self, version: str, name: str, data: bytes, content_type: str) -> str:
        """Upload through the API; return the link by which a request names the file."""
        files = {"file": (name, data, content_type)}
        return str(self._call("POST", f"{version}/media/upload/binary", files=files)["download_url"])

    def upload_by_ticket(self, version: str, name: str, data: bytes, content_type: str) -> str:
        """Ask for a link, PUT the file there, straight into the bucket; return the link for requests."""
        wish = {"filename": name, "size": len(data), "content_type": content_type}
        ticket = self._call("POST", f"{version}/media/uploads", json=wish)
        put = ticket["upload"]
        response = self._session.request(
            put["method"], put["url"], data=data, headers=put.get("headers", {}), timeout=_SECONDS
        )
        _check(response)
        return str(ticket["download_url"])

    def submit(self, version: str, model: str, body: dict[str, Any]) -> Prediction:
        """Queue one request, before what is filled in bulk."""
        headers = {PRIORITY_HEADER: Queue.INTERACTIVE.value}
        return Prediction.from_wire(self._call("POST", f"{version}/{model}", json=body, headers=headers))

    def result(self, prediction: str) -> Prediction:
        """Return how far a job is, a row of a batch included."""
        return Prediction.from_wire(self._call("GET", f"v3/predictions/{prediction}/result"))

    def batch(self, name: str) -> dict[str, Any] | None:
        """Return what the API tells of the batch of that name, or None where there is none."""
        items = self._call("GET", "v3/batches", params={"name": name})["items"]
        return dict(items[0]) if items else None

    def rows(self, batch: str, *, ended: bool = False) -> list[dict[str, Any]]:
        """Return the rows of the batch of that name, as they are now; with `ended` only those that have ended."""
        params = {"status": f"{Status.COMPLETED},{Status.FAILED}"} if ended else {}
        response = self._session.get(
            f"{self._root}/v3/batches/{quote(batch, safe='')}/results",
            params=params,
            headers=self._key,
            timeout=_SECONDS,
        )
        _check(response)
        return [json.loads(line) for line in response.content.splitlines()]

    def download(self, url: str) -> bytes:
        """Return the file behind an output's link. The key is not sent: the link alone opens it."""
        response = self._session.get(url, timeout=_SECONDS)
        _check(response)
        return response.content

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: str, path: str, *, headers: dict[str, str] | None = None, **sent: Any) -> dict[str, Any]:
        response = self._session.request(
            method, f"{self._root}/{path}", headers={**self._key, **(headers or {})}, timeout=_SECONDS, **sent
        )
        _check(response)
        data = response.json()["data"]
        if not isinstance(data, dict):
            raise ApiError(f"{method} {path}: the answer has no data")
        return data


def _check(response: requests.Response) -> None:
    if response.ok:
        return
    asked = f"{response.request.method} {shown(response.url)}"
    try:
        said = str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        said = response.text[:300]
    raise ApiError(f"{asked}: HTTP {response.status_code}: {said}")
