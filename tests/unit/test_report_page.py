"""The page itself: whole in one file, asking no network, and nothing that users wrote becomes more than text."""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import pytest

from common.contract import BatchState, Status
from common.lifecycle import Counts, Reject
from producer.report.charts import latency_chart, timeline_chart
from producer.report.latencies import Latencies
from producer.report.pictures import pictures_of
from producer.report.timeline import Timeline
from tests.support.report import HOSTILE, hostile_rows, page_of, report_row, summary_of

_VOID = {"meta", "img", "br", "input", "rect", "line"}


class Parsed(HTMLParser):
    """A page as a browser reads it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)


def test_hostile_texts_stay_texts_wherever_they_stand() -> None:
    rows = list(hostile_rows())
    rejects = [Reject(n, text, text, text, text, text) for n, text in enumerate(HOSTILE, 1)]
    for name in HOSTILE:
        parsed = Parsed(page_of(rows, rejects=rejects, name=name, error=name))
        assert parsed.tags.count("script") == 1
        assert len(re.findall("alert", "".join(parsed.texts["script"]))) == 0
        assert "img" not in parsed.tags, "there are no pictures in this page"
        assert not [attribute for attribute, _ in parsed.attributes if attribute.startswith("on")]
        said = parsed.texts["bdi"]
        assert "</script><script>alert(1)</script>" in said
        assert "&lt;b&gt; stays as it is" in said


def test_characters_that_turn_text_around_are_shown_as_their_codes() -> None:
    page = page_of(list(hostile_rows()), name="a\u202eb\x00c\ud800")
    assert "a⟨U+202E⟩b⟨U+0000⟩c⟨U+D800⟩" in page
    assert not re.search("[\x00\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
    page.encode()


def test_nothing_is_asked_of_any_network_and_only_the_pages_own_script_may_run() -> None:
    page = page_of([report_row(number) for number in range(1, 10)])
    links = [value or "" for name, value in Parsed(page).attributes if name in {"src", "href", "action", "srcset"}]
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    assert not re.search(r"@import|url\(", page)
    policy = re.search('Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    for element in ("script", "style"):
        found = re.search(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
        assert found is not None
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy[1]
    assert ' style="' not in page, "the policy forbids it"


def test_secrets_in_links_are_not_shown() -> None:
    link = "https://user:pass@cdn.example.com/a/photo.jpg?X-Amz-Signature=abcdef#part"
    row = report_row(1, image=link, mask_image=link, loras=[{"path": link, "scale": 1.0}])
    page = page_of([row])
    assert "not fetched: cdn.example.com … photo.jpg" in page
    assert "abcdef" not in page
    assert "pass@" not in page


def test_it_says_how_many_of_how_many_rows_it_shows() -> None:
    rows = [report_row(number) for number in range(1, 301)]
    page = page_of(rows, size=20)
    assert "20 of 300 rows are shown: the first and the last" in page
    assert page.count("<article") == 20
    assert "300 of 300 rows are shown." in page_of(rows, size=500)


def test_failures_are_grouped_with_their_numbers_and_the_command_that_retries_them() -> None:
    rows = [report_row(n, Status.FAILED, error_code="late", error="did not come", retryable=True) for n in range(1, 41)]
    rows += [report_row(50), report_row(51, Status.FAILED, error_code="cancelled", error="cancelled")]
    page = page_of(rows, size=10, name="it's autumn")
    assert re.search(r"<code><bdi>late</bdi></code>.*\n<td[^>]*>40</td>\n<td[^>]*>may work</td>", page)
    assert "Run the 41 failed rows again" in page
    assert "fillfleet retry &#x27;it&#x27;&quot;&#x27;&quot;&#x27;s autumn&#x27;</pre>" in page
    linked = re.findall(r'href="(#row-\d+)"', page)
    assert linked
    assert all(f'id="{link[1:]}"' in page for link in linked)


def test_failures_that_a_retry_cannot_cure_are_to_be_changed_and_submitted_again() -> None:
    rows = [report_row(1, Status.FAILED, error_code="image_truncated", error="ends too early", retryable=False)]
    page = page_of(rows, name="autumn")
    assert "fillfleet results autumn --resubmit again.jsonl" in page
    assert "fillfleet retry" not in page


def test_a_batch_that_has_just_ended_is_shown_as_done() -> None:
    assert '<span class="badge done">done</span>' in page_of([report_row(1)], state=BatchState.OPEN)


def test_what_a_reader_must_know_is_said_at_the_top() -> None:
    rows = [report_row(2), report_row(5, model_version={"model": "other"}), report_row(3, nsfw=[True, True])]
    page = page_of(rows, state=BatchState.OPEN, counts=Counts(created=1))
    assert "made by 2 model versions" in page
    assert "flagged 2 images: none of them is shown, and below stands what is stored of each" in page
    assert "It still runs" in page
    assert "flagged by the safety checker: what is stored is a blank" in page
    plain = page_of([report_row(2)])
    assert 'class="note"' not in plain


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("blank", "what is stored is a blank"),
        ("blur", "what is stored is blurred"),
        ("drop", "nothing of it is stored"),
        ("allow", "it is stored, and not shown here"),
        (None, "what is stored is a blank"),
    ],
)
def test_no_flagged_picture_is_on_a_page_whatever_is_stored_of_it(policy: str | None, words: str) -> None:
    uri = None if policy == "drop" else "s3://shop/outputs/3/1-0.png"
    row = report_row(3, nsfw=[True], nsfw_policy=[policy], outputs=[uri], output_sha256=[None], output_bytes=[None])
    page = page_of([row])
    assert f"flagged by the safety checker: {words}" in page
    assert all(picture.wanted is None for picture in pictures_of(row).pictures if "after" in picture.caption)
    assert ">None<" not in page


def test_a_row_that_was_filled_in_parts_says_which() -> None:
    parts = report_row(1, regions=[[0, 0, 384, 384], [640, 640, 384, 384]], output_width=1024, output_height=1024)
    assert "28.1 % of the canvas: 384*384 at 0,0, 384*384 at 640,640" in page_of([parts])
    assert "Generated" not in page_of([report_row(2)])


def test_a_batch_without_rows_has_a_page() -> None:
    page = page_of([])
    Parsed(page)
    assert "0 of 0 rows are shown" in page
    assert "<svg" not in page


def test_bad_rows_are_listed_with_what_is_wrong() -> None:
    page = page_of([report_row(1)], rejects=[Reject(17, "item-17", "m.csv, line 18", "size", '"1*1"', "is too small")])
    assert "m.csv, line 18" in page
    assert "is too small" in page


def test_charts_are_svg_with_a_bar_for_each_column_and_marks_inside() -> None:
    summary = summary_of([report_row(n, inference_ms=100 * n) for n in range(1, 200)])
    for chart in (timeline_chart(summary.timeline), latency_chart("On the device", "meaning", summary.inference)):
        svg = ElementTree.fromstring(re.search("<svg.*</svg>", chart, re.DOTALL)[0])  # type: ignore[index]  # noqa: S314
        _, _, width, height = map(float, svg.attrib["viewBox"].split())
        bars = svg.findall("rect")
        assert len(bars) > 10
        for bar in bars:
            x, y, wide, high = (float(bar.attrib[name]) for name in ("x", "y", "width", "height"))
            assert 0 <= x <= x + wide <= width
            assert -0.01 <= y <= y + high <= height + 0.01
            assert bar.findtext("title")
        marks = [float(line.attrib["x1"]) for line in svg.findall("line")]
        assert marks == sorted(marks)
        assert all(0 <= mark <= width for mark in marks)
    assert "p50 10.1 s" in latency_chart("On the device", "meaning", summary.inference)


def test_a_chart_of_nothing_is_nothing() -> None:
    assert timeline_chart(Timeline()) == ""
    assert latency_chart("On the device", "meaning", Latencies()) == ""


@pytest.mark.parametrize("name", ["page.css", "page.js"])
def test_style_and_script_are_packed_with_the_package(name: str) -> None:
    assert files("producer.report").joinpath(name).is_file()
    root = Path(__file__).parents[2]
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "producer" in wheel["packages"]
    assert "exclude" not in wheel
