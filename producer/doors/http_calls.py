"""Calls of our HTTP API: with the key, time-outs and tries again, and every answer but success as an error in words.

All calls of our batch routes may be repeated, so that trouble on the way is waited out here, for some minutes. No
message names the key.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import requests
from pydantic import BaseModel, ValidationError
from requests.exceptions import ChunkedEncodingError, ContentDecodingError, SSLError

from common.contract import InvalidRequest, Problem
from common.errors import FillfleetError, Rejected, Transient
from common.retry_after import retry_after_seconds
from common.telemetry import get_logger
from common.urls import BadUrl, shown, split_http_url

log = get_logger(__name__)
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

PATIENCE_SECONDS: Final = 120.0
_CONNECT_SECONDS: Final = 10.0
_READ_SECONDS: Final = 120.0
"""A chunk of rows takes seconds, and may wait for the chunk of somebody else before."""
_LONGEST_PAUSE_SECONDS: Final = 15.0
_AWAY: Final = frozenset({429, 502, 503, 504})
_LOOPBACK: Final = re.compile(r"localhost|127(?:\.\d+){3}|::1")
_API_PATH: Final = re.compile(r"/+(api(/v\d+)?/*)?$")
TROUBLE: Final = (requests.ConnectionError, requests.Timeout, ChunkedEncodingError, ContentDecodingError)
"""What passes by itself, most of the time."""


class _Away(Exception):
    """The server cannot answer now."""

    def __init__(self, message: str, pause_seconds: float | None) -> None:
        super().__init__(message)
        self.pause_seconds = pause_seconds


class _KeyHeader(requests.auth.AuthBase):
    """Puts a header (or, without a key, nothing) where requests would put what a .netrc file says."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class Patience:
    """How long to go on trying; it begins anew when something got through."""

    def __init__(self, seconds: float, on_trouble: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._on_trouble = on_trouble
        self.refresh()

    def refresh(self) -> None:
        """Begin anew: something got through."""
        self._until = time.monotonic() + self._seconds
        self._tries = 0

    def wait(self, message: str, asked_seconds: float | None) -> None:
        """Wait for the next try. Raises Transient where the patience is at its end before."""
        pause = min(_LONGEST_PAUSE_SECONDS, 0.5 * 2.0**self._tries) * random.uniform(0.5, 1.0)  # noqa: S311 - a pause
        pause = max(pause, asked_seconds or 0.0)
        if time.monotonic() + pause > self._until:
            raise Transient("fleet_away", f"{message}; tried again for {self._seconds:g} s: repeat this later")
        if self._tries == 0:
            self._on_trouble(f"{message}; trying again")
        self._tries += 1
        time.sleep(pause)


class Calls:
    """Calls below one address, for any number of threads."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        """Raises Rejected (url_invalid, key_missing)."""
        try:
            split_http_url(url)
        except BadUrl as error:
            raise Rejected("url_invalid", f"FILLFLEET_URL: {shown(url)} {error}; write it like https://host") from None
        if not key.strip() or not key.isascii() or not key.strip().isprintable():
            raise Rejected("key_missing", f"FILLFLEET_API_KEY is {'no key' if key.strip() else 'empty'}; {_KEY_HOW}")
        self.url = _API_PATH.sub("", url.partition("?")[0].partition("#")[0])
        self._key = key.strip()
        self._patience_seconds = patience_seconds
        self._on_trouble = on_trouble or (lambda message: log.warning("door.trouble", message=message))
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()

    def patience(self) -> Patience:
        """Return a fresh patience."""
        return Patience(self._patience_seconds, self._on_trouble)

    def json(self, model: type[M], method: str, path: str, **more: Any) -> M:
        """Call, and return the answer's data. Raises Rejected, InvalidRequest, Transient."""

        def once() -> M:
            with self._answer(method, path, stream=False, **more) as answer:
                return _data(model, answer)

        return self.repeated(once)

    @contextmanager
    def lines(self, path: str, params: Mapping[str, str | list[str]]) -> Iterator[Iterator[bytes]]:
        """Yield the lines of an answer as they come. Raises as `json`; and, between lines, one of TROUBLE."""
        answer = self.repeated(lambda: self._answer("GET", path, stream=True, params=dict(params)))
        with closing(answer):
            yield _split(answer)

    def repeated(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, called again while the server is away. Raises Transient when patience ends."""
        patience = self.patience()
        while True:
            try:
                return call()
            except SSLError:
                raise Rejected(
                    "not_secure", f"{self.url}: its certificate cannot be trusted, or it speaks no TLS; check the URL"
                ) from None
            except TROUBLE as error:
                patience.wait(f"{self.url} {in_words(error)}", None)
            except _Away as away:
                patience.wait(str(away), away.pause_seconds)

    def put_file(self, url: str, data: Any, headers: Mapping[str, str]) -> requests.Response:
        """PUT to a presigned address, without our key. Raises requests' errors."""
        return self._session(url, key=False).put(
            url, data=data, headers=dict(headers), timeout=(_CONNECT_SECONDS, _READ_SECONDS), allow_redirects=False
        )

    def get_file(self, url: str) -> requests.Response:
        """GET a presigned address, without our key; the body is still to be read. Raises requests' errors."""
        return self._session(url, key=False).get(
            url, stream=True, timeout=(_CONNECT_SECONDS, _READ_SECONDS), allow_redirects=False
        )

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for session in self._sessions:
                session.close()
            self._sessions.clear()

    def _answer(self, method: str, path: str, *, stream: bool, **more: Any) -> requests.Response:
        url = self.url + path
        answer = self._session(url, key=True).request(
            method,
            url,
            stream=stream,
            timeout=(_CONNECT_SECONDS, 5 * _READ_SECONDS if stream else _READ_SECONDS),
            allow_redirects=False,  # a POST would become a GET on the way
            **more,
        )
        if answer.status_code == 200:
            return answer
        with closing(answer):
            raise self._error(answer)

    def _error(self, answer: requests.Response) -> Exception:
        message, data = _said(answer)
        said = message or f"{self.url} answered HTTP {answer.status_code}"
        if answer.status_code in _AWAY:
            return _Away(said, retry_after_seconds(answer.headers.get("Retry-After")))
        if answer.status_code == 401:
            what = said.partition(": ")[0]  # what follows is about headers, which is no concern of our user
            return Rejected("unauthorized", f"{self.url} refuses the key in FILLFLEET_API_KEY: {what}; {_KEY_HOW}")
        if 300 <= answer.status_code < 400:
            return Rejected("redirected", f"{self.url} leads to another address; set FILLFLEET_URL to that one")
        if answer.status_code >= 500:
            return Transient("fleet_trouble", said)
        problems = _problems(data.get("errors"))
        if problems:
            return InvalidRequest(problems)
        code = data.get("error_code")
        if not message:
            said += "; is FILLFLEET_URL the address of a Fillfleet API?"
        return Rejected(code if isinstance(code, str) else "refused", said)

    def _session(self, url: str, *, key: bool) -> requests.Session:
        loopback = _LOOPBACK.fullmatch(urlsplit(url).hostname or "") is not None
        known: dict[tuple[bool, bool], requests.Session] = self._local.__dict__.setdefault("sessions", {})
        session = known.get((key, loopback))
        if session is None:
            session = requests.Session()
            session.trust_env = not loopback  # a proxy from the environment cannot reach this machine's loopback
            session.auth = _KeyHeader(self._key if key else None)
            known[key, loopback] = session
            with self._lock:
                self._sessions.append(session)
        return session


_KEY_HOW: Final = "an operator makes one with `fillfleet keys create --owner NAME`"


def in_words(error: Exception) -> str:
    """Return what befell a call, to follow after the address."""
    if isinstance(error, requests.ConnectTimeout | requests.ReadTimeout):
        return "does not answer in time"
    if isinstance(error, ChunkedEncodingError | ContentDecodingError):
        return "broke off in the middle of its answer"
    return "cannot be reached, or broke the connection"


def _said(answer: requests.Response) -> tuple[str, Mapping[str, Any]]:
    """Return message and data of the envelope; nothing where it is none of ours."""
    try:
        body = answer.json()
    except (ValueError, requests.RequestException):
        return "", {}
    message = body.get("message") if isinstance(body, dict) else None
    data = body.get("data") if isinstance(body, dict) else None
    return message if isinstance(message, str) else "", data if isinstance(data, dict) else {}


def _problems(errors: object) -> tuple[Problem, ...]:
    try:
        return tuple(Problem(**error) for error in errors) if isinstance(errors, list) else ()
    except TypeError:
        return ()


def _data(model: type[M], answer: requests.Response) -> M:
    try:
        return model.model_validate(answer.json()["data"])
    except (ValidationError, ValueError, KeyError, TypeError):
        raise FillfleetError(
            "answer_unreadable", "what answered is no Fillfleet API of this version; check FILLFLEET_URL"
        ) from None


def _split(answer: requests.Response) -> Iterator[bytes]:
    rest = b""
    for block in answer.iter_content(64 * 1024):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest
