"""What users may rely on when they name a file by URL, and what an attacker may not get by it."""

from __future__ import annotations

import gc
import gzip
import hashlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests.adapters
import urllib3.util.connection

from common.errors import FillfleetError, Rejected, Transient
from common.fetch import Fetched, Fetcher
from common.settings import Environment, Settings

PUBLIC_ADDRESS = "93.184.216.34"
MIB = 1024 * 1024
SOON = 20.0
"""Seconds for what takes a moment, also on a machine that stands still now and then; what never ends goes on for a
minute."""


class Answer(BaseHTTPRequestHandler):
    """One request to a Site, answered by the site's function."""

    server: Site

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        self.server.answer(self)

    def send(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self, piece: bytes, pause: float = 0.05) -> None:
        """Send `piece` again and again until the client has gone, a minute at most."""
        for _ in range(int(60 / pause)):
            self.wfile.write(piece)
            self.wfile.flush()
            time.sleep(pause)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        pass


class Site(ThreadingHTTPServer):
    """A web server on a free loopback port that counts who connects."""

    daemon_threads = True
    request_queue_size = 64  # with a shorter one the kernel makes some clients wait a second

    def __init__(self, answer: Callable[[Answer], None]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answer = answer
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.connections = 0

    def verify_request(self, *_: Any) -> bool:
        self.connections += 1
        return True

    def handle_error(self, *_: Any) -> None:
        """Clients that leave early are what is tested here."""


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Answer], None]], Site]]:
    with ExitStack() as stack:

        def start(answer: Callable[[Answer], None], tls: ssl.SSLContext | None = None) -> Site:
            site = stack.enter_context(Site(answer))
            if tls is not None:
                site.socket = tls.wrap_socket(site.socket, server_side=True)
            thread = threading.Thread(target=site.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(site.shutdown)
            return site

        yield start


Serve = Callable[..., Site]


@pytest.fixture
def forbidden(serve: Serve) -> Site:
    """A listener inside that nobody may reach."""
    return serve(lambda answer: answer.send(b"internal"))


def fetcher(*allowed: Site | str, redirects: int = 3) -> Fetcher:
    hosts = tuple(f"127.0.0.1:{host.port}" if isinstance(host, Site) else host for host in allowed)
    return Fetcher(Settings(fillfleet_env=Environment.TEST, fetch_allow_hosts=hosts, fetch_max_redirects=redirects))


def get(fetch: Fetcher, url: str, max_bytes: int = MIB, seconds: float = 60.0) -> Fetched:
    return fetch.get(url, max_bytes=max_bytes, seconds=seconds, what="image")


def refusal(fetch: Fetcher, url: str, max_bytes: int = MIB, seconds: float = 60.0) -> FillfleetError:
    """Return how the fetch fails, after looking at what every message promises."""
    with pytest.raises(FillfleetError) as caught:
        get(fetch, url, max_bytes, seconds)
    error = caught.value
    assert error.message.startswith("image: ")
    for secret in ("Signature", "hunter2", "Errno", "HTTPConnection", PUBLIC_ADDRESS):
        assert secret not in error.message
    assert error.__suppress_context__ or error.__context__ is None  # nor does a log's traceback
    return error


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Iterator[list[str]]]:
    """A DNS of our own: for each name the answers to give, one after the other."""
    table: dict[str, Iterator[list[str]]] = {}
    real = socket.getaddrinfo

    def resolve(host: str, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in table:
            return real(host, port, *args, **kwargs)
        found = []
        for address in next(table[host]):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            found.append((family, socket.SOCK_STREAM, 6, "", (address, port or 0)))
        return found

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return table


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Site]:
    """The internet of these tests: address → site. What is not in it refuses the connection, whatever it is."""
    table: dict[str, Site] = {}
    real = urllib3.util.connection.create_connection

    def connect(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        if address[0] not in table:
            raise ConnectionRefusedError(f"[Errno 111] {address[0]} refused")
        return real(("127.0.0.1", table[address[0]].port), *args, **kwargs)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", connect)
    return table


# --- what works


def test_a_public_file_comes_with_its_hash_and_type(
    serve: Serve, names: dict[str, Iterator[list[str]]], routes: dict[str, Site]
) -> None:
    site = serve(lambda answer: answer.send(b"picture", Content_Type="image/png"))
    names["pictures.example"] = iter([[PUBLIC_ADDRESS]])
    routes[PUBLIC_ADDRESS] = site
    fetched = get(fetcher(), "http://pictures.example:8080/a%20b.png?size=2#top")
    assert fetched == Fetched(b"picture", hashlib.sha256(b"picture").hexdigest(), "image/png")
    path, headers = site.requests[0]
    assert path == "/a%20b.png?size=2"
    assert headers["Host"] == "pictures.example:8080"  # signatures of presigned links cover the port
    assert headers["User-Agent"] == "fillfleet/0.1"
    assert headers["Accept-Encoding"] == "identity"


def test_the_default_port_is_left_out_of_the_host_header(
    serve: Serve, names: dict[str, Iterator[list[str]]], routes: dict[str, Site]
) -> None:
    site = serve(lambda answer: answer.send(b"picture"))
    names["pictures.example"] = iter([[PUBLIC_ADDRESS]] * 2)
    routes[PUBLIC_ADDRESS] = site
    get(fetcher(), "HTTP://Pictures.Example:80/")
    get(fetcher(), "http://pictures.example/")
    assert [headers["Host"] for _, headers in site.requests] == ["pictures.example"] * 2


def test_a_body_of_just_the_allowed_size_is_fetched(serve: Serve) -> None:
    site = serve(lambda answer: answer.send(b"x" * 1000))
    assert len(get(fetcher(site), site.url, max_bytes=1000).data) == 1000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
def test_a_compressed_answer_is_unpacked(serve: Serve, encoding: str) -> None:
    body = bytes(range(256)) * 2000
    packed = {"gzip": gzip.compress(body[:1000]) + gzip.compress(body[1000:]), "deflate": zlib.compress(body)}
    site = serve(lambda answer: answer.send(packed.get(encoding, body), Content_Encoding=encoding))
    assert get(fetcher(site), site.url).data == body


def test_redirects_are_followed_also_relative_ones_with_raw_utf8(serve: Serve) -> None:
    def answer(request: Answer) -> None:
        if request.path == "/start":
            request.send(status=302, Location="/bild ü.png".encode().decode("latin-1"))
        else:
            request.send(request.path.encode())

    site = serve(answer)
    assert get(fetcher(site), f"{site.url}/start").data == b"/bild%20%C3%BC.png"


def test_many_threads_share_one_fetcher(serve: Serve) -> None:
    def answer(request: Answer) -> None:
        time.sleep(0.01)
        if request.path.endswith("7"):
            request.send(status=404)
        else:
            request.send(request.path.encode() * 100, Set_Cookie="who=somebody-else")

    site = serve(answer)
    fetch = fetcher(site)

    def one(number: int) -> bytes:
        try:
            return get(fetch, f"{site.url}/{number}").data
        except Rejected as error:
            return error.code.encode()

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(one, range(100)))
    for number, result in enumerate(results):
        assert result == (b"fetch_not_found" if number % 10 == 7 else f"/{number}".encode() * 100)
    assert not any("Cookie" in headers for _, headers in site.requests)


