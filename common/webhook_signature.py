"""Signs webhooks, so that their receiver can tell ours from anybody else's: Standard Webhooks, or the vendor's form.

The secret stays in here: it goes into the signature and into no message.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from enum import StrEnum
from typing import Final

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every secret begins with
MIN_KEY_BYTES: Final = 24
MAX_KEY_BYTES: Final = 64
_NEW_KEY_BYTES: Final = 32


class WebhookSignature(StrEnum):
    """How webhooks are signed. Both sign `{id}.{timestamp}.{body}` with HMAC-SHA256."""

    STANDARD = "standard"
    """Standard Webhooks: `v1,<base64>`; the key is the secret after its prefix, base64-decoded."""
    VENDOR = "vendor"
    """As the hosted endpoint signs: `v3,<hex>`; the key is the secret after its prefix, as it is written."""


def make_secret() -> str:
    """Return a new secret."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_NEW_KEY_BYTES)).decode()


def check_secret(secret: str) -> None:
    """Raise ValueError, with words for the operator, unless `secret` is fit to sign with in both forms."""
    try:
        fits = secret.startswith(SECRET_PREFIX) and MIN_KEY_BYTES <= len(_decoded(secret)) <= MAX_KEY_BYTES
    except (binascii.Error, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"must be {SECRET_PREFIX} and then base64 of {MIN_KEY_BYTES} to {MAX_KEY_BYTES} random bytes; "
            f'make one with: echo "{SECRET_PREFIX}$(openssl rand -base64 {_NEW_KEY_BYTES})"'
        )


def signed_headers(
    secret: str, signature: WebhookSignature, *, webhook_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """Return the headers webhook-id, webhook-timestamp and webhook-signature of one delivery.

    `timestamp` is in seconds since 1970, `body` the very bytes that are sent. The id is the same in every try.
    """
    signed = b".".join((webhook_id.encode(), str(timestamp).encode(), body))
    if signature is WebhookSignature.STANDARD:
        value = "v1," + base64.b64encode(hmac.new(_decoded(secret), signed, hashlib.sha256).digest()).decode()
    else:
        value = "v3," + hmac.new(secret.removeprefix(SECRET_PREFIX).encode(), signed, hashlib.sha256).hexdigest()
    return {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp), "webhook-signature": value}


def _decoded(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
