"""The page on safety says what the code does: settings, thresholds, policies, and rules that are read as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.prompt_rules import MAX_BETWEEN, MAX_RULES, parse_rules
from common.safety_policy import SafetyPolicy
from common.settings import Settings
from worker.safety import image_classifier, open_nsfw
from worker.safety.flagged import BLUR_CELLS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "safety.md").read_text()


def test_every_link_to_a_file_of_ours_leads_to_one_and_the_readme_leads_here() -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", PAGE) if "://" not in link and not link.startswith("#")]
    assert {"use-policy.md", "prompt-deny.example.txt"} <= set(links)
    for link in links:
        assert (ROOT / "docs" / link).exists(), link
    assert "(docs/safety.md)" in (ROOT / "README.md").read_text()


def test_the_settings_that_it_names_are_all_there_are_on_safety() -> None:
    named = {name.lower() for name in re.findall(r"`([A-Z]+(?:_[A-Z]+)+)(?:=\S+)?`", PAGE)}
    safety = {name for name in Settings.model_fields if "safety" in name} | {"prompt_deny_file"}
    assert named == safety


def test_it_says_the_thresholds_and_policies_of_the_code() -> None:
    assert f"| {open_nsfw.THRESHOLD} |" in PAGE
    assert f"| {image_classifier.THRESHOLD} |" in PAGE
    assert all(re.search(rf"^\| `{policy}`", PAGE, re.MULTILINE) for policy in SafetyPolicy)
    assert BLUR_CELLS == 8
    assert f"{MAX_RULES:,} rules" in PAGE
    assert MAX_BETWEEN == 5


@pytest.mark.parametrize(
    ("prompt", "is_refused"),
    [
        ("two elephants", True),
        ("a pink and very tired rhino", True),
        ("a sea lion", True),
        ("a sealion", False),
        ("a rhino, pink", False),
        ("a pink sunset far out at sea before a rhino", False),
    ],
)
def test_its_example_does_what_it_says(prompt: str, is_refused: bool) -> None:
    example = PAGE.partition("# a comment\n")[2].partition("```")[0]
    rule = parse_rules(example).find(prompt)
    assert (rule is not None) is is_refused
    assert rule is None or rule.category == "heavy animals"
