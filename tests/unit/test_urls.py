"""One host has one name, however its URLs are written: by it hosts are counted and left alone."""

from __future__ import annotations

import pytest

from common.urls import host_of


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
