"""What the errors of the Hugging Face hub mean for us, in words without addresses, tokens or paths."""

from __future__ import annotations

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined] # whichever client it uses

from common.errors import Rejected, Transient
from common.fetch import OVERLOADED
from common.retry_after import retry_after_seconds
from common.urls import host_of


def in_words(error: Exception) -> Rejected | Transient | None:
    """Return our error for one of the hub's, or None where it is of another kind."""
    match error:
        case GatedRepoError():
            return Rejected("hub_gated", "is a gated model of the hub")
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            return _unavailable()  # not in the cache, and the hub could not be asked
        case RepositoryNotFoundError():
            return Rejected("hub_not_found", "is not a public model of the hub")
        case RevisionNotFoundError() | EntryNotFoundError():
            return Rejected("hub_not_found", "has no such file or revision on the hub")
        case HFValidationError():
            return Rejected("hub_not_found", "is not a valid name of a model on the hub")
        case HfHubHTTPError():
            status = error.response.status_code
            if status in OVERLOADED:
                return Transient(
                    "hub_unavailable",
                    f"the Hugging Face hub is busy (HTTP {status})",
                    retry_after_seconds=retry_after_seconds(error.response.headers.get("Retry-After")),
                    host=host_of(str(error.response.url)),
                )
            if status >= 500 or status in {408, 425, 429}:
                return _unavailable()
            return Rejected("hub_refused", f"is refused by the hub (HTTP {status})")
        case ClientError() | ConnectionError() | TimeoutError():
            return _unavailable()
        case EnvironmentError() if isinstance(error.__cause__, Exception):
            return in_words(error.__cause__)  # diffusers and transformers wrap the hub's errors
        case _:
            return None


def _unavailable() -> Transient:
    return Transient("hub_unavailable", "the Hugging Face hub does not answer")