def test_proxies_and_netrc_of_the_process_are_ignored(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, forbidden: Site
) -> None:
    site = serve(lambda answer: answer.send(b"direct"))
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, forbidden.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert get(fetcher(site), site.url).data == b"direct"
    assert "Authorization" not in site.requests[0][1]
    assert forbidden.connections == 0


# --- which addresses


LOOPBACK_SPELLINGS = [
    *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001"),
    *("0.0.0.0", "0", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]"),  # noqa: S104
    *("[::1]", "[::]", "localhost", "LOCALHOST", "127.255.255.254", "①②⑦.⓪.⓪.①", "127。0。0。1", "%31%32%37.0.0.1"),
]


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
def test_loopback_is_never_connected_to_however_it_is_written(forbidden: Site, host: str) -> None:
    error = refusal(fetcher(), f"http://{host}:{forbidden.port}/latest")
    assert isinstance(error, Rejected)
    assert error.code == "fetch_refused"
    assert forbidden.connections == 0


DENIED_ADDRESSES = [
    *("0.0.0.1", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.2", "168.63.129.16", "169.254.169.254"),
    *("172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1"),
    *("192.168.1.1", "192.175.48.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1"),
    *("239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::1", "::", "::127.0.0.1", "::8.8.8.8", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "100:0:0:1::1", "200::1", "400::1", "800::1"),
    *("1000::1", "2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1"),
    *("2002:7f00:1::", "2002:a9fe:a9fe::", "2620:4f:8000::1", "3fff::1", "4000::1", "5f00::1", "8000::1"),
    *("fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1"),
]


@pytest.mark.parametrize("address", DENIED_ADDRESSES)
def test_no_address_inside_is_connected_to_literally_or_by_name(
    names: dict[str, Iterator[list[str]]], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    tried: list[object] = []
    monkeypatch.setattr(urllib3.util.connection, "create_connection", lambda *args, **_: tried.append(args))
    names["inside.example"] = iter([[address]])
    host = f"[{address}]" if ":" in address else address
    for url in ("http://inside.example/", f"http://{host}/", f"https://{host}/"):
        error = refusal(fetcher(), url)
        assert (type(error), error.code) == (Rejected, "fetch_refused")
        assert (address in error.message) == (host in url)
    assert tried == []


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111"])
def test_public_addresses_of_both_families_are_connected_to(
    serve: Serve, names: dict[str, Iterator[list[str]]], routes: dict[str, Site], address: str
) -> None:
    routes[address] = serve(lambda answer: answer.send(b"picture"))
    names["pictures.example"] = iter([[address]])
    assert get(fetcher(), "http://pictures.example/").data == b"picture"


@pytest.mark.parametrize("answers", [[PUBLIC_ADDRESS, "10.0.0.1"], ["::1", PUBLIC_ADDRESS]])
def test_one_inner_address_among_public_ones_refuses_the_host(
    names: dict[str, Iterator[list[str]]], routes: dict[str, Site], forbidden: Site, answers: list[str]
) -> None:
    names["mixed.example"] = iter([answers])
    routes.update(dict.fromkeys(answers, forbidden))
    assert refusal(fetcher(), "http://mixed.example/").code == "fetch_refused"
    assert forbidden.connections == 0


def test_a_rebinding_name_is_asked_once_and_only_the_checked_address_is_used(
    serve: Serve, names: dict[str, Iterator[list[str]]], routes: dict[str, Site], forbidden: Site
) -> None:
    site = serve(lambda answer: answer.send(b"outside"))
    names["rebind.example"] = iter([[PUBLIC_ADDRESS], ["127.0.0.1"], ["127.0.0.1"]])
    routes.update({PUBLIC_ADDRESS: site, "127.0.0.1": forbidden})
    fetch = fetcher()
    assert get(fetch, "http://rebind.example/").data == b"outside"
    # and the next fetch does not trust the last one's answer
    assert refusal(fetch, "http://rebind.example/").code == "fetch_refused"
    assert list(names["rebind.example"]) == [["127.0.0.1"]]
    assert forbidden.connections == 0


def test_a_host_with_a_port_is_allowed_for_that_port_alone(serve: Serve, forbidden: Site) -> None:
    site = serve(lambda answer: answer.send(b"bucket"))
    fetch = fetcher(f"127.0.0.1:{site.port}")
    assert get(fetch, site.url).data == b"bucket"
    assert refusal(fetch, forbidden.url).code == "fetch_refused"
    assert refusal(fetch, f"http://2130706433:{site.port}/").code == "fetch_refused"
    assert forbidden.connections == 0


def test_a_host_without_a_port_is_allowed_for_every_port(serve: Serve, names: dict[str, Iterator[list[str]]]) -> None:
    site = serve(lambda answer: answer.send(b"bucket"))
    names["bucket.inside"] = iter([["127.0.0.1"]] * 2)
    fetch = fetcher("bucket.inside")
    assert get(fetch, f"http://BUCKET.inside:{site.port}/").data == b"bucket"
    assert refusal(fetch, f"http://other.bucket.inside:{site.port}/").code in {"fetch_failed", "fetch_refused"}
    assert site.connections == 1


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://pictures.example/a.png",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "http://me:hunter2@pictures.example/",
        "http://pictures.example@127.0.0.1/",
        "http://pictures.example\\@127.0.0.1/",
        "http://pictures.example/a b.png",
        "http://pictures.example/\r\nHost: inside",
        " http://pictures.example/",
        "http:///a.png",
        "http://pictures.example:99999/",
        "http://pictures.example:80a/",
        "http://[::1/",
        "http://[fe80::1%25lo]/",
        "http://a..example/",
        f"http://{'a' * 64}.example/",
        f"http://pictures.example/{'a' * 8192}",
        "pictures.example/a.png",
        "",
    ],
)
def test_what_is_no_plain_http_url_is_refused_without_a_connection(routes: dict[str, Site], url: str) -> None:
    error = refusal(fetcher(), url)
    assert isinstance(error, Rejected)
    assert error.code == "fetch_refused"
    assert len(error.message) < 300


