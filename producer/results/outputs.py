"""Brings a row's outputs from the store, checked against the table's sha256. It writes no file."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Final, Protocol

from common.errors import FillfleetError, Rejected, Transient, Unavailable
from common.objects import Objects
from common.safety_policy import SafetyPolicy
from producer.results.columns import Row

_PAUSES_SECONDS: Final = (0.5, 2.0)
"""Before the second and the third try."""
_COLUMNS: Final = ("outputs", "output_sha256", "output_bytes", "nsfw_policy")
DROPPED: Final = "output_dropped"
_MAX_BYTES: Final = 256 * 1024 * 1024
"""For an output whose size is unknown: far more than four megapixels take in any format."""


class OutputStore(Protocol):
    """Where outputs lie. Several threads call it at once."""

    def fetch(self, uri: str, *, max_bytes: int) -> bytes:
        """Return the content behind an s3:// URI of the table.

        Raises Rejected where it is not there or may not be read, Transient and Unavailable where another try may help.
        """


class BucketOutputs:
    """The outputs in our own bucket, for who may read all of it."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._prefix = objects.uri("")

    def fetch(self, uri: str, *, max_bytes: int) -> bytes:
        """See OutputStore."""
        if not uri.startswith(self._prefix):
            raise Rejected("output_elsewhere", f"{uri} lies in another bucket than the one configured here")
        return self._objects.get(uri.removeprefix(self._prefix), max_bytes=max_bytes)


@dataclass(frozen=True)
class Output:
    """One output as the table knows it; what is unknown is None."""

    uri: str | None
    sha256: str | None
    bytes: int | None
    dropped: bool = False
    """Whether it was flagged and nothing of it is stored."""


def outputs_of(row: Row) -> list[Output]:
    """Return the outputs of a row; none unless it is completed."""
    uris, sums, sizes, policies = (row.get(name) or [] for name in _COLUMNS)
    return [
        Output(
            uri,
            sums[n] if n < len(sums) else None,
            sizes[n] if n < len(sizes) else None,
            dropped=uri is None and n < len(policies) and policies[n] == SafetyPolicy.DROP,
        )
        for n, uri in enumerate(uris)
    ]


def fetch_output(output: Output, store: OutputStore) -> bytes:
    """Return the content of an output, after up to three tries.

    Raises Rejected where it is gone for good or was never stored (output_dropped), Transient where it did not arrive or
    not unharmed, and Unavailable where the store does not answer, so that the others would not come either.
    """
    if output.dropped:
        raise Rejected(DROPPED, "the safety checker flagged it, and nothing of it was stored")
    if output.uri is None:
        raise Rejected("output_unknown", "the table does not say where it lies")
    for pause in _PAUSES_SECONDS:
        try:
            return _fetch(output, output.uri, store)
        except (Transient, Unavailable):
            time.sleep(pause)
    return _fetch(output, output.uri, store)


def _fetch(output: Output, uri: str, store: OutputStore) -> bytes:
    data = store.fetch(uri, max_bytes=_MAX_BYTES if output.bytes is None else output.bytes)
    if output.sha256 is not None and hashlib.sha256(data).hexdigest() != output.sha256:
        raise Transient("output_damaged", "what arrived is not what was stored (another sha256)")
    return data


def reason(error: FillfleetError) -> str:
    """Return why an output could not be had, for the table."""
    return f"{error.code}: {error.message}"
