"""One host has one name, however its URLs are written: by it hosts are left alone. A place shows no secret."""

from __future__ import annotations

import pytest

from common.urls import host_of, place_of


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Pictures.Example/a.png", "pictures.example"),
        ("https://pictures.example:443/a.png", "pictures.example"),
        ("https://pictures.example:0443/a.png", "pictures.example"),
        ("http://pictures.example:80/", "pictures.example"),
        ("http://pictures.example:443/", "pictures.example:443"),
        ("https://pictures.example:8080/a.png?b#c", "pictures.example:8080"),
        ("http://[2606:4700::1]:8080/a.png", "[2606:4700::1]:8080"),
        ("http://[2606:4700::1]/a.png", "[2606:4700::1]"),
        ("https://Bücher.example/a.png", "xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example/a.png", "xn--bcher-kva.example"),
        ("s3://fills/a.png", "fills"),
        ("a.png", ""),
        ("https://pictures.example:port/a.png", ""),
        ("https://[::1/a.png", ""),
        (f"https://{'ü' * 100}.example/", f"{'ü' * 100}.example"),
    ],
)
def test_a_host_has_one_name(url: str, host: str) -> None:
    assert host_of(url) == host


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://app:hunter2@db:5432/fillfleet?sslkey=hunter2", "db:5432/fillfleet"),
        ("redis://:hunter2@127.0.0.1:6379/0", "127.0.0.1:6379/0"),
        ("rediss://[::1]:6380", "[::1]:6380"),
        ("postgresql:///fillfleet?host=/run/postgresql", "its local socket/fillfleet"),
        ("http://s3:8333/", "s3:8333"),
    ],
)
def test_the_place_of_a_server_holds_nothing_secret(url: str, place: str) -> None:
    assert place_of(url) == place
