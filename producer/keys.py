"""API keys: made here, shown once, stored only as HMAC-SHA256 under API_KEY_SECRET, and revocable.

A key is "ff_" + 40 random characters + 6 that check them, so a mistyped one is told apart without the database.
Keys must never be logged; `hint`, the first characters, tells them apart in lists.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, func, select, update
from sqlalchemy.dialects.postgresql import insert

from common.errors import Rejected
from common.ids import new_id, parse_id
from common.settings import Settings
from common.tables import api_keys, owners

PREFIX: Final = "ff_"
_RANDOM_CHARACTERS: Final = 40  # 238 bits
_CHECK_CHARACTERS: Final = 6  # a CRC-32 in base 62
_HINT_CHARACTERS: Final = 9
_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SHAPE: Final = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_RANDOM_CHARACTERS + _CHECK_CHARACTERS}}}")
_FINGERPRINT: Final = "which secret is this?"  # never a key: no key looks like it
_OWNER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")


@dataclass(frozen=True)
class Caller:
    """Whom a key belongs to."""

    owner: UUID
    key: UUID


@dataclass(frozen=True)
class NewKey:
    """A key that was just made. `text` is the secret itself: show it once, store it nowhere."""

    id: UUID
    owner: UUID
    owner_name: str
    hint: str
    text: str


@dataclass(frozen=True)
class KeyInfo:
    """What may be shown of a stored key."""

    id: UUID
    owner_name: str
    hint: str
    created_at: datetime
    revoked_at: datetime | None


def create(connection: Connection, owner_name: str, settings: Settings, *, new_secret: bool = False) -> NewKey:
    """Make a key for the owner of that name, and the owner too with its first key.

    Raises Rejected: owner_name, and, unless `new_secret`, secret_differs where the newest key was made under another
    API_KEY_SECRET: the API, which has that one, would never know the key.
    """
    _check_owner_name(owner_name)
    if not new_secret:
        _check_secret(connection, settings)
    owner = ensure_owner(connection, owner_name)
    random = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))
    text = PREFIX + random + _check(random)
    key = NewKey(id=new_id(), owner=owner, owner_name=owner_name, hint=text[:_HINT_CHARACTERS], text=text)
    connection.execute(
        insert(api_keys).values(
            id=key.id,
            owner_id=owner,
            hint=key.hint,
            key_hash=_hash(text, settings),
            secret_fingerprint=_hash(_FINGERPRINT, settings),
        )
    )
    return key


def ensure_owner(connection: Connection, name: str) -> UUID:
    """Return the owner of that name, who is made where nobody has it yet. Raises Rejected (owner_name)."""
    _check_owner_name(name)
    connection.execute(insert(owners).values(id=new_id(), name=name).on_conflict_do_nothing())
    owner: UUID = connection.execute(select(owners.c.id).where(owners.c.name == name)).scalar_one()
    return owner


def is_well_formed(text: str) -> bool:
    """Whether `text` could be a key of ours; a key that was mistyped or cut off is not."""
    if not _SHAPE.fullmatch(text):
        return False
    random = text.removeprefix(PREFIX)[:_RANDOM_CHARACTERS]
    return text.endswith(_check(random))


def authenticate(connection: Connection, text: str, settings: Settings) -> Caller | None:
    """Return whom the key `text` belongs to, or None where it is unknown or revoked. Asked at every request."""
    if not is_well_formed(text):
        return None
    row = connection.execute(
        select(api_keys.c.id, api_keys.c.owner_id).where(
            api_keys.c.key_hash == _hash(text, settings), api_keys.c.revoked_at.is_(None)
        )
    ).one_or_none()
    return None if row is None else Caller(owner=row.owner_id, key=row.id)


def list_keys(connection: Connection) -> list[KeyInfo]:
    """Return all keys, revoked ones too, by owner and age."""
    rows = connection.execute(_infos().order_by(owners.c.name, api_keys.c.created_at, api_keys.c.id))
    return [KeyInfo(*row) for row in rows]


def revoke(connection: Connection, name: str, settings: Settings) -> KeyInfo:
    """Revoke the key with that id, hint, or text; it stops working at once. Revoking twice is fine.

    Raises Rejected: key_not_found, key_ambiguous (two keys share the hint).
    """
    found = list(connection.execute(_infos().where(_names(name, settings))))
    if not found:
        raise Rejected("key_not_found", f"no key has the id or hint {name[:40]!r}; `fillfleet keys list` shows them")
    if len(found) > 1:
        raise Rejected("key_ambiguous", f"{len(found)} keys have the hint {name!r}; name one by its id")
    key = found[0][0]
    connection.execute(
        update(api_keys).where(api_keys.c.id == key, api_keys.c.revoked_at.is_(None)).values(revoked_at=func.now())
    )
    return KeyInfo(*connection.execute(_infos().where(api_keys.c.id == key)).one())


def _infos() -> Select[Any]:
    return select(
        api_keys.c.id, owners.c.name, api_keys.c.hint, api_keys.c.created_at, api_keys.c.revoked_at
    ).join_from(api_keys, owners)


def _names(name: str, settings: Settings) -> ColumnElement[bool]:
    if is_well_formed(name):
        return api_keys.c.key_hash == _hash(name, settings)
    key = parse_id(name)
    return api_keys.c.hint == name if key is None else api_keys.c.id == key


def _check_owner_name(name: str) -> None:
    if not _OWNER_NAME.fullmatch(name):
        raise Rejected(
            "owner_name",
            f"owner: {name[:100]!r} is not allowed; allowed: 1 to 100 letters, digits and . _ @ + -, "
            "beginning with a letter or digit",
        )


def _check(random: str) -> str:
    rest = zlib.crc32(random.encode())
    digits = []
    for _ in range(_CHECK_CHARACTERS):
        rest, digit = divmod(rest, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _check_secret(connection: Connection, settings: Settings) -> None:
    newest = select(api_keys.c.secret_fingerprint).order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc()).limit(1)
    known = connection.execute(newest).scalar_one_or_none()
    if known is not None and not hmac.compare_digest(known, _hash(_FINGERPRINT, settings)):
        raise Rejected(
            "secret_differs",
            "API_KEY_SECRET is not the one that the newest key was made under, so the API would refuse the new key; "
            "set the API's own (a system that `fillfleet up --dir D` started has it in D/fillfleet.json), or say "
            "--new-secret if it was changed on purpose, which ends all older keys",
        )


def _hash(text: str, settings: Settings) -> bytes:
    return hmac.new(settings.secret("api_key_secret").encode(), text.encode(), hashlib.sha256).digest()