# --- redirects


@contextmanager
def redirecting(serve: Serve, target: str, body: bytes = b"") -> Iterator[Site]:
    yield serve(lambda answer: answer.send(body, status=302, Location=target))


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/secret",
        "//127.0.0.1:{port}/secret",
        "http://localhost:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
        "http://me:hunter2@127.0.0.1:{port}/",
        "file:///etc/passwd",
        "http://[::1",
        "gopher://127.0.0.1:{port}/",
    ],
)
def test_a_redirect_leads_nowhere_that_a_url_may_not(serve: Serve, forbidden: Site, target: str) -> None:
    with redirecting(serve, target.format(port=forbidden.port)) as site:
        error = refusal(fetcher(site), f"{site.url}/a.png?X-Amz-Signature=abc")
    assert isinstance(error, Rejected)
    assert error.code == "fetch_refused"
    for inner in ("169.254", "localhost", "passwd", "secret", str(forbidden.port)):
        assert inner not in error.message
    assert forbidden.connections == 0
    assert site.connections == 1


def test_redirects_are_followed_as_often_as_set_and_no_more(serve: Serve) -> None:
    def answer(request: Answer) -> None:
        left = int(request.path[1:])
        if left:
            request.send(status=307, Location=f"/{left - 1}")
        else:
            request.send(b"there")

    site = serve(answer)
    assert get(fetcher(site, redirects=2), f"{site.url}/2").data == b"there"
    assert refusal(fetcher(site, redirects=2), f"{site.url}/3").code == "fetch_refused"
    assert refusal(fetcher(site, redirects=0), f"{site.url}/1").code == "fetch_refused"


