"""A report in a real browser: nothing complains, no network is asked, filters and keys work, nothing spills over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.contract import Status
from common.lifecycle import Reject
from tests.support.browser import CHROMIUM, Page, browser_page
from tests.support.report import HOSTILE, hostile_rows, page_of, report_row

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

SHOWN = "[...document.querySelectorAll('.row')].filter(row => row.offsetParent).map(row => row.id)"


def choose(name: str, value: str) -> str:
    """A script that uses one of the filters as a person does."""
    return (
        f"(() => {{ const field = document.querySelector('#filters [name={name}]'); field.value = '{value}'; "
        "field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One browser for this file."""
    with browser_page(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture
def page(browser: Page, tmp_path: Path) -> Page:
    """A report of rows in several states, opened from the disk."""
    rows = [report_row(number, prompt=f"a red kite {number}") for number in range(1, 30)]
    rows += [report_row(number, Status.FAILED, error_code="late", error="late") for number in range(30, 35)]
    rows += [report_row(number, Status.FAILED, error_code="torn", error="torn") for number in range(35, 38)]
    rows += [{**row, "row": 100 + number} for number, row in enumerate(hostile_rows())]
    rejects = [Reject(n, text, text, text, text, text) for n, text in enumerate(HOSTILE, 1)]
    file = tmp_path / "report.html"
    file.write_text(page_of(rows, rejects=rejects, name=HOSTILE[0]), encoding="utf-8")
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(file)
    return browser


def test_it_opens_without_a_complaint_and_asks_no_network(page: Page) -> None:
    assert page.ask("document.querySelectorAll('.row').length") == 44
    assert page.complaints == []
    assert [request for request in page.requests if not request.startswith("file:")] == []
    assert page.ask("document.title").startswith("</script><script>alert(1)</script>")


def test_filters_show_the_rows_that_fit_and_say_how_many(page: Page) -> None:
    assert len(page.ask(SHOWN)) == 44
    page.ask(choose("cause", "torn"))
    assert page.ask(SHOWN) == ["row-35", "row-36", "row-37"]
    assert page.ask("document.getElementById('shown').textContent") == "3 of these fit."
    page.ask(choose("cause", ""))
    page.ask(choose("words", "KITE 17"))
    assert page.ask(SHOWN) == ["row-17"]
    page.ask(choose("words", "item-3"))
    assert len(page.ask(SHOWN)) == 9
    page.ask(choose("state", "failed"))
    assert len(page.ask(SHOWN)) == 8
    page.ask("document.querySelector('#filters button').click()")
    page.ask("new Promise(done => setTimeout(done, 20))")
    assert len(page.ask(SHOWN)) == 44
    assert page.complaints == []


def test_a_cause_is_one_key_away_and_a_link_finds_its_row_behind_a_filter(page: Page) -> None:
    page.ask("document.querySelector('button[data-show=torn]').focus()")
    page.press("Enter")
    assert len(page.ask(SHOWN)) == 3
    assert page.ask("document.activeElement.name") == "cause"
    page.ask("location.hash = '#row-5'")
    page.ask("new Promise(done => setTimeout(done, 50))")
    assert "row-5" in page.ask(SHOWN)


def test_a_keyboard_reaches_the_filters_and_types_into_them(page: Page) -> None:
    page.ask("document.querySelector('#filters [name=cause]').focus()")
    page.press("Tab", *"kite 9")
    assert page.ask("document.activeElement.name") == "words"
    assert page.ask(SHOWN) == ["row-9"]


@pytest.mark.parametrize("width", [400, 700, 1600])
def test_nothing_spills_over_the_side_at_any_width(page: Page, width: int) -> None:
    for dark in (False, True):
        page.resize(width, dark=dark)
        page.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.ask("document.documentElement.scrollWidth") <= width
    assert page.ask("getComputedStyle(document.body).backgroundColor") == "rgb(20, 20, 22)"
