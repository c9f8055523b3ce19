"""What the operator allows beside an owner's own objects: just the folders that it names, for just whom it names."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.errors import Rejected
from common.objects import output_key
from common.read_prefixes import ReadPrefix, parse_read_prefixes
from common.settings import Environment, Settings
from common.sources import HttpSource, ObjectSource, check_source_owner, parse_source

ALICE = UUID("0190aaaa-0000-7000-8000-000000000001")
BOB = UUID("0190aaaa-0000-7000-8000-000000000002")
NAMES = {ALICE: "alice", BOB: "bob"}
ALLOWED = "alice=s3://photos/summer/2026/, *=s3://stock/free ,bob=s3://bobs,alice=s3://fills/shared/alice/"


def settings(allowed: str = ALLOWED) -> Settings:
    values: dict[str, Any] = {"fillfleet_env": Environment.TEST, "s3_bucket": "fills", "s3_read_prefixes": allowed}
    return Settings.model_validate(values)


def may_read(text: str, owner: UUID, allowed: str = ALLOWED, *, folders: bool = False) -> bool:
    """Return whether `owner` may name `text`; every refusal is a Rejected that says why."""
    try:
        source = parse_source(text, settings(allowed), what="image", folders=folders)
        check_source_owner(source, owner, settings(allowed), name_of=NAMES.get, what="image", folders=folders)
    except Rejected as error:  # most texts are refused, and none may fail otherwise
        assert error.code in {"source_forbidden", "source_invalid"}  # noqa: PT017
        assert error.message.startswith("image: ")  # noqa: PT017
        return False
    assert isinstance(source, ObjectSource)
    assert source.uri in {text, f"{text}/"}
    return True


@pytest.mark.parametrize(
    ("text", "readers"),
    [
        ("s3://photos/summer/2026/a.png", {ALICE}),
        ("s3://photos/summer/2026/deep/er/a.png", {ALICE}),
        ("s3://photos/summer/2026", {ALICE}),
        ("s3://photos/summer/20260/a.png", set()),
        ("s3://photos/summer/a.png", set()),
        ("s3://photos/Summer/2026/a.png", set()),
        ("s3://photos/x/summer/2026/a.png", set()),
        ("s3://photos/summer%2F2026/a.png", set()),
        ("s3://photos/summer/2026/../../secret.png", set()),
        ("s3://photos/summer/2026/./a.png", set()),
        ("s3://photos/summer//2026/a.png", set()),
        ("s3://photos/summer/2026//a.png", set()),
        ("s3://photos/summer/2026/", set()),
        ("s3://photos//summer/2026/a.png", set()),
        ("s3://photos2/summer/2026/a.png", set()),
        ("s3://stock/free/a.png", {ALICE, BOB}),
        ("s3://stock/freedom/a.png", set()),
        ("s3://stock/free/../paid/a.png", set()),
        ("s3://bobs/a.png", {BOB}),
        ("s3://bobs/../fills/a.png", set()),
        ("s3://bobs/", set()),
        ("s3://fills/shared/alice/a.png", {ALICE}),
        ("s3://fills/shared/alicette/a.png", set()),
        ("s3://fills/shared/a.png", set()),
        (f"s3://fills/{output_key(ALICE, BOB, 1, 0, 'png')}", {ALICE}),
        # what lies in another bucket under a name of ours is not ours
        (f"s3://bobs/uploads/{ALICE.hex}/a.png", {BOB}),
        (f"s3://photos/uploads/{ALICE.hex}/a.png", set()),
        ("s3://elsewhere/a.png", set()),
    ],
)
def test_an_entry_opens_whole_folders_to_whom_it_names(text: str, readers: set[UUID]) -> None:
    assert {owner for owner in (ALICE, BOB) if may_read(text, owner)} == readers


@pytest.mark.parametrize(
    ("text", "readers"),
    [
        ("s3://photos/summer/2026/", {ALICE}),
        ("s3://photos/summer/2026", {ALICE}),
        ("s3://photos/summer/2026/deep/", {ALICE}),
        ("s3://photos/summer/202/", set()),
        ("s3://photos/summer/20260/", set()),
        ("s3://photos/summer/", set()),
        ("s3://photos/", set()),
        ("s3://photos", set()),
        ("s3://photos/summer/2026//", set()),
        ("s3://photos/summer/2026/../", set()),
        ("s3://photos//", set()),
        ("s3://bobs/", {BOB}),
        ("s3://bobs", {BOB}),
        ("s3://stock/free/", {ALICE, BOB}),
        ("s3://fills/", set()),
        ("s3://fills/uploads/", set()),
        (f"s3://fills/uploads/{ALICE.hex}/", {ALICE}),
        (f"s3://fills/uploads/{ALICE.hex}", {ALICE}),
        (f"s3://fills/uploads/{ALICE.hex}0/", set()),
        (f"s3://fills/uploads/{ALICE.hex[:-1]}", set()),
        (f"s3://fills/uploads/{ALICE.hex}/../{BOB.hex}/", set()),
        (f"s3://fills/other/{ALICE.hex}/", set()),
        ("s3://fills/shared/alice/", {ALICE}),
        ("s3://fills/shared/", set()),
        ("s3://elsewhere/", set()),
    ],
)
def test_a_whole_folder_is_open_to_whom_all_of_it_is_open(text: str, readers: set[UUID]) -> None:
    assert {owner for owner in (ALICE, BOB) if may_read(text, owner, folders=True)} == readers


def test_by_default_nothing_is_allowed() -> None:
    assert Settings(fillfleet_env=Environment.TEST).s3_read_prefixes == ()
    assert not may_read("s3://stock/free/a.png", ALICE, "")


def test_an_owner_that_is_not_there_reads_only_what_everybody_may() -> None:
    nobody = UUID(int=7)
    assert may_read("s3://stock/free/a.png", nobody)
    assert not may_read("s3://photos/summer/2026/a.png", nobody)


def test_a_name_is_asked_for_only_where_it_decides() -> None:
    asked: list[UUID] = []

    def name_of(owner: UUID) -> str:
        asked.append(owner)
        return "alice"

    for source in (
        HttpSource("https://pictures.example/a.png"),
        ObjectSource("fills", f"uploads/{ALICE.hex}/a.png"),
        ObjectSource("stock", "free/a.png"),
    ):
        check_source_owner(source, ALICE, settings(), name_of=name_of)
    assert asked == []
    check_source_owner(ObjectSource("photos", "summer/2026/a.png"), ALICE, settings(), name_of=name_of)
    assert asked == [ALICE]


def test_a_refusal_does_not_tell_what_is_allowed_to_others() -> None:
    messages = []
    for text in ("s3://photos/summer/2026/a.png", "s3://elsewhere/a.png"):
        with pytest.raises(Rejected) as caught:
            check_source_owner(parse_source(text, settings(), what="image"), BOB, settings(), name_of=NAMES.get)
        messages.append(caught.value.message.split('"')[2])
    assert messages[0] == messages[1]


@given(st.text(alphabet="./aef%\\", max_size=12))
def test_no_key_reaches_out_of_its_folder(rest: str) -> None:
    text = f"s3://stock/free{rest}"
    if may_read(text, BOB):
        assert rest == "" or rest.startswith("/")
        assert not {"", ".", ".."} & set(text.removeprefix("s3://stock/").split("/"))


# --- how it is written


def test_entries_are_read_with_or_without_a_slash_at_the_end() -> None:
    assert parse_read_prefixes("a.b@c=s3://one/x/y/,*=S3://two , c=s3://two/,,") == (
        ReadPrefix("a.b@c", "one", ("x", "y")),
        ReadPrefix("*", "two", ()),
        ReadPrefix("c", "two", ()),
    )


@pytest.mark.parametrize(
    "entry",
    [
        "s3://photos/summer/",
        "=s3://photos/",
        "alice",
        "alice=",
        "alice=photos/summer",
        "alice=https://photos.example/",
        "al ice=s3://photos/",
        "a*=s3://photos/",
        "alice=s3://Photos/",
        "alice=s3:///summer",
        "alice=s3://photos//",
        "alice=s3://photos//summer/",
        "alice=s3://photos/summer//",
        "alice=s3://photos/../fills/",
        "alice=s3://photos/./summer",
        "alice=s3://photos/sum\\mer",
        "*=s3://fills/",
        "alice=s3://fills",
        "alice=s3://fills/outputs/",
        "*=s3://fills/uploads",
    ],
)
def test_an_entry_that_says_nothing_clear_or_opens_every_owners_objects_is_refused_at_start(entry: str) -> None:
    with pytest.raises(ValidationError, match="S3_READ_PREFIXES"):
        settings(f"*=s3://stock/free/,{entry}")


def test_they_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_READ_PREFIXES", "*=s3://stock/free/")
    made = Settings(fillfleet_env=Environment.TEST, s3_bucket="fills")
    assert made.s3_read_prefixes == (ReadPrefix("*", "stock", ("free",)),)
