"""The pages on what may be done lead somewhere, and name only what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / "docs" / "use-policy.md"


@pytest.mark.parametrize("page", [POLICY, ROOT / "README.md"], ids=lambda page: page.name)
def test_every_link_to_a_file_of_ours_leads_to_one(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    assert links
    for link in links:
        assert (page.parent / link.partition("#")[0]).exists(), link


def test_the_controls_that_the_policy_names_are_settings() -> None:
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", POLICY.read_text()))
    assert {"SAFETY_CLASSIFIER", "SAFETY_POLICY", "PROMPT_DENY_FILE", "ALLOW_SAFETY_CHECKER_OFF"} <= named
    assert {name.lower() for name in named} <= Settings.model_fields.keys()


def test_the_readme_says_that_the_weights_are_non_commercial_and_leads_to_terms_and_policy() -> None:
    licences = (ROOT / "README.md").read_text().partition("## Licences")[2]
    assert "non-commercial use" in licences
    for link in ("FLUX.1-Fill-dev/blob/main/LICENSE.md", "FLUX.1-Fill-dev/blob/main/POLICY.md", "docs/use-policy.md"):
        assert f"{link})" in licences
