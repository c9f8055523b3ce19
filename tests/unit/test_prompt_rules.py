"""Rules on prompts: what they fit, however it is written, what they leave alone, and what is no rule."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contract import MAX_PROMPT_CHARS
from common.prompt_rules import MAX_BETWEEN, MAX_RULES, MAX_WORDS, BadRule, parse_rules
from common.prompt_words import words_of


def fits(rule: str, prompt: str) -> bool:
    return parse_rules(rule).find(prompt) is not None


@pytest.mark.parametrize(
    "prompt",
    [
        "green fox",
        "a Green FOX, sitting",
        "a green  \t\n fox",
        "green-fox (large)",
        "“green” fox\u2019s den",
        "ｇｒｅｅｎ fox",  # full width # noqa: RUF001
        "𝐠𝐫𝐞𝐞𝐧 fox",  # mathematical bold # noqa: RUF001
        "gr\u200been fo\u00adx",  # a space of no width, a soft hyphen
        "\u202egreen\u202c fox",
        "g\ufe0freen fox",
        "gre\u20e3en fox",  # a letter in a keycap
        "x\u0301 green\u0489\u0489\u0489 fox",
    ],
)
def test_a_phrase_is_found_however_it_is_written(prompt: str) -> None:
    assert fits("green fox", prompt), [hex(ord(one)) for one in prompt]


@pytest.mark.parametrize(
    "prompt", ["", "fox green", "a greenish fox", "green foxes", "evergreen fox", "green red fox", "green", "greenfox"]
)
def test_only_whole_words_in_their_order_are_a_phrase(prompt: str) -> None:
    assert not fits("green fox", prompt)


def test_the_rules_own_form_does_not_matter_either() -> None:
    for rule in ("GREEN  Fox", "green-fox", "“Ｇreen” fo\u200bx"):  # noqa: RUF001
        assert fits(rule, "a green fox")
    assert fits("straße", "STRASSE")
    assert fits("caf\u00e9", "un cafe\u0301")


@pytest.mark.parametrize(
    ("rule", "found", "left"),
    [
        ("fox*", ["fox", "foxes", "FOXGLOVE"], ["afox", "fo"]),
        ("*fox", ["fox", "firefox"], ["foxes"]),
        ("*fox*", ["fox", "firefoxes"], ["fo x"]),
        ("f*x", ["fx", "fox", "faux"], ["f", "foxy", "f ox"]),
        ("un*dress*ed", ["undressed", "unaddressed", "undressdressed"], ["undress", "dressed"]),
        ("ab*ba", ["abba", "abxba"], ["aba"]),
        ("*裸*", ["裸の王様", "裸"], ["王様"]),
    ],
)
def test_a_star_in_a_word_stands_for_any_of_its_letters(rule: str, found: list[str], left: list[str]) -> None:
    assert [word for word in found if not fits(rule, f"a {word} here")] == []
    assert [word for word in left if fits(rule, f"a {word} here")] == []


def test_a_star_on_its_own_stands_for_a_few_words_and_not_for_many() -> None:
    for between in range(MAX_BETWEEN + 1):
        assert fits("green * fox", f"green {'very ' * between}fox")
    assert not fits("green * fox", f"green {'very ' * (MAX_BETWEEN + 1)}fox")
    assert fits("green * * fox", f"green {'very ' * (2 * MAX_BETWEEN)}fox")
    assert not fits("green * fox", "fox and green")


def test_of_several_places_where_a_rule_may_begin_each_is_tried() -> None:
    assert fits("a b c", "a b a b c")
    assert fits("a * b c", "a b x b c")
    assert fits("a a", "b a a")
    assert not fits("a a", "b a b a")


def test_the_first_rule_of_the_file_is_named_with_the_heading_above_it() -> None:
    rules = parse_rules(
        "# refused here\n\nhippo\n[ heavy animals ]\nrhino\n  elephant*  \n[light ones]\nmouse\n# elephant\n"
    )
    assert rules.count == 4
    found = [rules.find(prompt) for prompt in ("a mouse and elephants", "mouse", "hippo, mouse", "a chair")]
    assert [rule and (rule.category, rule.line) for rule in found] == [
        ("heavy animals", 6), ("light ones", 8), (None, 3), None,
    ]  # fmt: skip


def test_a_file_without_rules_refuses_nothing() -> None:
    for text in ("", "\ufeff# none yet\n", "[a heading]\n"):
        assert parse_rules(text).find("anything at all") is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/gr.*n/", "regular expressions are not taken"),
        ("***", "or it would fit every prompt"),
        ("* *", "or it would fit every prompt"),
        ("?!", "needs a word of letters or digits"),
        ("* fox", "stands between two words"),
        ("fox *", "stands between two words"),
        ("[heavy", "a heading is [CATEGORY]"),
        ("[]", "a heading is [CATEGORY]"),
        (f"[{'x' * 121}]", "of 1 to 120 printable characters"),
        ("word " * (MAX_WORDS + 1), f"at most {MAX_WORDS} words"),
    ],
)
def test_what_is_no_rule_says_its_line_and_what_to_write(line: str, says: str) -> None:
    with pytest.raises(BadRule) as caught:
        parse_rules(f"# a comment\nfox\n{line}\nhare\n")
    assert caught.value.line == 3
    assert says in str(caught.value)


def test_a_file_has_a_bound_on_its_rules() -> None:
    assert parse_rules("\n".join(f"word{n}" for n in range(MAX_RULES))).count == MAX_RULES
    with pytest.raises(BadRule, match=f"more than {MAX_RULES} rules"):
        parse_rules("\n".join(f"word{n}" for n in range(MAX_RULES + 1)))


@pytest.mark.parametrize(
    "prompt",
    [
        "a" * MAX_PROMPT_CHARS,
        "a " * (MAX_PROMPT_CHARS // 2),
        "a" + "\u0301\u0323" * (MAX_PROMPT_CHARS // 2 - 1),
        "\ufdfa" * MAX_PROMPT_CHARS,  # each becomes eighteen letters
        " ".join(f"w{n}" for n in range(2000))[:MAX_PROMPT_CHARS],
    ],
    ids=["one word", "many words", "marks", "ligatures", "all first words"],
)
def test_the_longest_and_oddest_prompt_is_judged_in_a_moment(prompt: str) -> None:
    rules = parse_rules("\n".join([*(f"w{n} * x{n}" for n in range(900)), *(f"*a{n}*a*b*" for n in range(900))]))
    began = time.process_time()
    assert rules.find(prompt) is None
    assert time.process_time() - began < 2.0


@given(st.text(max_size=60))
def test_every_word_of_a_prompt_is_found_by_a_rule_of_just_that_word(prompt: str) -> None:
    for word in words_of(prompt):
        assert fits(word, prompt)
        assert fits(word, prompt.upper()) or words_of(prompt) != words_of(prompt.upper())


@given(st.text(alphabet=st.characters(categories=["Ll", "Lu", "Nd", "Zs", "Po"]), max_size=40))
def test_composed_and_decomposed_text_are_the_same_words(prompt: str) -> None:
    forms = {tuple(words_of(unicodedata.normalize(form, prompt))) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert len(forms) == 1
