"""The licence of a model is what its card says: by its name, never by the model's."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.demo_model.files import FOLDER as BUNDLED
from tests.support.model_hub import FILL, FILL_CARD, FILL_PAGES
from worker.model_licence import CommercialUse, Terms, commercial_use, licence_of, read_licence

PAGE = [Terms("the model's page", "https://huggingface.co/someone/something")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, without a card at first."""
    return tmp_path


def with_card(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    (folder / "README.md").write_bytes(text.encode(encoding))
    return folder


def test_the_fill_models_own_card_rules_out_commercial_use_and_leads_to_licence_and_policy(folder: Path) -> None:
    licence = read_licence(with_card(folder, FILL_CARD), FILL)
    assert licence.name == "flux-1-dev-non-commercial-license"
    assert licence.commercial_use is CommercialUse.RULED_OUT
    assert licence.terms == (
        Terms("terms", f"{FILL_PAGES}/blob/main/LICENSE.md"),
        Terms("Acceptable Use Policy", f"{FILL_PAGES}/blob/main/POLICY.md"),
    )
    assert "rules out commercial use" in licence.says


def test_the_same_card_under_any_other_name_says_the_same(folder: Path) -> None:
    licence = read_licence(with_card(folder, FILL_CARD), "someone/my-renamed-copy")
    assert licence.commercial_use is CommercialUse.RULED_OUT
    assert licence.terms[0].link == "https://huggingface.co/someone/my-renamed-copy/blob/main/LICENSE.md"


def test_a_folder_that_is_not_the_hubs_leads_to_its_own_file(folder: Path) -> None:
    (folder / "LICENSE.md").write_text("the terms")
    licence = read_licence(with_card(folder, FILL_CARD), None)
    assert licence.terms[0] == Terms("terms", str(folder / "LICENSE.md"))


def test_a_file_that_is_not_there_is_not_led_to(folder: Path) -> None:
    links = [one.link for one in read_licence(with_card(folder, FILL_CARD), None).terms]
    assert links == [f"{FILL_PAGES}/blob/main/LICENSE.md", f"{FILL_PAGES}/blob/main/POLICY.md"], "the prompt's own"
    bare = FILL_CARD[: FILL_CARD.index("extra_gated_prompt")] + "---\n"
    assert read_licence(with_card(folder, bare), None).terms == ()


def test_the_bundled_models_card_allows_commercial_use(folder: Path) -> None:
    licence = read_licence(with_card(folder, (BUNDLED / "README.md").read_text()), None)
    assert (licence.name, licence.commercial_use) == ("apache-2.0", CommercialUse.ALLOWED)


def test_without_a_card_the_licence_is_unknown_and_it_says_why(folder: Path) -> None:
    licence = read_licence(folder, None)
    assert (licence.name, licence.commercial_use) == (None, CommercialUse.UNKNOWN)
    assert licence.says.startswith("licence unknown: the folder has no README.md")
    assert licence.terms == ()
    assert list(read_licence(folder, "someone/something").terms) == PAGE


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("# Only words\n", "names none"),
        ("", "names none"),
        ("---\n---\n", "names none"),
        ("---\ntags: [a]\n---\n", "names none"),
        ("---\nlicense: other\n---\n", "names none"),
        ("---\nlicense: [1, 2]\n---\n", "names none"),
        ("---\nlicense: no\n---\n", "names none"),
        ("---\nlicense: {name: mit}\n---\n", "names none"),
        ("---\n1: mit\n---\n", "names none"),
        ("---\n- mit\n---\n", "cannot be read"),
        ("---\nlicense: [mit\n---\n", "cannot be read"),
        ("---\nlicense: !!python/object/apply:os.system [exit]\n---\n", "cannot be read"),
        ("---\ndate: 2024-99-99\nlicense: mit\n---\n", "cannot be read"),
        ("---\na: " + "[" * 5000 + "\n---\n", "cannot be read"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_odd_card_leaves_the_licence_unknown_and_raises_nothing(text: str, why: str, folder: Path) -> None:
    licence = read_licence(with_card(folder, text), "someone/something")
    assert licence.name is None
    assert why in licence.why_unknown
    assert list(licence.terms) == PAGE


def test_a_card_that_is_no_text_leaves_the_licence_unknown(folder: Path) -> None:
    (folder / "README.md").write_bytes(b"---\nlicense: mit \xff\xfe\n---\n")
    assert read_licence(folder, None).name is None


def test_byte_order_mark_and_windows_line_ends_are_no_hindrance(folder: Path) -> None:
    card = with_card(folder, FILL_CARD.replace("\n", "\r\n"), encoding="utf-8-sig")
    assert read_licence(card, FILL).commercial_use is CommercialUse.RULED_OUT


@pytest.mark.parametrize(
    "name",
    [
        *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "CC BY-NC 4.0", "cc-by-nc-nd-3.0", "sai-nc-community"),
        *("flux-1-dev-non-commercial-license", "FLUX.1 [dev] Non-Commercial License", "fair-noncommercial-research"),
        *("NonCommercial", "non_commercial"),
    ],
)
def test_a_name_that_says_non_commercial_rules_it_out(name: str) -> None:
    assert commercial_use([name]) is CommercialUse.RULED_OUT
    assert commercial_use(["apache-2.0", name]) is CommercialUse.RULED_OUT


@pytest.mark.parametrize("name", ["apache-2.0", "MIT", "cc0-1.0", "cc-by-4.0", "bsd-3-clause", "mpl-2.0"])
def test_a_licence_known_to_allow_it_allows_it(name: str) -> None:
    assert commercial_use([name]) is CommercialUse.ALLOWED


@pytest.mark.parametrize("name", ["openrail++", "llama3", "ncsa", "commercial", "some-research-license", "sync-1.0"])
def test_of_any_other_name_nothing_is_claimed(name: str) -> None:
    assert commercial_use([name]) is CommercialUse.UNKNOWN
    assert commercial_use(["apache-2.0", name]) is CommercialUse.UNKNOWN


def test_several_licences_are_all_named() -> None:
    licence = licence_of({"license": ["apache-2.0", "cc-by-nc-4.0"]}, None, None)
    assert (licence.name, licence.commercial_use) == ("apache-2.0, cc-by-nc-4.0", CommercialUse.RULED_OUT)


@pytest.mark.parametrize(
    ("link", "leads_to"),
    [
        ("https://example.com/terms", "https://example.com/terms"),
        ("LICENSE.md", "https://huggingface.co/someone/something/blob/main/LICENSE.md"),
        ("./docs/the terms.txt", "https://huggingface.co/someone/something/blob/main/docs/the%20terms.txt"),
    ],
)
def test_a_link_leads_where_it_says(link: str, leads_to: str) -> None:
    licence = licence_of({"license": "other", "license_name": "mine", "license_link": link}, None, "someone/something")
    assert [one.link for one in licence.terms] == [leads_to]


@pytest.mark.parametrize(
    "link",
    ["../../../etc/passwd", "/etc/passwd", "javascript:alert(1)", "file:///etc/passwd", "//h/a", "http://[", "."],
)
def test_a_link_that_leads_elsewhere_is_left_out(link: str, folder: Path) -> None:
    card = {"license": "mit", "license_link": link}
    assert list(licence_of(card, None, "someone/something").terms) == PAGE
    assert licence_of(card, folder, None).terms == ()


def test_what_a_card_says_is_one_line_fit_for_a_terminal() -> None:
    licence = licence_of({"license": "other", "license_name": "non-commercial\x1b[2J\nok" + "x" * 999}, None, None)
    assert licence.name is not None
    assert licence.name.isprintable()
    assert len(licence.name) <= 200
    assert licence.commercial_use is CommercialUse.RULED_OUT