def test_the_body_of_a_redirect_is_not_read(serve: Serve) -> None:
    def answer(request: Answer) -> None:
        if request.path == "/there":
            request.send(b"there")
            return
        request.send(status=302, Location="/there", Content_Length=str(10**12))
        request.drip(b"x" * MIB, pause=0.001)

    site = serve(answer)
    assert get(fetcher(site), site.url).data == b"there"


def test_a_redirect_without_a_location_is_an_answer_like_any_other(serve: Serve) -> None:
    site = serve(lambda answer: answer.send(status=302))
    assert refusal(fetcher(site), site.url).code == "fetch_denied"


# --- statuses and connections


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (304, Rejected, "fetch_denied"),
        (400, Rejected, "fetch_denied"),
        (401, Rejected, "fetch_denied"),
        (403, Rejected, "fetch_denied"),
        (404, Rejected, "fetch_not_found"),
        (410, Rejected, "fetch_not_found"),
        (408, Transient, "fetch_failed"),
        (425, Transient, "fetch_failed"),
        (429, Transient, "fetch_failed"),
        (500, Transient, "fetch_failed"),
        (503, Transient, "fetch_failed"),
    ],
)
def test_a_status_ends_the_job_or_is_worth_a_retry(
    serve: Serve, status: int, kind: type[FillfleetError], code: str
) -> None:
    site = serve(lambda answer: answer.send(b"", status=status))
    error = refusal(fetcher(site), f"{site.url}/a.png?X-Amz-Signature=abc")
    assert (type(error), error.code) == (kind, code)
    assert f"HTTP {status}" in error.message  # clients look for "HTTP 5" and "HTTP 429"
    assert '/a.png"' in error.message


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("header", "seconds"), [("17", 17.0), ("99999", 3600.0), ("soon", None), (None, None)])
def test_a_host_that_asks_for_fewer_requests_is_named_with_the_pause_it_asks_for(
    serve: Serve, status: int, header: str | None, seconds: float | None
) -> None:
    headers = {"Retry_After": header} if header is not None else {}
    site = serve(lambda answer: answer.send(b"", status=status, **headers))
    error = refusal(fetcher(site), f"{site.url}/a.png")
    assert isinstance(error, Transient)
    assert (error.host, error.retry_after_seconds) == (f"127.0.0.1:{site.port}", seconds)


