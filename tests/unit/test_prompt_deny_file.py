"""The file of refused prompts: bad at the start it stops a process, bad later it never loosens a rule."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import structlog

from common.contract import FillRequest, InvalidRequest
from common.errors import Rejected
from common.prompt_deny_file import PromptDenyFile
from common.prompt_rules import parse_rules

EXAMPLE = Path(__file__).parents[2] / "docs" / "prompt-deny.example.txt"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "deny.txt"
    path.write_text("[heavy animals]\nelephant*\n")
    return path


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked at each time."""
    monkeypatch.setattr("common.prompt_deny_file._LOOK_SECONDS", 0.0)


def request(prompt: str) -> FillRequest:
    return FillRequest(image="https://example.com/a.jpg", prompt=prompt)


def test_without_a_file_no_prompt_is_refused() -> None:
    PromptDenyFile(None).check(request("an elephant"))


def test_a_refused_prompt_is_named_with_its_category_and_never_with_the_rule(path: Path) -> None:
    deny = PromptDenyFile(path)
    deny.check(request("a chair"))
    with pytest.raises(InvalidRequest) as caught:
        deny.check(request("two Elephants"))
    (problem,) = caught.value.problems
    assert (problem.field, problem.value) == ("prompt", "'two Elephants'")
    assert problem.reason == 'falls under "heavy animals", which this fleet refuses'
    assert "elephant*" not in str(problem)


def test_a_rule_without_a_heading_says_no_category(path: Path) -> None:
    path.write_text("elephant")
    assert PromptDenyFile(path).reason("an elephant") == "falls under a use that this fleet refuses"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"fox\n/fo+x/\n", ":2: regular expressions are not taken"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"x" * (1024 * 1024 + 1), "is larger than 1048576 bytes"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_bad_file_is_named_at_the_start_with_its_line(path: Path, content: bytes | None, says: str) -> None:
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(Rejected) as caught:
        PromptDenyFile(path)
    assert caught.value.code == "prompt_rules_invalid"
    assert caught.value.message.startswith(f"PROMPT_DENY_FILE: {path}")
    assert says in caught.value.message


def test_a_file_that_changes_is_read_again_also_where_another_takes_its_place(path: Path, impatient: None) -> None:
    deny = PromptDenyFile(path)
    assert deny.reason("a mouse") is None
    path.write_text("[light animals]\nmouse\n")
    assert deny.reason("a mouse") == 'falls under "light animals", which this fleet refuses'
    assert deny.reason("an elephant") is None
    other = path.with_suffix(".new")
    other.write_text("[light animals]\nhorse\n")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)
    assert deny.reason("a horse") is not None
    assert deny.reason("a mouse") is None


def test_a_file_that_is_not_changed_is_not_read_again(path: Path, impatient: None) -> None:
    deny = PromptDenyFile(path)
    with structlog.testing.capture_logs() as lines:
        assert deny.reason("an elephant") == deny.reason("an elephant")
        assert deny.reason("a chair") is None
    assert lines == []


@pytest.mark.parametrize("ruin", [Path.unlink, lambda path: path.write_text("/fo+x/")], ids=["gone", "bad"])
def test_a_file_that_becomes_bad_or_goes_away_loosens_nothing_and_is_complained_of_once(
    path: Path, impatient: None, ruin: object
) -> None:
    deny = PromptDenyFile(path)
    assert callable(ruin)
    ruin(path)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            assert deny.reason("an elephant") is not None
    assert [line["event"] for line in lines] == ["prompt_rules.not_read_again"]
    path.write_text("horse")
    assert deny.reason("an elephant") is None, "mended, it holds at once"
    assert deny.reason("a horse") is not None


def test_the_file_is_looked_at_once_a_second_at_most(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("common.prompt_deny_file.time.monotonic", lambda: now[0])
    deny = PromptDenyFile(path)
    deny.reason("a chair")
    path.write_text("horse")
    now[0] += 0.9
    assert deny.reason("a horse") is None
    now[0] += 0.2
    assert deny.reason("a horse") is not None


# --- the example


def test_the_example_is_a_good_file_whose_every_rule_has_a_category() -> None:
    rules = parse_rules(EXAMPLE.read_text())
    assert rules.count > 20
    deny = PromptDenyFile(EXAMPLE)
    assert deny.reason("child pornography") == 'falls under "sexual content of minors", which this fleet refuses'


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a knight holding a greatshield",
        "an empty room with a green velvet sofa",
        "children playing football in a park, sunny day",
        "a child in a red coat, portrait photograph",
        "a young woman in a summer dress on a beach",
        "a nude bronze statue in a museum garden",
        "a school class on a trip to the museum",
        "a kid's bedroom with toys, no people",
        "the president of the chess club at a table",
        "passport on a wooden table beside a camera",
        "remove the dress from the hanger, an empty wardrobe",
    ],
)
def test_the_example_leaves_ordinary_prompts_alone(prompt: str) -> None:
    assert PromptDenyFile(EXAMPLE).reason(prompt) is None
