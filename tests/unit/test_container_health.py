"""The health check of the containers, against real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from click.testing import CliRunner, Result

from common.settings import get_settings
from infra.docker.health import health


@contextmanager
def answering(status: int) -> Iterator[int]:
    """Serve the status under /healthz and 404 elsewhere; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is bound, so that nobody else takes it, but on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def check(*arguments: str) -> Result:
    return CliRunner().invoke(health, arguments)


def test_a_process_that_answers_200_is_healthy() -> None:
    with answering(200) as port:
        assert check("http", str(port), "/healthz").exit_code == 0


@pytest.mark.parametrize("status", [404, 500, 503])
def test_any_other_answer_is_unhealthy(status: int) -> None:
    with answering(status) as port:
        result = check("http", str(port), "/healthz")
    assert result.exit_code == 1
    assert str(status) in result.output


def test_a_closed_port_is_unhealthy(closed_port: int) -> None:
    assert check("http", str(closed_port), "/healthz").exit_code == 1


def test_a_proxy_in_the_environment_is_not_asked(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    with answering(200) as port:
        assert check("http", str(port), "/healthz").exit_code == 0


def test_a_dispatcher_without_its_database_is_unhealthy(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILLFLEET_ENV", "test")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://app:secret@127.0.0.1:{closed_port}/fillfleet")
    get_settings.cache_clear()
    try:
        result = check("polling", "30")
    finally:
        get_settings.cache_clear()
    assert result.exit_code == 1
    assert "secret" not in result.output
