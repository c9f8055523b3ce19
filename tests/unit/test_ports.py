"""Ports for embedded servers: free, claimed once, and out of the range of outgoing connections."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from infra.embedded.ports import PortClaims, is_free


@pytest.fixture
def claims() -> Iterator[PortClaims]:
    made = PortClaims()
    yield made
    made.release()


def test_a_claimed_port_is_free_for_its_server_and_not_claimed_twice(claims: PortClaims) -> None:
    ports = [claims.claim() for _ in range(50)]
    assert len(set(ports)) == 50
    assert all(is_free(port) for port in ports)


def test_no_port_lies_where_outgoing_connections_get_theirs(claims: PortClaims) -> None:
    assert all(20_000 <= claims.claim() < 32_000 for _ in range(50))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets systems tell each other")
def test_a_port_that_another_system_has_claimed_is_not_claimed(claims: PortClaims) -> None:
    other = PortClaims()
    port = other.claim()
    assert claims.claim(port) != port
    other.release()
    assert claims.claim(port) == port


def test_a_preferred_port_that_is_taken_is_replaced(claims: PortClaims) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert not is_free(port)
        assert claims.claim(port) != port


def test_twins_are_both_claimed(claims: PortClaims) -> None:
    port = claims.claim_twins(10_000)
    assert is_free(port)
    assert is_free(port + 10_000)
    assert claims.claim(port) != port
    assert claims.claim(port + 10_000) != port + 10_000


def test_a_released_port_can_be_claimed_again(claims: PortClaims) -> None:
    port = claims.claim()
    claims.release(port)
    assert claims.claim(port) == port
