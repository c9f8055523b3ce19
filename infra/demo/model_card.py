"""What the model says of itself: its card (README.md in the model's folder), from which the report takes its words.

Nothing here knows which model it is. A card that says "is untrained" makes the report say so; another card does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.demo_model.files import FOLDER

BUNDLED: Final = "bundled"
_UNTRAINED: Final = re.compile(r"\bis\s+untrained\b", re.IGNORECASE)
_LICENCE: Final = re.compile(r"^license(?:_name)?:\s*(\S.*)$", re.MULTILINE)
_TITLE: Final = re.compile(r"^#\s+(\S.*)$", re.MULTILINE)


@dataclass(frozen=True)
class ModelCard:
    """What a report has to say of the model. `licence` is empty where the card is not on this machine."""

    name: str
    title: str
    licence: str
    untrained: bool


def read_model_card(fill_model: str) -> ModelCard:
    """Return the card of the model that FILL_MODEL names; of a hub id, the name alone is known here."""
    folder = FOLDER if fill_model == BUNDLED else Path(fill_model).expanduser()
    card = folder / "README.md"
    if not card.is_file():
        return ModelCard(name=fill_model, title=fill_model, licence="", untrained=False)
    return parse_model_card(fill_model, card.read_text(encoding="utf-8"))


def parse_model_card(name: str, text: str) -> ModelCard:
    """Return what the card's text says."""
    licence, title = _LICENCE.search(text), _TITLE.search(text)
    return ModelCard(
        name=name,
        title=title[1].strip() if title else name,
        licence=licence[1].strip() if licence else "",
        untrained=_UNTRAINED.search(text) is not None,
    )
