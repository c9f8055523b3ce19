"""The envelope `{code, message, data}`: every answer of the API, also every error, is one.

An error says in words what is wrong and what to do next. Nothing internal (hosts, traces, secrets) may stand in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Final

from starlette.responses import Response

from common.contract import Problem

SUCCESS: Final = "success"
_SHOWN_PROBLEMS: Final = 20


class VendorCode(IntEnum):
    """What clients of the hosted endpoint know from `data.code`."""

    INVALID_PARAMETER = 1401
    MEDIA_ACCESS_FAILED = 1402
    INTERNAL = 5000
    TIMED_OUT = 5004


class ApiError(Exception):
    """An answer other than success, raised anywhere below a route."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        data: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.data = dict(data or {})
        self.headers = dict(headers or {})


class EnvelopeResponse(Response):
    """JSON that can always be written: half surrogate pairs, which JSON can carry, stay escaped."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return `content` as JSON in UTF-8."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")


def success(data: Any, *, message: str = SUCCESS, headers: Mapping[str, str] | None = None) -> EnvelopeResponse:
    """Return `data` in an envelope with HTTP status 200."""
    return _answer(200, message, data, headers)


def failure(error: ApiError) -> EnvelopeResponse:
    """Return the envelope that tells of `error`."""
    return _answer(error.status, error.message, error.data, error.headers)


def invalid(problems: Sequence[Problem], *, status: int = 400) -> ApiError:
    """Return the error that names each field, what it held, what is wrong with it, and what is allowed."""
    shown = problems[:_SHOWN_PROBLEMS]
    errors = [
        {"field": problem.field, "value": problem.value, "reason": problem.reason, "allowed": problem.allowed}
        for problem in shown
    ]
    more = len(problems) - len(shown)
    message = "; ".join([*map(str, shown), *([f"and {more} more"] if more else [])])
    return ApiError(status, message, data={"code": int(VendorCode.INVALID_PARAMETER), "errors": errors})


def _answer(status: int, message: str, data: Any, headers: Mapping[str, str] | None) -> EnvelopeResponse:
    return EnvelopeResponse(
        {"code": status, "message": message, "data": data},
        status_code=status,
        # Answers hold presigned links: no cache on the way may keep them.
        headers={"Cache-Control": "no-store", **(headers or {})},
    )
