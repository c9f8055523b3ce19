"""One line of JSON as an object, strictly: what two parsers could read differently is refused, in words.

The API reads bodies by the same rules, so that a row means the same in a file and in a request.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from common.contract import shorten

MAX_DEPTH: Final = 32
_MAX_DIGITS: Final = 4000  # Python refuses to read more than 4300: the time it takes grows with their square


class BadJson(ValueError):
    """The message says what is wrong with the line, for after its name."""


def parse_line(line: str, *, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Return the object that `line` holds. Raises BadJson."""
    try:
        value = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise BadJson(f"is not JSON: {error.msg} at column {error.pos + 1}") from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    if not isinstance(value, dict):
        raise BadJson('is not an object; write one object a line, such as {"image": "https://…"}')
    if line.count("{") + line.count("[") > max_depth:  # else it cannot be deep
        check_depth(value, max_depth)
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these pairs. Raises BadJson where a key comes twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadJson(f"has the key {shorten(key)} twice in one object")
            seen.add(key)
    return found


def _no_constant(name: str) -> NoReturn:
    raise BadJson(f"holds {name}, which is not JSON; write null")


def bounded_integer(digits: str) -> int:
    """Return the integer. Raises BadJson where it has so many digits that reading it would take long."""
    if len(digits) > _MAX_DIGITS:
        raise BadJson(f"holds a number of {len(digits)} digits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise BadJson(f"holds {shorten(digits, 40)}, which is too large for a number")
    return value


def check_depth(value: Any, max_depth: int = MAX_DEPTH) -> None:
    """Raise BadJson where a value is nested deeper than that."""
    level = [value]
    for _ in range(max_depth + 1):
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return
    raise _too_deep(max_depth)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _too_deep(max_depth: int) -> BadJson:
    return BadJson(f"is nested deeper than {max_depth} levels")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=unique_keys, parse_constant=_no_constant, parse_int=bounded_integer, parse_float=_number
)
