"""Errors keep all that they say when they travel between processes."""

from __future__ import annotations

import pickle

import pytest

from common.errors import Cancelled, Draining, FillfleetError, JobFailed, LeaseLost, Rejected, Transient, Unavailable


@pytest.mark.parametrize("kind", [Rejected, Transient, Unavailable, LeaseLost, Cancelled, Draining, JobFailed])
def test_every_error_survives_pickling(kind: type[FillfleetError]) -> None:
    error = pickle.loads(pickle.dumps(kind("a_code", "what is wrong")))  # noqa: S301 - our own
    assert (type(error), error.code, error.message, str(error)) == (kind, "a_code", "what is wrong", "what is wrong")


def test_a_host_that_asks_for_a_pause_survives_pickling() -> None:
    error = Transient("fetch_failed", "image: HTTP 429", retry_after_seconds=7.5, host="pictures.example:81")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (again.retry_after_seconds, again.host, again.message) == (7.5, "pictures.example:81", "image: HTTP 429")
    plain = pickle.loads(pickle.dumps(Transient("fetch_failed", "image: the connection broke off")))  # noqa: S301
    assert (plain.retry_after_seconds, plain.host) == (None, None)
