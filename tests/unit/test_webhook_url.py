"""A webhook URL that could never work is refused when it is given, in words that say what to do."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from common.errors import Rejected
from common.settings import Environment, Settings
from common.webhook_signature import make_secret
from producer.webhooks import check_webhook_url

SETTINGS = Settings(fillfleet_env=Environment.TEST, webhook_secret=SecretStr(make_secret()))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook?token=hunter2#part",
        "http://example.com:8080/hook",
        "https://[2606:4700::1111]/hook",
        "https://füchse.example/h%20ook",
        "https://example.com/" + "a" * (2048 - len("https://example.com/")),
    ],
)
def test_an_http_url_is_taken(url: str) -> None:
    check_webhook_url(url, SETTINGS)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "must begin with http:// or https://"),
        ("example.com/hook", "must begin with http:// or https://"),
        ("ftp://example.com/hook", "must begin with http:// or https://"),
        ("file:///etc/passwd", "must begin with http:// or https://"),
        ("https:///hook", "has no valid host"),
        ("https://example.com:port/hook", "check its host and port"),
        ("https://[::1/hook", "check its host and port"),
        ("https://*.example.com/hook", "check its host and port"),
        ("https://me:hunter2@example.com/hook", "holds a user name or password"),
        ("https://example.com/a hook", "holds a space"),
        ("https://example.com/hook\r\nX-Other: 1", "holds a line break"),
        ("https://example.com\\@127.0.0.1/hook", "holds a backslash"),
        ("https://example.com/" + "a" * 2029, "is 2049 characters long; at most 2048 are allowed"),
    ],
)
def test_what_is_no_http_url_is_refused_by_name_and_reason(url: str, says: str) -> None:
    with pytest.raises(Rejected, match=r"^webhook_url: ") as refusal:
        check_webhook_url(url, SETTINGS)
    assert says in refusal.value.message
    assert "hunter2" not in refusal.value.message


def test_without_a_secret_webhooks_are_refused_with_the_setting_to_set() -> None:
    off = SETTINGS.model_copy(update={"webhook_secret": None})
    with pytest.raises(Rejected, match="webhooks are off here: the operator sets WEBHOOK_SECRET"):
        check_webhook_url("https://example.com/hook", off)
