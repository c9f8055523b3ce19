"""The licence that a model states in its card: the metadata at the head of the README.md in its folder.

Nothing here asks which model it is, and nothing judges a licence text: its name says whether commercial use is ruled
out, a short list says which licences allow it, and of all others the terms have to be read. A card is anyone's text:
whatever stands in it, reading it never fails.
"""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from huggingface_hub import metadata_load

CARD: Final = "README.md"
HUB_PAGES: Final = "https://huggingface.co"
"""Where people read a model's terms, also where files come from a mirror (HF_ENDPOINT)."""
_OTHER: Final = "other"
"""The hub's word for a licence that only `license_name` names."""
_ALLOWING: Final = frozenset(
    {
        *("apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "mit", "unlicense", "zlib"),
        *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
        *("agpl-3.0", "gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "mpl-2.0"),
    }
)
"""The hub's ids of licences whose text allows commercial use to everyone; each has other duties of its own."""
_MARKDOWN_LINK: Final = re.compile(r"\[([^\[\]]{1,100})\]\((https?://[^()\s]{1,500})\)")
_SHOWN_CHARACTERS: Final = 200


class CommercialUse(StrEnum):
    """What the licence's name tells about commercial use."""

    ALLOWED = "allowed"
    RULED_OUT = "ruled out"
    UNKNOWN = "unknown"
    """The name does not tell: the terms have to be read."""


@dataclass(frozen=True)
class Terms:
    """A text to read: what it is called, and its address or its file on this host."""

    title: str
    link: str


@dataclass(frozen=True)
class ModelLicence:
    """`name` is None where the licence is unknown; `why_unknown` then says why. `terms`: its text first, if there."""

    name: str | None
    commercial_use: CommercialUse
    terms: Sequence[Terms] = ()
    why_unknown: str = ""

    @property
    def says(self) -> str:
        """Return in one sentence what follows for whoever runs the model."""
        if self.name is None:
            return f"licence unknown: {self.why_unknown}; find out what you may do with these weights before you do it"
        match self.commercial_use:
            case CommercialUse.RULED_OUT:
                return f"the licence of these weights, {self.name}, rules out commercial use; read its terms"
            case CommercialUse.ALLOWED:
                return f"the licence of these weights, {self.name}, allows commercial use"
            case CommercialUse.UNKNOWN:
                return f"the name of these weights' licence, {self.name}, does not say what it allows; read its terms"


def read_licence(folder: Path, hub_id: str | None) -> ModelLicence:
    """Return what the card in `folder` says; `hub_id` is the model's name where it came from the hub."""
    if not (folder / CARD).is_file():
        return _unknown(f"the folder has no {CARD}", hub_id)
    try:
        card = metadata_load(folder / CARD)
    except Exception:  # noqa: BLE001 - YAML has many ways to be wrong, and none may keep a model from loading
        return _unknown(f"the metadata of its {CARD} cannot be read", hub_id)
    return licence_of(card or {}, folder, hub_id)


def licence_of(card: Mapping[Any, Any], folder: Path | None, hub_id: str | None) -> ModelLicence:
    """Return what a card's metadata says. Files that it names are looked for in `folder`, or on the hub's page."""
    ids = [name for name in _texts(card.get("license")) if name.lower() != _OTHER]
    names = list(dict.fromkeys([*_texts(card.get("license_name")), *ids]))
    if not names:
        return _unknown(f"its {CARD} names none", hub_id)
    return ModelLicence(", ".join(names), commercial_use(names), _terms(card, folder, hub_id))


def commercial_use(names: Sequence[str]) -> CommercialUse:
    """Return what the names of a model's licences tell: one that rules commercial use out is enough.

    Such a name has the words `non commercial`, `noncommercial` or, as Creative Commons writes it, `nc`.
    """
    if any(_rules_out(name) for name in names):
        return CommercialUse.RULED_OUT
    if names and all(name.lower() in _ALLOWING for name in names):
        return CommercialUse.ALLOWED
    return CommercialUse.UNKNOWN


def _rules_out(name: str) -> bool:
    words = re.findall("[a-z0-9]+", name.lower())
    return "nc" in words or "noncommercial" in words or ("non", "commercial") in itertools.pairwise(words)


def _terms(card: Mapping[Any, Any], folder: Path | None, hub_id: str | None) -> tuple[Terms, ...]:
    """Return the licence's text, then what else the hub asks to be accepted, each once."""
    found = {}
    for link in _texts(card.get("license_link"))[:1]:
        where = _where(link, folder, hub_id)
        if where is not None:
            found[where] = Terms("terms", where)
    for prompt in _texts(card.get("extra_gated_prompt"), limit=None)[:1]:
        for title, link in _MARKDOWN_LINK.findall(prompt):
            found.setdefault(link, Terms(title.strip(), link))
    return tuple(found.values()) or _page(hub_id)


def _where(link: str, folder: Path | None, hub_id: str | None) -> str | None:
    """Return the address of a `license_link`, or the file that it names where there is no address; None for neither."""
    try:
        parts = urlsplit(link)
    except ValueError:
        return None
    if parts.scheme in {"http", "https"} and parts.netloc:
        return link
    path = posixpath.normpath(parts.path)
    if parts.scheme or parts.netloc or path.startswith(("/", "..")) or path == ".":
        return None
    if hub_id is not None:
        return f"{HUB_PAGES}/{hub_id}/blob/main/{quote(path)}"
    return str(folder / path) if folder is not None and (folder / path).is_file() else None


def _unknown(why: str, hub_id: str | None) -> ModelLicence:
    return ModelLicence(None, CommercialUse.UNKNOWN, _page(hub_id), why)


def _page(hub_id: str | None) -> tuple[Terms, ...]:
    return (Terms("the model's page", f"{HUB_PAGES}/{hub_id}"),) if hub_id is not None else ()


def _texts(value: object, limit: int | None = _SHOWN_CHARACTERS) -> list[str]:
    """Return the texts of a field that holds one or a list of them, on one line and fit for a terminal."""
    texts = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
    plain = ("".join(character if character.isprintable() else " " for character in text) for text in texts)
    return [" ".join(text.split())[:limit] for text in plain if text.strip()]
