"""Under which names outputs are saved: readable, stable, inside the folder, and never two under one."""

from __future__ import annotations

import os
import re
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.results.columns import Row
from producer.results.file_names import FileNames, safe_stem

ODD = st.text(st.sampled_from("aB./\\:~-_ \x00\n*?é😀CON1"), max_size=300) | st.text(max_size=300)


def row(custom_id: str | None = None, *, outputs: int = 1, number: int = 17) -> Row:
    """A completed row."""
    return {"custom_id": custom_id, "row": number, "job_id": f"{number:032x}", "outputs": ["s3://b/k"] * outputs}


def names_of(*rows: Row) -> list[list[str]]:
    """Return the names that a run gives these rows."""
    with FileNames() as names:
        return [names.outputs(one, "png") for one in rows]


@pytest.mark.parametrize("custom_id", ["item-1", "IMG_0001", "shop/shoes/red 1", "ü日本😀", "a.b", "photo.png", "x-1"])
def test_a_harmless_id_is_the_name_as_it_is(custom_id: str) -> None:
    assert names_of(row(custom_id)) == [[f"{custom_id}.png"]]


def test_a_row_without_an_id_is_named_by_its_number() -> None:
    assert names_of(row()) == [["row-00000017.png"]]


def test_several_outputs_are_counted() -> None:
    assert names_of(row("a", outputs=3)) == [["a-0.png", "a-1.png", "a-2.png"]]
    assert names_of({**row("a"), "outputs": None}) == [[]]


@pytest.mark.parametrize(
    ("custom_id", "stem"),
    [
        ("../../etc/passwd", "__/__/etc/passwd"),
        ("/etc/passwd", "etc/passwd"),
        ("..", "__"),
        ("", "_"),
        ("a//b/./c", "a/b/c"),
        ("C:\\temp\\x", "C__temp_x"),
        ("a\x00b\n", "a_b_"),
        (".hidden", "_hidden"),
        ("end. ", "end__"),
        ("aux.txt", "_aux.txt"),
        ("nul/x", "_nul/x"),
        ("\ud800", "_"),
        ("a.png/b", "a.png_/b"),
        ("results.jsonl/b", "results.jsonl_/b"),
        ("looks~0123abcd", "looks~0123abcd"),
        ("/".join("abcdefghij"), "a/b/c/d/e/f/g/h_i_j"),
        ("ü" * 200, "ü" * 60),
    ],
)
def test_a_dangerous_id_is_made_safe_and_gets_a_digest(custom_id: str, stem: str) -> None:
    safe = safe_stem(row(custom_id))
    assert re.fullmatch(re.escape(stem) + "~[0-9a-f]{8}", safe)
    assert safe == safe_stem(row(custom_id, number=99))


@given(ODD)
def test_no_id_leads_out_of_the_folder_or_to_a_name_that_cannot_be_written(custom_id: str) -> None:
    [[name]] = names_of(row(custom_id))
    parts = name.split("/")
    assert not os.path.isabs(name)
    assert not PureWindowsPath(name).is_absolute()
    assert all(part not in {"", ".", ".."} and not part.startswith(".") for part in parts)
    assert all(len(part.encode()) <= 200 for part in parts)
    assert "\\" not in name
    assert "\x00" not in name


@given(st.lists(ODD, unique=True, max_size=20), st.booleans())
def test_no_two_outputs_share_a_name_also_where_case_is_nothing(ids: list[str], several: bool) -> None:
    rows = [row(one, outputs=1 + several * (n % 3), number=n) for n, one in enumerate(ids, 1)]
    given_names = [name.casefold() for names in names_of(*rows) for name in names]
    assert len(set(given_names)) == len(given_names)


@settings(max_examples=30)
@given(st.lists(ODD, unique=True, max_size=8))
def test_all_of_them_can_be_written_to_one_folder(tmp_path_factory: pytest.TempPathFactory, ids: list[str]) -> None:
    folder = tmp_path_factory.mktemp("saved")
    for names in names_of(*(row(one, number=n) for n, one in enumerate(ids))):
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            assert not target.exists()
            target.write_bytes(b"x")
            assert folder in Path(os.path.realpath(target)).parents


def test_colliding_ids_get_other_names_and_the_same_ones_in_every_run() -> None:
    rows = [row("a", outputs=2, number=1), row("a-1", number=2), row("A", number=3), row("a", number=4), row("A-0")]
    first = names_of(*rows)
    assert first[0] == ["a-0.png", "a-1.png"]
    assert first[2] == ["A.png"]
    assert [len(set(names)) for names in first] == [2, 1, 1, 1, 1]
    assert all(re.fullmatch(r"(a-1|a|A-0)~[0-9a-f]{8}\.png", names[0]) for names in (first[1], first[3], first[4]))
    assert names_of(*rows) == first


def test_a_key_of_a_webdataset_has_no_dot() -> None:
    with FileNames() as names:
        assert names.key(row("item-1")) == "item-1"
        assert re.fullmatch(r"photo_v2_png~[0-9a-f]{8}", names.key(row("photo.v2.png")))
        assert re.fullmatch(r"item-1~[0-9a-f]{8}", names.key(row("item-1", number=5)))
