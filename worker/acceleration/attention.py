"""Has one transformer compute attention with another backend of diffusers', and no other model of this process."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_dispatch import attention_backend

from common.errors import Rejected


def attend_with(transformer: Any, backend: str) -> None:
    """Set the backend, by diffusers' name. Raises Rejected (profile_device) where it cannot be used here."""
    try:
        # diffusers makes the backend the whole process's default as well; the context takes that back at its end.
        with attention_backend("native"):
            transformer.set_attention_backend(backend)
    except (RuntimeError, ValueError, ImportError) as error:
        raise Rejected(
            "profile_device", f"FILL_ATTENTION: {backend} cannot be used on this host ({error}); use native"
        ) from error
