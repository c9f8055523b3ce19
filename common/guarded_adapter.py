"""The HTTP adapter that connects to public addresses only, or to hosts that the operator named.

A host is resolved once, all its addresses must be allowed, and the connection goes to the address that was checked
(microsoft-antissrf does this). It never reads proxies, .netrc or cookies: nothing of this process travels along.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import urllib3
from AntiSSRF import AntiSSRFPolicy, PolicyConfigOptions
from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from common.deadline import Deadline
from common.settings import Settings
from common.urls import DEFAULT_PORTS, origin

NOT_PUBLIC_EITHER = (
    "::/96",  # IPv4-compatible: ::127.0.0.1
    "::ffff:0:0:0/96",  # IPv4-translated: ::ffff:0:127.0.0.1
    # All that IANA has not given out as global unicast (2000::/3), beyond what the library lists.
    *("100::/8", "200::/7", "400::/6", "800::/5", "1000::/4", "4000::/2", "8000::/1"),
)
"""Ranges that are denied in addition to the library's own."""


def public_guard() -> HTTPAdapter:
    """Return the check that lets only public addresses pass; it raises AntiSSRFError for any other."""
    policy = AntiSSRFPolicy(PolicyConfigOptions.EXTERNAL_ONLY_LATEST)
    policy.add_denied_addresses(list(NOT_PUBLIC_EITHER))
    return _guard(policy)


def named_host_guard() -> HTTPAdapter:
    """Return the check for hosts that the operator allows by name: any address, but still resolved just once."""
    return _guard(AntiSSRFPolicy(PolicyConfigOptions.NONE))


def _guard(policy: AntiSSRFPolicy) -> HTTPAdapter:
    policy.allow_plain_text_http = True
    with policy.get_antissrf_session() as session:
        return cast(HTTPAdapter, session.get_adapter("https://"))


class GuardedDoor:
    """The way out for requests to what users name. Threads may share one: calls share nothing."""

    def __init__(self, settings: Settings) -> None:
        self._named_hosts = frozenset(settings.fetch_allow_hosts)
        self._public = public_guard()
        self._named = named_host_guard()

    def send(self, request: PreparedRequest, deadline: Deadline, stack: ExitStack) -> requests.Response:
        """Return the answer, its body unread and redirects not followed; `stack` closes the connection.

        Raises AntiSSRFError (address not allowed), and the libraries' errors: `connection_trouble` puts them in words.
        """
        guard = self._named if self._is_named(request.url or "") else self._public
        # The adapter and not a session: a session keeps cookies, and reads the whole body of a redirect, unbounded.
        adapter = GuardedAdapter(guard, deadline)
        stack.callback(adapter.close)
        left = deadline.remaining()
        response = adapter.send(request, stream=True, timeout=(left, left), verify=True, proxies={})
        stack.callback(response.close)
        return response

    def _is_named(self, url: str) -> bool:
        _, host, port = origin(urlsplit(url))
        host = f"[{host}]" if ":" in host else host
        return not self._named_hosts.isdisjoint({host, f"{host}:{port}"})


def is_timeout(error: Exception) -> bool:
    """Return whether `error` is one of the libraries' time-outs."""
    return isinstance(error, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError)


def is_bad_host(error: Exception) -> bool:
    """Return whether `error` says that the URL names no host that could exist."""
    return isinstance(error, requests.exceptions.InvalidURL | UnicodeError)


def connection_trouble(error: Exception) -> str | None:
    """Return what went wrong with a connection, for a message; the libraries' own texts name addresses and queries."""
    if isinstance(error, socket.gaierror):
        return "the host was not found; check its name"
    if isinstance(error, requests.exceptions.SSLError | urllib3.exceptions.SSLError):
        return "the TLS connection failed; check the server's certificate"
    if isinstance(error, requests.ConnectionError):
        return "the connection could not be made or broke off"
    return None


class GuardedAdapter(HTTPAdapter):
    """Sends the requests of one fetch through `guard`, all within `deadline`. Close it after the body is read."""

    def __init__(self, guard: HTTPAdapter, deadline: Deadline) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1)
        self._guard = guard
        self._deadline = deadline

    def build_connection_pool_key_attributes(self, request: PreparedRequest, verify: Any, cert: Any = None) -> Any:
        """Return the checked address to connect to, and the name that TLS must prove.

        Raises AntiSSRFError (address not allowed), socket.gaierror and TimeoutError.
        """
        place, tls = self._deadline.call(self._guard.build_connection_pool_key_attributes, request, verify, cert)
        # The library leaves the port out, which breaks virtual hosts and signatures over the Host header.
        request.headers["Host"] = host_header(request.url or "")
        return place, tls

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Return the connection pool for the request, its connections watched by the deadline."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        kind = _WatchedTlsConnection if pool.scheme == "https" else _WatchedConnection
        pool.ConnectionCls = type(kind.__name__, (kind,), {"deadline": self._deadline})
        return pool


class _WatchedConnection(HTTPConnection):
    deadline: Deadline

    def _new_conn(self) -> socket.socket:
        self.timeout = self.deadline.remaining()  # the name server may have taken its share since this was set
        connection = super()._new_conn()
        self.deadline.watch(connection)
        return connection


class _WatchedTlsConnection(_WatchedConnection, HTTPSConnection):
    """The same below TLS: what is watched carries the handshake, too."""


def host_header(url: str) -> str:
    """Return the Host header of an http(s) URL: with the port unless it is the scheme's default."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return host if parts.port in {None, DEFAULT_PORTS.get(parts.scheme)} else f"{host}:{parts.port}"
