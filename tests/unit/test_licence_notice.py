"""A worker says under which licence it runs: in the log each time, and once so that nobody can miss it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.settings import Settings
from tests.support.fills import FillSettings
from tests.support.model_hub import FILL, FILL_CARD, FILL_PAGES
from worker.licence_notice import tell_licence
from worker.model_folder import ModelFolder

NOTICE = "RULES OUT COMMERCIAL USE"
Tell = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return FillSettings(lora_cache_folder=tmp_path / "cache")


@pytest.fixture
def tell(tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> Tell:
    """Start a worker with weights of a card and a revision; returns its event in the log, and stderr."""
    (tmp_path / "model").mkdir()

    def telling(
        card: str | None, revision: str = "a" * 40, settings: Settings = settings
    ) -> tuple[dict[str, Any], str]:
        if card is not None:
            (tmp_path / "model" / "README.md").write_text(card)
        capsys.readouterr()
        with capture_logs() as logs:
            tell_licence(ModelFolder(FILL, tmp_path / "model", revision, hub_id=FILL), settings)
        (event,) = logs
        return dict(event), capsys.readouterr().err

    return telling


def test_the_first_start_prints_a_notice_with_licence_link_and_model(tell: Tell) -> None:
    _, said = tell(FILL_CARD)
    assert NOTICE in said
    assert len(said.splitlines()) > 8, "a person can't miss it"
    for part in (FILL, "a" * 40, "flux-1-dev-non-commercial-license", f"{FILL_PAGES}/blob/main/LICENSE.md"):
        assert part in said
    assert f"{FILL_PAGES}/blob/main/POLICY.md" in said
    assert "docs/use-policy.md" in said


def test_it_is_printed_once_for_these_weights_and_logged_at_every_start(tell: Tell) -> None:
    starts = [tell(FILL_CARD) for _ in range(3)]
    assert [NOTICE in said for _, said in starts] == [True, False, False]
    assert [said for _, said in starts[1:]] == ["", ""]
    for event, _ in starts:
        assert event == {
            "event": "model.licence",
            "log_level": "warning",
            "model": FILL,
            "revision": "a" * 40,
            "licence": "flux-1-dev-non-commercial-license",
            "commercial_use": "ruled out",
            "terms": [f"{FILL_PAGES}/blob/main/LICENSE.md", f"{FILL_PAGES}/blob/main/POLICY.md"],
            "says": "the licence of these weights, flux-1-dev-non-commercial-license, rules out commercial use; "
            "read its terms",
        }


def test_another_revision_or_another_licence_of_it_is_told_anew(tell: Tell) -> None:
    assert NOTICE in tell(FILL_CARD)[1]
    assert NOTICE in tell(FILL_CARD, revision="b" * 40)[1]
    assert NOTICE in tell(FILL_CARD.replace("flux-1", "flux-9"))[1]
    assert NOTICE not in tell(FILL_CARD, revision="b" * 40)[1]


def test_of_workers_that_start_at_once_exactly_one_prints_it(
    tell: Tell, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model" / "README.md").write_text(FILL_CARD)
    folder = ModelFolder(FILL, tmp_path / "model", "c" * 40, hub_id=FILL)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: tell_licence(folder, settings), range(8)))
    assert capsys.readouterr().err.count(NOTICE) == 1


def test_where_nothing_can_be_remembered_it_is_said_each_time(tell: Tell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = FillSettings(lora_cache_folder=tmp_path / "file" / "below")  # as good as a disk that is read-only
    assert [NOTICE in tell(FILL_CARD, settings=settings)[1] for _ in range(2)] == [True, True]


def test_an_open_licence_is_one_line_in_the_log_and_no_notice(tell: Tell) -> None:
    event, said = tell("---\nlicense: apache-2.0\n---\n")
    assert said == ""
    assert (event["log_level"], event["licence"], event["commercial_use"]) == ("info", "apache-2.0", "allowed")


def test_an_unknown_licence_is_a_warning_in_the_log_that_says_why(tell: Tell) -> None:
    event, said = tell(None)
    assert said == ""
    assert (event["log_level"], event["licence"]) == ("warning", None)
    assert event["says"].startswith("licence unknown: the folder has no README.md")
