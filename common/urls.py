"""What counts as an http(s) URL here, and how a URL may be shown.

One strict reading for all: where two parsers could disagree about the host, the URL is refused. Queries and
user names are never shown, since presigned links carry their secret there.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

MAX_URL_CHARACTERS = 8192
SHOWN_CHARACTERS = 100
DEFAULT_PORTS = {"http": 80, "https": 443}
_USERINFO = re.compile(r"//[^/]*@")


class BadUrl(ValueError):
    """The text is no URL that we accept; the message is the reason, to follow after `field: value`."""


def shown(text: str) -> str:
    """Return `text` quoted for a message: without query, fragment and user name, at most 100 characters."""
    text = re.split(r"[?#]", text[:MAX_URL_CHARACTERS], maxsplit=1)[0]
    text = _USERINFO.sub("//", text)
    text = "".join(character if character.isprintable() else "?" for character in text)
    return f'"{text[:SHOWN_CHARACTERS]}…"' if len(text) > SHOWN_CHARACTERS else f'"{text}"'


def check_characters(text: str) -> None:
    """Raise BadUrl where `text` is too long or holds what parsers disagree about. A plain space passes."""
    if len(text) > MAX_URL_CHARACTERS:
        raise BadUrl(f"is {len(text)} characters long; at most {MAX_URL_CHARACTERS} are allowed")
    if text != text.strip():
        raise BadUrl("begins or ends with a space; remove it")
    if not text.isprintable():
        raise BadUrl("holds a line break or another invisible character; percent-encode or remove it")
    if "\\" in text:
        raise BadUrl("holds a backslash; use / between the parts")


def split_http_url(text: str) -> SplitResult:
    """Return the parts of an http or https URL with a host, without user name. Raises BadUrl."""
    check_characters(text)
    if " " in text:
        raise BadUrl("holds a space; write it as %20")
    try:
        parts = urlsplit(text)
        _ = parts.port  # parsed only when asked for
    except ValueError:
        raise BadUrl("is not a valid URL; check its host and port") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise BadUrl("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise BadUrl("holds a user name or password, which is not supported; use a presigned link instead")
    if not parts.hostname or "%" in parts.hostname:
        raise BadUrl("has no valid host; write https://host/path")
    return parts


def origin(parts: SplitResult) -> tuple[str, str, int]:
    """Return scheme, host and port of a split http(s) URL in the form in which two of them can be compared."""
    return parts.scheme, (parts.hostname or "").rstrip("."), parts.port or DEFAULT_PORTS[parts.scheme]


def host_of(url: str) -> str:
    """Return host[:port] of an http(s) URL, so that one host has one name: lower case, no default port, in ASCII.

    By it hosts are counted and left alone. What is no URL gives what stands in the host's place, or nothing.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:  # no such host can be asked
            return host
    host = f"[{host}]" if ":" in host else host
    return host if port in {None, DEFAULT_PORTS.get(parts.scheme)} else f"{host}:{port}"


def place_of(url: str) -> str:
    """Return host[:port][/path] of a server's URL, of any scheme: no user, no password, no query."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or "its local socket"
    return host + (f":{parts.port}" if parts.port else "") + parts.path.rstrip("/")
