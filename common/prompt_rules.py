"""Rules on which prompts are refused, as an operator writes them, and which of them a prompt falls under.

A line is words, one after another, as in `naked child*`. `*` in a word stands for any of its letters, and a `*` on its
own for up to five words in between. `[…]` heads the rules of one category, `#` begins a comment.

Regular expressions are not taken: Python's know no bound on their time, and one prompt that meets a bad one would stop
a whole process. What is here takes time in proportion to the prompt and to the rules whose words it has. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from common.prompt_words import patterns_of, words_of

ANY: Final = "*"
MAX_BETWEEN: Final = 5
"""Words that a `*` on its own stands for, at most: what belongs together is rarely further apart."""
MAX_RULES: Final = 2000
MAX_WORDS: Final = 20
MAX_CATEGORY_CHARS: Final = 120


class BadRule(ValueError):
    """A line that is no rule: `line` is its number, and the text says what to write instead."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True)
class _Step:
    """One word of a rule: what it begins with, holds in this order, and ends with. Without a star it is all `head`.

    At most `gap` words may come before it.
    """

    head: str
    middle: tuple[str, ...]
    tail: str | None
    gap: int

    @property
    def is_plain(self) -> bool:
        """Whether it has no star."""
        return self.tail is None

    @property
    def sign(self) -> str:
        """What words that it fits, with a blank around each, hold for certain."""
        if self.tail is None or self.head:
            return f" {self.head}"
        return self.middle[0] if self.middle else f"{self.tail} "

    def fits(self, word: str) -> bool:
        if self.tail is None:
            return word == self.head
        if not word.startswith(self.head) or not word.endswith(self.tail):
            return False
        place = len(self.head)
        for part in self.middle:  # each as far to the left as it can be: no other way to lay them out leaves more room
            place = word.find(part, place)
            if place < 0:
                return False
            place += len(part)
        return place <= len(word) - len(self.tail)


@dataclass(frozen=True)
class Rule:
    """One rule. `category` is what its heading says, or None where it has none."""

    category: str | None
    line: int
    steps: tuple[_Step, ...]

    def fits(self, words: list[str]) -> bool:
        """Return whether the words have it somewhere."""
        last: list[int | None] = [None] * len(self.steps)  # where each step, after all before it, fitted last
        for place, word in enumerate(words):
            # From the end, so that no word counts for two steps.
            for number in range(len(self.steps) - 1, -1, -1):
                step = self.steps[number]
                if number:
                    before = last[number - 1]
                    if before is None or place - before - 1 > step.gap:
                        continue
                if step.fits(word):
                    last[number] = place
            if last[-1] is not None:
                return True
        return False


class PromptRules:
    """All rules of a file. Safe to ask from several threads at once."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._by_word: dict[str, list[Rule]] = {}
        self._starred: list[tuple[str, Rule]] = []
        """Those whose first word has a star, each with what a prompt must hold for it."""
        self.count = 0
        for rule in rules:
            self.count += 1
            first = rule.steps[0]
            if first.is_plain:
                self._by_word.setdefault(first.head, []).append(rule)
            else:
                self._starred.append((first.sign, rule))

    def find(self, prompt: str) -> Rule | None:
        """Return a rule that the prompt falls under, the first of the file's, or None."""
        if not self.count or not prompt:
            return None
        words = words_of(prompt)
        found = [rule for rule in self._candidates(words) if rule.fits(words)]
        return min(found, key=lambda rule: rule.line, default=None)

    def _candidates(self, words: list[str]) -> Iterator[Rule]:
        """Yield the rules that may fit, which of all there are is next to none."""
        known = set(words)
        for word in known & self._by_word.keys():
            yield from (rule for rule in self._by_word[word] if _may_fit(rule, known))
        if self._starred:
            text = f" {' '.join(words)} "
            yield from (rule for sign, rule in self._starred if sign in text and _may_fit(rule, known))


def _may_fit(rule: Rule, known: set[str]) -> bool:
    return all(not step.is_plain or step.head in known for step in rule.steps)


def parse_rules(text: str) -> PromptRules:
    """Return the rules that a file's text holds. Raises BadRule."""
    return PromptRules(_rules(text))


def _rules(text: str) -> Iterator[Rule]:
    category: str | None = None
    number = 0
    for line, written in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        said = written.strip()
        if not said or said.startswith("#"):
            continue
        if said.startswith("["):
            category = _category(said, line)
            continue
        number += 1
        if number > MAX_RULES:
            raise BadRule(line, f"there are more than {MAX_RULES} rules; `*` may make one of several")
        yield Rule(category, line, _steps(said, line))


def _category(said: str, line: int) -> str:
    name = said[1:-1].strip()
    if not said.endswith("]") or not name or len(name) > MAX_CATEGORY_CHARS or not name.isprintable():
        raise BadRule(line, f"a heading is [CATEGORY], of 1 to {MAX_CATEGORY_CHARS} printable characters")
    return name


def _steps(said: str, line: int) -> tuple[_Step, ...]:
    if said.startswith("/") and said.endswith("/"):
        raise BadRule(line, "regular expressions are not taken; write words, in which * stands for any letters")
    steps: list[_Step] = []
    gap = 0
    words = patterns_of(said)
    if not any(word.strip(ANY) for word in words):
        raise BadRule(line, "a rule needs a word of letters or digits, or it would fit every prompt")
    if len(words) > MAX_WORDS:
        raise BadRule(line, f"a rule has at most {MAX_WORDS} words")
    if not words[0].strip(ANY) or not words[-1].strip(ANY):
        raise BadRule(line, "a * on its own stands between two words; at an end it says nothing")
    for word in words:
        if word.strip(ANY):
            head, *others = word.split(ANY)
            middle = tuple(part for part in others[:-1] if part)
            steps.append(_Step(head, middle, others[-1] if others else None, gap))
            gap = 0
        else:
            gap += MAX_BETWEEN
    return tuple(steps)
