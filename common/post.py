"""Posts to addresses that users name: what webhooks go out through.

Checked like fetches (public addresses, or hosts that the operator named) and bounded in time; redirects are never
followed and the answer's body is of no interest. No error names the URL: whoever knows a webhook's URL may post to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final

import requests
import urllib3
from AntiSSRF import AntiSSRFError

from common.deadline import Deadline
from common.errors import FillfleetError, Rejected, Transient
from common.fetch import PUBLIC_ONLY
from common.guarded_adapter import GuardedDoor, connection_trouble, is_bad_host, is_timeout
from common.retry_after import retry_after_seconds
from common.settings import Settings
from common.urls import BadUrl, split_http_url

HEADERS: Final = {"User-Agent": "fillfleet/0.1", "Accept": "*/*", "Connection": "close"}
_ANSWER_BYTES: Final = 4096
"""Read and dropped, so that a receiver's short answer does not meet a closed connection."""
_TOO_LATE: Final = "no answer within the time allowed"


@dataclass(frozen=True)
class Answer:
    """What the receiver answered: the HTTP status, and for how long it asked to be left alone."""

    status: int
    retry_after_seconds: float | None


class Poster:
    """Posts over http(s). Threads may share one: calls share nothing."""

    def __init__(self, settings: Settings) -> None:
        self._door = GuardedDoor(settings)

    def post(self, url: str, body: bytes, headers: Mapping[str, str], *, seconds: float) -> Answer:
        """Return the receiver's answer, whatever its status; `seconds` is the total time.

        Raises Rejected (post_refused) where the URL or its address is not allowed, and Transient: post_timeout,
        post_failed.
        """
        try:
            request = _prepared(url, body, headers)
        except BadUrl as error:
            raise Rejected("post_refused", str(error)) from None
        with Deadline(seconds) as deadline, ExitStack() as stack:
            try:
                response = self._door.send(request, deadline, stack)
            except AntiSSRFError:
                raise Rejected("post_refused", PUBLIC_ONLY) from None
            except (OSError, EOFError, UnicodeError, urllib3.exceptions.HTTPError) as error:
                raise _in_words(error, deadline) from None
            if deadline.expired:  # a connection that we cut can look like the end of the headers
                raise Transient("post_timeout", _TOO_LATE)
            # The status says it all: an answer that breaks off or never ends after it changes nothing.
            with suppress(OSError, EOFError, urllib3.exceptions.HTTPError):
                response.raw.read(_ANSWER_BYTES, decode_content=False)
            return Answer(response.status_code, retry_after_seconds(response.headers.get("Retry-After")))


def check_post_url(url: str) -> None:
    """Raise BadUrl, with the reason, unless `url` has a form that can be posted to. Nothing is looked up."""
    _prepared(url, b"", {})


def _prepared(url: str, body: bytes, headers: Mapping[str, str]) -> requests.PreparedRequest:
    split_http_url(url)
    try:
        return requests.Request("POST", url, data=body, headers={**HEADERS, **headers}).prepare()
    except ValueError:  # requests' own complaints about URLs
        raise BadUrl("is not a valid URL; check its host and port") from None


def _in_words(error: Exception, deadline: Deadline) -> FillfleetError:
    if deadline.expired or is_timeout(error):
        return Transient("post_timeout", _TOO_LATE)
    if is_bad_host(error):
        return Rejected("post_refused", "has no valid host; write https://host/path")
    return Transient("post_failed", connection_trouble(error) or "the connection broke off before an answer had come")
