"""Reads a JSON object from a request body, strictly: what two parsers could read differently is refused with words.

Whatever the body holds, the answer is an object or a 400: never a crash, never a guess.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

import anyio
from starlette.requests import Request

from common.contract import Problem, shorten
from producer.api.envelope import ApiError, invalid
from producer.manifest.strict_json import MAX_DEPTH, BadJson, bounded_integer, check_depth, unique_keys

_SMALL_BYTES: Final = 64 * 1024  # parsed in a millisecond or two, whatever it holds
_ALLOWED: Final = 'a JSON object such as {"image": "https://…"}'


async def read_json_object(request: Request) -> dict[str, Any]:
    """Return the body's object. Raises ApiError (400) naming what is wrong with it."""
    _check_headers(request)
    body = await request.body()
    if len(body) <= _SMALL_BYTES:
        return parse_json_object(body)
    return await anyio.to_thread.run_sync(parse_json_object, body)  # others are served meanwhile


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Return the object that `body` holds. Raises ApiError (400)."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad(f"is not UTF-8: byte {error.start} is wrong") from None
    if not text.strip():
        raise _bad("is empty")
    try:
        value = json.loads(text, object_pairs_hook=unique_keys, parse_constant=_no_constant, parse_int=bounded_integer)
        check_depth(value)
    except json.JSONDecodeError as error:
        raise _bad(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _bad(f"is nested deeper than {MAX_DEPTH} levels") from None
    except BadJson as error:
        raise _bad(str(error)) from None
    if not isinstance(value, dict):
        raise _bad("is not an object", shorten(value))
    return value


def _check_headers(request: Request) -> None:
    kind = request.headers.get("content-type", "application/json").lower().partition(";")[0].strip()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise _bad_header("Content-Type", kind, "application/json")
    check_encoding(request)


def check_encoding(request: Request) -> None:
    """Raise ApiError (400) unless the body comes as plain UTF-8, so far as its headers say."""
    kind, _, parameters = request.headers.get("content-type", "").lower().partition(";")
    charset = parameters.partition("charset=")[2].split(";")[0].strip(" \"'")
    if charset not in {"", "utf-8", "utf8", "us-ascii"}:
        raise _bad_header("Content-Type", f"charset={charset}", f"{kind.strip()} in UTF-8")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise _bad_header("Content-Encoding", encoding, "none: send the body uncompressed")


def _no_constant(name: str) -> NoReturn:
    raise _bad(f"holds {name}, which is not JSON")


def _bad(reason: str, value: str = "") -> ApiError:
    return invalid([Problem("body", value, reason, _ALLOWED)])


def _bad_header(name: str, value: str, allowed: str) -> ApiError:
    return invalid([Problem(name, shorten(value), "is not supported", allowed)])
