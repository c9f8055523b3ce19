"""A receiver can tell with the public library, and with the vendor's recipe, that a webhook is ours."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from common.webhook_signature import WebhookSignature, check_secret, make_secret, signed_headers

BODY = '{"type":"batch.done","name":"Füchse"}'.encode()


def headers(secret: str, form: WebhookSignature = WebhookSignature.STANDARD, body: bytes = BODY) -> dict[str, str]:
    return signed_headers(secret, form, webhook_id="0198", timestamp=int(time.time()), body=body)


def secret_of(count: int) -> str:
    return "whsec_" + base64.b64encode(bytes(range(count))).decode()


@pytest.mark.parametrize("secret", [make_secret(), secret_of(24), secret_of(64), "whsec_" + "0f" * 24])
def test_the_public_library_takes_our_signature(secret: str) -> None:
    check_secret(secret)
    assert Webhook(secret).verify(BODY, headers(secret))["name"] == "Füchse"


def test_the_public_library_makes_the_very_same_signature() -> None:
    # The example of the library's own documentation and tests.
    made = signed_headers(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        WebhookSignature.STANDARD,
        webhook_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert made == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("change", ["body", "webhook-id", "webhook-timestamp", "secret"])
def test_a_webhook_that_was_changed_is_not_ours(change: str) -> None:
    secret = make_secret()
    sent, body = headers(secret), BODY
    if change == "body":
        body = BODY.replace(b"done", b"cancelled")
    elif change == "webhook-timestamp":
        sent[change] = str(int(sent[change]) + 1)
    elif change == "secret":
        secret = make_secret()
    else:
        sent[change] += "0"
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(secret).verify(body, sent)


def test_the_vendors_form_is_hex_under_the_secret_as_it_is_written() -> None:
    secret = make_secret()
    sent = headers(secret, WebhookSignature.VENDOR)
    signed = f"{sent['webhook-id']}.{sent['webhook-timestamp']}.{BODY.decode()}".encode()
    expected = hmac.new(secret.removeprefix("whsec_").encode(), signed, hashlib.sha256).hexdigest()
    assert sent["webhook-signature"] == f"v3,{expected}"


@given(body=st.binary(max_size=200), key=st.binary(min_size=24, max_size=64))
def test_any_bytes_are_signed_as_they_are_sent(body: bytes, key: bytes) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    check_secret(secret)
    sent = headers(secret, body=body)
    signed = f"0198.{sent['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert sent["webhook-signature"] == f"v1,{expected}"


def test_every_secret_is_a_new_one() -> None:
    assert make_secret() != make_secret()


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",  # no prefix
        secret_of(23),
        secret_of(65),
        secret_of(32).rstrip("="),  # libraries disagree about what that means
        "whsec_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        secret_of(24) + "\n",
        "whsec_" + "ü" * 32,
    ],
)
def test_a_secret_that_libraries_would_read_differently_is_refused_with_a_recipe(secret: str) -> None:
    with pytest.raises(ValueError, match="openssl rand -base64 32") as refusal:
        check_secret(secret)
    assert not secret.removeprefix("whsec_").strip() or secret not in str(refusal.value)