def test_behind_a_redirect_it_is_still_the_host_that_was_named_and_other_troubles_name_none(serve: Serve) -> None:
    busy = serve(lambda answer: answer.send(b"", status=429))
    broken = serve(lambda answer: answer.send(b"", status=500))
    first = serve(lambda answer: answer.send(b"", status=302, Location=f"http://LOCALHOST:{busy.port}/b.png"))
    error = refusal(fetcher(first, busy, "localhost"), f"{first.url}/a.png")
    assert isinstance(error, Transient)
    assert error.host == f"127.0.0.1:{first.port}"
    other = refusal(fetcher(broken), broken.url)
    assert isinstance(other, Transient)
    assert (other.host, other.retry_after_seconds) == (None, None)


def test_a_host_that_is_not_found_is_worth_a_retry(
    names: dict[str, Iterator[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", missing)
    error = refusal(fetcher(), "http://missing.example/")
    assert (type(error), error.code) == (Transient, "fetch_failed")
    assert "not found" in error.message


def test_a_refused_connection_is_worth_a_retry_and_names_no_address(
    names: dict[str, Iterator[list[str]]], routes: dict[str, Site]
) -> None:
    names["pictures.example"] = iter([[PUBLIC_ADDRESS]])
    error = refusal(fetcher(), "http://pictures.example/?X-Amz-Signature=abc")
    assert (type(error), error.code) == (Transient, "fetch_failed")


@pytest.mark.parametrize("noise", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x00" * 70000])
def test_a_server_that_speaks_no_http_is_worth_a_retry(serve: Serve, noise: bytes) -> None:
    def answer(request: Answer) -> None:
        request.wfile.write(noise)
        request.close_connection = True

    site = serve(answer)
    error = refusal(fetcher(site), site.url)
    assert (type(error), error.code) == (Transient, "fetch_failed")


# --- bytes


def test_a_stated_length_over_the_limit_is_refused_before_the_body(serve: Serve) -> None:
    def answer(request: Answer) -> None:
        request.send(Content_Length="1001")
        request.drip(b"", pause=1)

    site = serve(answer)
    started = time.monotonic()
    error = refusal(fetcher(site), site.url, max_bytes=1000)
    assert (type(error), error.code) == (Rejected, "fetch_too_large")
    assert "1000 bytes" in error.message
    assert time.monotonic() - started < SOON


def test_a_body_without_a_length_is_cut_at_the_limit(serve: Serve) -> None:
    def answer(request: Answer) -> None:
        request.send_response(200)
        request.end_headers()
        request.drip(b"x" * 10_000, pause=0.001)

    site = serve(answer)
    assert refusal(fetcher(site), site.url, max_bytes=100_000).code == "fetch_too_large"


def test_an_endless_chunked_body_is_cut_at_the_limit(serve: Serve) -> None:
    def answer(request: Answer) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.drip(b"2710\r\n" + b"x" * 10_000 + b"\r\n", pause=0.001)

    site = serve(answer)
    assert refusal(fetcher(site), site.url, max_bytes=100_000).code == "fetch_too_large"


def test_an_endless_chunk_header_takes_no_memory(serve: Serve) -> None:
    def answer(request: Answer) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.drip(b"1" * MIB, pause=0.001)

    site = serve(answer)
    with memory_below(16 * MIB):
        assert refusal(fetcher(site), site.url).code == "fetch_failed"


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compression_bomb_is_cut_at_the_limit_without_filling_the_memory(serve: Serve, encoding: str) -> None:
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    bomb = b"".join(packer.compress(bytes(MIB)) for _ in range(256)) + packer.flush()
    assert len(bomb) < MIB
    site = serve(lambda answer: answer.send(bomb, Content_Encoding=encoding))
    fetch = fetcher(site)
    started = time.monotonic()
    with memory_below(16 * MIB):
        error = refusal(fetch, site.url, max_bytes=4 * MIB)
    assert (type(error), error.code) == (Rejected, "fetch_too_large")
    assert time.monotonic() - started < SOON


def test_packed_bytes_count_too(serve: Serve) -> None:
    empty = gzip.compress(b"")

    def answer(request: Answer) -> None:
        request.send_response(200)
        request.send_header("Content-Encoding", "gzip")
        request.end_headers()
        request.drip(empty * 1000, pause=0.001)

    site = serve(answer)
    assert refusal(fetcher(site), site.url, max_bytes=500_000).code == "fetch_too_large"


@pytest.mark.parametrize(
    ("encoding", "body", "kind", "code"),
    [
        ("br", b"x", Rejected, "fetch_refused"),
        ("gzip, gzip", gzip.compress(b"x"), Rejected, "fetch_refused"),
        ("gzip", b"this is not gzip", Rejected, "fetch_refused"),
        ("gzip", gzip.compress(b"x" * 1000)[:-9], Transient, "fetch_failed"),
        ("gzip", b"", Transient, "fetch_failed"),
    ],
)
def test_what_cannot_be_unpacked_is_no_picture(
    serve: Serve, encoding: str, body: bytes, kind: type[FillfleetError], code: str
) -> None:
    site = serve(lambda answer: answer.send(body, Content_Encoding=encoding))
    error = refusal(fetcher(site), site.url)
    assert (type(error), error.code) == (kind, code)


def test_a_body_shorter_than_stated_is_worth_a_retry(serve: Serve) -> None:
    def answer(request: Answer) -> None:
        request.send(b"half", Content_Length="8")
        request.close_connection = True

    site = serve(answer)
    error = refusal(fetcher(site), site.url)
    assert (type(error), error.code) == (Transient, "fetch_failed")


def test_a_body_longer_than_stated_ends_where_stated(serve: Serve) -> None:
    site = serve(lambda answer: answer.send(b"a picture and more", Content_Length="9"))
    assert get(fetcher(site), site.url).data == b"a picture"


def test_two_contradicting_lengths_are_refused(serve: Serve) -> None:
    def answer(request: Answer) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "4")
        request.send_header("Content-Length", "400000000")
        request.end_headers()
        request.wfile.write(b"half")

    site = serve(answer)
    assert refusal(fetcher(site), site.url).code == "fetch_failed"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # in this case alone the HTTP library leaves closing the socket to the garbage collector


# --- time


def drip_body(request: Answer) -> None:
    request.send(Content_Length="1000000")
    request.drip(b"x")


def drip_body_without_length(request: Answer) -> None:
    request.send_response(200)
    request.end_headers()
    request.drip(b"x")


def drip_chunk_header(request: Answer) -> None:
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.drip(b"0")


def drip_gzip(request: Answer) -> None:
    request.send(Content_Length="1000000", Content_Encoding="gzip")
    request.wfile.write(gzip.compress(b"x" * 1000)[:10])
    request.drip(b"\0")


def drip_headers(request: Answer) -> None:
    request.send_response(200)
    request.flush_headers()
    request.drip(b"X-More: x\r\n", pause=0.2)


def drip_one_header(request: Answer) -> None:
    request.send_response(200)
    request.flush_headers()
    request.drip(b"x")


def drip_continues(request: Answer) -> None:
    request.drip(b"HTTP/1.1 100 Continue\r\n\r\n")


def stay_silent(request: Answer) -> None:
    request.drip(b"")


def redirect_slowly_for_ever(request: Answer) -> None:
    time.sleep(0.3)
    request.send(status=302, Location="/again")


@pytest.mark.parametrize(
    "behaviour",
    [
        drip_body,
        drip_body_without_length,
        drip_chunk_header,
        drip_gzip,
        drip_headers,
        drip_one_header,
        drip_continues,
        stay_silent,
        redirect_slowly_for_ever,
    ],
)
def test_an_endless_drip_is_cut_when_the_total_time_is_over(serve: Serve, behaviour: Callable[[Answer], None]) -> None:
    site = serve(behaviour)
    started = time.monotonic()
    error = refusal(fetcher(site, redirects=10), site.url, seconds=0.5)
    assert (type(error), error.code) == (Transient, "fetch_timeout")
    assert 0.5 <= time.monotonic() - started < SOON


def test_a_name_server_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        release.wait(120)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    started = time.monotonic()
    try:
        error = refusal(fetcher(), "http://slow.example/", seconds=0.3)
    finally:
        release.set()
    assert (type(error), error.code) == (Transient, "fetch_timeout")
    assert time.monotonic() - started < SOON


def test_connecting_gets_only_the_time_that_the_name_server_left(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[float] = []

    def resolve(*_: Any, **__: Any) -> Any:
        time.sleep(0.5)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC_ADDRESS, 0))]

    def connect(address: tuple[str, int], timeout: float, *_: Any, **__: Any) -> socket.socket:
        times.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(urllib3.util.connection, "create_connection", connect)
    assert refusal(fetcher(), "http://pictures.example/", seconds=60).code == "fetch_timeout"
    assert 0 < times[0] <= 59.5


def test_nothing_of_a_fetch_stays_behind(serve: Serve) -> None:
    site = serve(lambda answer: answer.send(b"x", status=200 if answer.path == "/" else 500))
    fetch = fetcher(site)
    before = set(threading.enumerate())
    get(fetch, f"{site.url}/")
    refusal(fetch, f"{site.url}/broken")
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        own = {thread for thread in set(threading.enumerate()) - before if "process_request" not in thread.name}
        if not own:
            return
        time.sleep(0.01)
    pytest.fail(f"still running: {own}")


# --- TLS


def test_tls_names_the_host_although_it_connects_to_the_address(names: dict[str, Iterator[list[str]]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        port = listener.getsockname()[1]
        names["pictures.example"] = iter([["127.0.0.1"]])

        def hello() -> bytes:
            connection, _ = listener.accept()
            with connection:
                return connection.recv(65536)

        greeting = pool.submit(hello)
        error = refusal(fetcher(f"pictures.example:{port}"), f"https://pictures.example:{port}/")
        assert b"pictures.example" in greeting.result()
    assert (type(error), error.code) == (Transient, "fetch_failed")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate with its key in one file, signed by itself, for pictures.example."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    command = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    names = ["-addext", "subjectAltName=DNS:pictures.example"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "certificate.pem").read_text())
    return both


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_certificate_nobody_vouches_for_is_refused(
    serve: Serve, tls: ssl.SSLContext, names: dict[str, Iterator[list[str]]]
) -> None:
    site = serve(lambda answer: answer.send(b"x"), tls)
    names["pictures.example"] = iter([["127.0.0.1"]])
    error = refusal(fetcher("pictures.example"), f"https://pictures.example:{site.port}/")
    assert (type(error), error.code) == (Transient, "fetch_failed")
    assert "certificate" in error.message
    assert site.requests == []


def test_a_certificate_must_be_for_the_named_host(
    serve: Serve,
    tls: ssl.SSLContext,
    certificate: Path,
    names: dict[str, Iterator[list[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(certificate))
    site = serve(lambda answer: answer.send(b"secure"), tls)
    names.update({name: iter([["127.0.0.1"]]) for name in ("pictures.example", "other.example")})
    fetch = fetcher("pictures.example", "other.example")
    assert get(fetch, f"https://pictures.example:{site.port}/").data == b"secure"
    assert refusal(fetch, f"https://other.example:{site.port}/").code == "fetch_failed"
    assert len(site.requests) == 1


def test_https_is_never_given_up_for_http_by_a_redirect(
    serve: Serve,
    tls: ssl.SSLContext,
    certificate: Path,
    names: dict[str, Iterator[list[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(certificate))
    plain = serve(lambda answer: answer.send(b"plain"))
    site = serve(lambda answer: answer.send(status=301, Location=f"http://127.0.0.1:{plain.port}/"), tls)
    names["pictures.example"] = iter([["127.0.0.1"]])
    error = refusal(fetcher("pictures.example", plain), f"https://pictures.example:{site.port}/")
    assert error.code == "fetch_refused"
    assert plain.connections == 0


# --- to a file


def test_a_download_is_there_wholly_with_its_hash(serve: Serve, tmp_path: Path) -> None:
    body = bytes(range(256)) * 1000
    site = serve(lambda answer: answer.send(body))
    target = tmp_path / "cache" / "adapter.safetensors"
    sha256 = fetcher(site).download(site.url, target, max_bytes=MIB, seconds=60, what="loras[0].path")
    assert sha256 == hashlib.sha256(body).hexdigest()
    assert target.read_bytes() == body
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("behaviour", ["late", "long", "missing"])
def test_a_failed_download_leaves_the_folder_as_it_was(serve: Serve, tmp_path: Path, behaviour: str) -> None:
    numbers = count()

    def answer(request: Answer) -> None:
        next(numbers)
        if behaviour == "missing":
            request.send(status=404)
        elif behaviour == "late":
            drip_body(request)
        else:
            request.send_response(200)
            request.end_headers()
            request.drip(b"x" * 10_000, pause=0.001)

    site = serve(answer)
    target = tmp_path / "adapter.safetensors"
    target.write_bytes(b"the old one")
    seconds = 0.4 if behaviour == "late" else 60.0
    with pytest.raises(FillfleetError, match=r"^loras\[0\]\.path: "):
        fetcher(site).download(site.url, target, max_bytes=100_000, seconds=seconds, what="loras[0].path")
    assert next(numbers) <= 1  # none at all where the time was over before the request was out
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert target.read_bytes() == b"the old one"
