"""What the report says of the model comes from the model's own card."""

from __future__ import annotations

from pathlib import Path

from infra.demo.model_card import parse_model_card, read_model_card
from infra.demo_model.files import FOLDER

TRAINED = """---
license: cc-by-4.0
---
# Little fill

Trained for a week.
"""


def test_title_and_licence_are_the_cards(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(TRAINED)
    card = read_model_card(str(tmp_path))
    assert (card.title, card.licence, card.untrained) == ("Little fill", "cc-by-4.0", False)


def test_a_card_that_says_so_makes_the_model_untrained() -> None:
    assert parse_model_card("x", TRAINED.replace("Trained for a week.", "It **is untrained**.")).untrained


def test_the_bundled_models_card_is_understood() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    card = parse_model_card("bundled", text)
    assert card.licence == "apache-2.0"
    assert card.title.startswith("The demo model")
    assert card.untrained == ("untrained" in text)
