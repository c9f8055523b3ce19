"""Fetches what users name by URL: images, masks and adapters.

Only public addresses (or hosts that the operator named) are connected to, also after a redirect; bytes, time and
redirects are bounded. It must never tell the user which address a host has, nor follow anything but http(s).
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import requests
import urllib3
from AntiSSRF import AntiSSRFError
from requests.utils import requote_uri

from common.atomic_file import atomic_file
from common.content_encoding import PACKED, PIECE_BYTES, PLAIN, unpack
from common.deadline import Deadline
from common.errors import FillfleetError, Rejected, Transient
from common.guarded_adapter import GuardedDoor, connection_trouble, is_bad_host, is_timeout
from common.retry_after import retry_after_seconds
from common.settings import Settings
from common.urls import BadUrl, host_of, shown, split_http_url

HEADERS = {"User-Agent": "fillfleet/0.1", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
NOT_FOUND = frozenset({404, 410})
WORTH_A_RETRY = frozenset({408, 425, 429})
OVERLOADED = frozenset({429, 503})
"""The host asks for fewer requests: no fault of the job that happens to hear it."""
BAD_REDIRECT = "redirects to an address that is not allowed; give the final, public http(s) URL"
PUBLIC_ONLY = "this address is not allowed; give a public http(s) URL, or ask the operator to allow this host"


@dataclass(frozen=True)
class Fetched:
    """What a URL or an object held. `content_type` is what the server claimed: a hint, never a promise."""

    data: bytes
    sha256: str
    content_type: str | None


@dataclass(frozen=True)
class _Wish:
    """What one call asked for, and how its errors begin."""

    url: str
    what: str
    max_bytes: int
    deadline: Deadline

    def rejected(self, code: str, reason: str) -> Rejected:
        return Rejected(code, f"{self.what}: {shown(self.url)}: {reason}")

    def failed(self, reason: str) -> Transient:
        return Transient("fetch_failed", f"{self.what}: {shown(self.url)}: {reason}")

    def overloaded(self, response: requests.Response) -> Transient:
        return Transient(
            "fetch_failed",
            f"{self.what}: {shown(self.url)}: the server answered HTTP {response.status_code}",
            retry_after_seconds=retry_after_seconds(response.headers.get("Retry-After")),
            host=host_of(self.url),
        )

    def too_late(self) -> Transient:
        return Transient("fetch_timeout", f"{self.what}: {shown(self.url)}: not fetched within the time allowed")

    def too_large(self) -> Rejected:
        return self.rejected("fetch_too_large", f"larger than the {self.max_bytes} bytes allowed; make it smaller")


class Fetcher:
    """Fetches over http(s) under the limits of the settings. Threads may share one: calls share nothing."""

    def __init__(self, settings: Settings) -> None:
        self._max_redirects = settings.fetch_max_redirects
        self._door = GuardedDoor(settings)

    def get(self, url: str, *, max_bytes: int, seconds: float, what: str) -> Fetched:
        """Return the body behind `url`. `what` is the field's name in messages, `seconds` the total time.

        Raises Rejected: fetch_refused, fetch_not_found, fetch_denied, fetch_too_large.
        Raises Transient: fetch_timeout, fetch_failed (connection, DNS, HTTP 5xx, 408, 425, 429; for 429 and 503 it
        names the host of the URL, and the time that its Retry-After asks for).
        """
        data = io.BytesIO()
        sha256, content_type = self._fetch(url, max_bytes, seconds, what, data.write)
        return Fetched(data.getvalue(), sha256, content_type)

    def download(self, url: str, target: Path, *, max_bytes: int, seconds: float, what: str) -> str:
        """Write the body behind `url` to `target`, wholly or not at all, and return its sha256 in hex.

        Raises as `get` does, and OSError where the folder cannot be written to.
        """
        with atomic_file(target) as file:
            return self._fetch(url, max_bytes, seconds, what, file.write)[0]

    def _fetch(
        self, url: str, max_bytes: int, seconds: float, what: str, write: Callable[[bytes], object]
    ) -> tuple[str, str | None]:
        digest = hashlib.sha256()
        size = 0
        with Deadline(seconds) as deadline, ExitStack() as stack:
            wish = _Wish(url, what, max_bytes, deadline)
            response = self._follow(wish, stack)
            _check_status(response, wish)
            for piece in _body(response, wish):
                size += len(piece)
                if size > max_bytes:
                    raise wish.too_large()
                digest.update(piece)
                write(piece)
        return digest.hexdigest(), response.headers.get("Content-Type")

    def _follow(self, wish: _Wish, stack: ExitStack) -> requests.Response:
        """Return the first answer that is no redirect; `stack` closes its connection."""
        url = wish.url
        for _ in range(self._max_redirects + 1):
            request = _prepare(url, wish)
            try:
                response = self._send(request, wish, stack)
            except AntiSSRFError:
                raise wish.rejected("fetch_refused", PUBLIC_ONLY if url is wish.url else BAD_REDIRECT) from None
            location = response.headers.get("Location")
            if response.status_code not in REDIRECTS or location is None:
                return response
            stack.close()
            url = _redirected(request.url or "", location, wish)
        raise wish.rejected("fetch_refused", f"redirects more than {self._max_redirects} times; give the final URL")

    def _send(self, request: requests.PreparedRequest, wish: _Wish, stack: ExitStack) -> requests.Response:
        with _errors_in_words(wish):
            return self._door.send(request, wish.deadline, stack)


def _prepare(url: str, wish: _Wish) -> requests.PreparedRequest:
    try:
        split_http_url(url)
        return requests.Request("GET", url, headers=HEADERS).prepare()
    except BadUrl as error:
        reason = str(error)
    except ValueError:  # requests' own complaints about URLs
        reason = "is not a valid URL; check its host and port"
    raise wish.rejected("fetch_refused", reason if url is wish.url else BAD_REDIRECT)


def _redirected(before: str, location: str, wish: _Wish) -> str:
    """Return the URL that a redirect from `before` leads to; `_prepare` checks it like the first."""
    try:
        # http.client reads headers as latin-1, but servers write URLs in UTF-8
        url = urljoin(before, requote_uri(location.encode("latin-1").decode("utf-8", "replace")))
    except ValueError:
        raise wish.rejected("fetch_refused", BAD_REDIRECT) from None
    if before.startswith("https:") and url.lower().startswith("http:"):
        raise wish.rejected("fetch_refused", "redirects from https to http; give the final URL")
    return url


def _check_status(response: requests.Response, wish: _Wish) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    if status in OVERLOADED:
        raise wish.overloaded(response)
    if status in WORTH_A_RETRY or status >= 500:
        raise wish.failed(f"the server answered HTTP {status}")
    if status in NOT_FOUND:
        raise wish.rejected("fetch_not_found", f"the server answered HTTP {status}: nothing is there; check the URL")
    hint = "check that the link is public and has not expired"
    raise wish.rejected("fetch_denied", f"the server answered HTTP {status}; {hint}")


def _body(response: requests.Response, wish: _Wish) -> Iterator[bytes]:
    """Yield the body, unpacked. Bounds the bytes on the wire; the caller bounds the unpacked ones."""
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length[:20]) > wish.max_bytes:
        raise wish.too_large()
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in PLAIN:
        yield from _wire(response, wish)
    elif encoding in PACKED:
        with _errors_in_words(wish):
            yield from unpack(_wire(response, wish))
    else:
        raise wish.rejected("fetch_refused", "the server compresses it in an unknown way; serve it uncompressed")


def _wire(response: requests.Response, wish: _Wish) -> Iterator[bytes]:
    """Yield the body as it came, at most PIECE_BYTES at a time."""
    size = 0
    while True:
        with _errors_in_words(wish):
            # read and not stream: this way http.client takes chunks apart, which bounds the length of their headers
            block = response.raw.read(PIECE_BYTES, decode_content=False)
        if not block:
            return
        size += len(block)
        if size > wish.max_bytes:
            raise wish.too_large()
        yield block


@contextmanager
def _errors_in_words(wish: _Wish) -> Iterator[None]:
    """Turn the libraries' errors into ours; their own texts name addresses and queries, so they end here."""
    try:
        yield
    except zlib.error:
        raise wish.rejected("fetch_refused", "its compression is broken; serve it uncompressed") from None
    except (OSError, EOFError, UnicodeError, urllib3.exceptions.HTTPError) as error:
        raise wish.too_late() if wish.deadline.expired else _trouble(error, wish) from None
    if wish.deadline.expired:  # a connection that we cut can look like the end of the body
        raise wish.too_late()


def _trouble(error: Exception, wish: _Wish) -> FillfleetError:
    if is_timeout(error):
        return wish.too_late()
    if is_bad_host(error):
        return wish.rejected("fetch_refused", "has no valid host; write https://host/path")
    return wish.failed(connection_trouble(error) or "the connection broke off before the whole file had come")
