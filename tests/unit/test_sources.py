"""How a source's text is read, and whose objects it may name."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Rejected
from common.objects import input_key, output_key, upload_key
from common.settings import Environment, Settings
from common.sources import HttpSource, ObjectSource, Source, check_source_owner, parse_source

OWNER = UUID("0190aaaa-0000-7000-8000-000000000001")
OTHER = UUID("0190aaaa-0000-7000-8000-000000000002")
JOB = UUID("0190aaaa-0000-7000-8000-000000000003")
SETTINGS = Settings(
    fillfleet_env=Environment.TEST,
    s3_endpoint="http://store.inside:9000",
    s3_public_endpoint="https://S3.example:443/",
    s3_bucket="fills",
)
NAMES = {OWNER: "alice", OTHER: "bob"}
LINK = "https://s3.example/fills"
SIGNED = "?X-Amz-Signature=hunter2"


def check(source: Source, owner: UUID, settings: Settings = SETTINGS, what: str = "source") -> None:
    check_source_owner(source, owner, settings, name_of=NAMES.get, what=what)


def rejection(text: str, what: str = "mask_image") -> Rejected:
    with pytest.raises(Rejected) as caught:
        parse_source(text, SETTINGS, what=what)
    assert caught.value.message.startswith(f"{what}: ")
    assert len(caught.value.message) < 300
    assert "hunter2" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    "url",
    [
        "https://pictures.example/a.png",
        "HTTP://Pictures.Example:8080/a%20b.png?X-Amz-Signature=hunter2#x",
        "https://bücher.example/ü.png",
        "http://[2606:4700::1]:8080/a.png",
        "https://pictures.example/../a//b.png",
        "https://s3.example/another-bucket/a.png",
        "https://s3.example/fills",
        "https://s3.example/fillsandmore/a.png",
        "https://s3.example:8443/fills/a.png",
        "http://s3.example/fills/a.png",
        "https://fills.s3.example/a.png",
        "https://s3.example.evil/fills/a.png",
    ],
)
def test_a_url_stays_as_it_was_written(url: str) -> None:
    assert parse_source(url, SETTINGS) == HttpSource(url)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("s3://fills/uploads/a.png", "uploads/a.png"),
        ("S3://fills/uploads/a.png", "uploads/a.png"),
        ("s3://fills/my photo.png", "my photo.png"),
        ("s3://fills/100%.png", "100%.png"),
        ("s3://fills/a%2Fb?c#d", "a%2Fb?c#d"),
        (f"{LINK}/uploads/a.png{SIGNED}", "uploads/a.png"),
        (f"HTTPS://S3.EXAMPLE:443/fills/uploads/a.png{SIGNED}", "uploads/a.png"),
        (f"{LINK}/uploads/a%20b%2B%C3%BC.png{SIGNED}", "uploads/a b+ü.png"),
        (f"{LINK}/uploads/a+b.png{SIGNED}", "uploads/a+b.png"),
        (f"{LINK}/uploads%2Fa%252e.png{SIGNED}", "uploads/a%2e.png"),
    ],
)
def test_s3_uris_and_our_own_links_name_an_object(text: str, key: str) -> None:
    assert parse_source(text, SETTINGS) == ObjectSource("fills", key)


def test_links_are_known_by_the_endpoint_they_are_signed_for() -> None:
    settings = Settings(fillfleet_env=Environment.TEST, s3_endpoint="http://127.0.0.1:8333/s3", s3_bucket="fills")
    link = "http://127.0.0.1:8333/s3/fills/uploads/a.png"
    assert parse_source(link, settings) == ObjectSource("fills", "uploads/a.png")
    other = "http://127.0.0.1:8333/fills/uploads/a.png"
    assert parse_source(other, settings) == HttpSource(other)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must begin with https://, http:// or s3://"),
        ("a.png", "must begin with https://, http:// or s3://"),
        ("/etc/passwd", "must begin with https://, http:// or s3://"),
        ("file:///etc/passwd", "must begin with https://, http:// or s3://"),
        ("ftp://pictures.example/a.png", "must begin with https://, http:// or s3://"),
        ("data:image/png;base64,AAAA", "must begin with https://, http:// or s3://"),
        ("s3:/fills/a.png", "must begin with https://, http:// or s3://"),
        ("http://", "no valid host"),
        ("https:///a.png", "no valid host"),
        ("https://:443/a.png", "no valid host"),
        ("https://pictures%2eexample/a.png", "no valid host"),
        ("https://[::1/a.png", "not a valid URL"),
        ("https://pictures.example:port/a.png", "not a valid URL"),
        ("https://pictures.example:70000/a.png", "not a valid URL"),
        ("https://me:hunter2@pictures.example/a.png", "user name"),
        ("https://me@pictures.example/a.png", "user name"),
        ("https://pictures.example\\@inside/a.png", "backslash"),
        ("https://pictures.example/a b.png", "space"),
        (" https://pictures.example/a.png", "begins or ends with a space"),
        ("https://pictures.example/a.png\n", "begins or ends with a space"),
        ("https://pictures.example/a\tb.png", "invisible"),
        ("https://pictures.example/\x00.png", "invisible"),
        ("https://pictures.example/\u200b.png", "invisible"),
        (f"https://pictures.example/{'a' * 8192}{SIGNED}", "at most 8192"),
        ("s3://", "no valid bucket"),
        ("s3:///a.png", "no valid bucket"),
        ("s3://Fills/a.png", "no valid bucket"),
        ("s3://fills:80/a.png", "no valid bucket"),
        ("s3://me@fills/a.png", "no valid bucket"),
        ("s3://fills", "names no object"),
        ("s3://fills/", "names no object"),
        ("s3://fills//a.png", "empty part"),
        ("s3://fills/a//b.png", "empty part"),
        ("s3://fills/folder/", "empty part"),
        ("s3://fills/a/../b.png", "empty part"),
        ("s3://fills/./b.png", "empty part"),
        ("s3://fills/..", "empty part"),
        ("s3://fills/a\\b.png", "backslash"),
        ("s3://fills/a\nb.png", "invisible"),
        (f"s3://fills/{'ü' * 600}", "longer than 1024 bytes"),
        (f"{LINK}/", "names no object"),
        (f"{LINK}//a.png{SIGNED}", "empty part"),
        (f"{LINK}/uploads/../a.png{SIGNED}", "empty part"),
        (f"{LINK}/uploads/%2e%2E/a.png{SIGNED}", "empty part"),
        (f"{LINK}/uploads/..%2fa.png{SIGNED}", "empty part"),
        (f"{LINK}/uploads%5C..%5Ca.png{SIGNED}", "backslash"),
        (f"{LINK}/uploads/%00.png{SIGNED}", "invisible"),
        (f"{LINK}/uploads/%0d%0a.png{SIGNED}", "invisible"),
        (f"{LINK}/uploads/%ff.png{SIGNED}", "UTF-8"),
        (f"{LINK}/uploads/100%.png{SIGNED}", "two hex digits"),
    ],
)
def test_what_cannot_be_read_is_invalid_and_says_why(text: str, reason: str) -> None:
    error = rejection(text)
    assert error.code == "source_invalid"
    assert reason in error.message


def test_another_bucket_is_forbidden() -> None:
    error = rejection("s3://another-bucket/a.png", what="image")
    assert error.code == "source_forbidden"
    assert '"s3://another-bucket/a.png"' in error.message


def test_a_message_shows_the_value_without_its_secrets_and_cut_to_100_characters() -> None:
    message = rejection(f"https://me:hunter2@pictures.example/{'a' * 200}.png{SIGNED}").message
    assert f'"https://pictures.example/{"a" * 75}…"' in message
    assert SIGNED not in message


@given(
    st.text(max_size=80).map(lambda text: f"{LINK}/{text}") | st.text(max_size=80).map(lambda key: f"s3://fills/{key}")
)
def test_no_text_names_an_object_outside_its_prefix(text: str) -> None:
    try:
        source = parse_source(text, SETTINGS)
    except Rejected as error:
        assert error.code == "source_invalid"  # noqa: PT017 - most texts are, and none may fail otherwise
        return
    assert isinstance(source, ObjectSource)
    assert not {"", ".", ".."} & set(source.key.split("/"))
    assert source.key.isprintable()
    assert "\\" not in source.key


# --- whose it is


def test_urls_belong_to_nobody() -> None:
    check(HttpSource("https://pictures.example/a.png"), OWNER)


@pytest.mark.parametrize(
    "key",
    [
        input_key(OWNER, "ab" * 32, "png"),
        upload_key(OWNER, JOB, "a.png"),
        output_key(OWNER, JOB, 1, 0, "png"),
        output_key(OWNER, JOB, 1, 0, "png", batch=OTHER),
    ],
)
def test_an_owner_may_name_what_lies_under_its_prefixes_and_nobody_else_may(key: str) -> None:
    check(ObjectSource("fills", key), OWNER)
    with pytest.raises(Rejected, match=r'^image: "s3://fills/.+ is not yours') as caught:
        check(ObjectSource("fills", key), OTHER, what="image")
    assert caught.value.code == "source_forbidden"


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("a.png", "source_forbidden"),
        (f"{OWNER.hex}/a.png", "source_forbidden"),
        (f"secrets/{OWNER.hex}/a.png", "source_forbidden"),
        (f"outputs/{OWNER.hex}", "source_forbidden"),
        (f"outputs/{OWNER.hex}0/a.png", "source_forbidden"),
        (f"outputs/{OWNER}/a.png", "source_forbidden"),
        (f"outputs/{OWNER.hex.upper()}/a.png", "source_forbidden"),
        (f"x/outputs/{OWNER.hex}/a.png", "source_forbidden"),
        (f"outputs/{OWNER.hex}/", "source_invalid"),
        (f"outputs/{OWNER.hex}/../{OTHER.hex}/a.png", "source_invalid"),
        (f"outputs/{OWNER.hex}//a.png", "source_invalid"),
    ],
)
def test_an_owner_reaches_nothing_outside_its_prefixes(key: str, code: str) -> None:
    with pytest.raises(Rejected) as caught:
        check(ObjectSource("fills", key), OWNER)
    assert caught.value.code == code


# --- the keys themselves


@pytest.mark.parametrize(
    ("filename", "kept"),
    [
        ("photo.png", "photo.png"),
        ("my photo (1).PNG", "my_photo_1_.PNG"),
        ("../../etc/passwd", "passwd"),
        ("C:\\pictures\\a.png", "a.png"),
        ("..", "file"),
        ("...png", "png"),
        (".hidden", "hidden"),
        ("", "file"),
        ("folder/", "file"),
        ("日本.png", "_.png"),
        ("a\r\nb.png", "a_b.png"),
        ("a%2e%2e%2fb.png", "a_2e_2e_2fb.png"),
        (f"{'x' * 300}.png", f"{'x' * 96}.png"),
    ],
)
def test_of_an_uploads_file_name_only_a_plain_last_part_is_kept(filename: str, kept: str) -> None:
    assert upload_key(OWNER, JOB, filename) == f"uploads/{OWNER.hex}/{JOB.hex}/{kept}"


@given(st.text())
def test_every_file_name_makes_a_key_of_its_owner(filename: str) -> None:
    key = upload_key(OWNER, JOB, filename)
    check(ObjectSource("fills", key), OWNER)
    assert parse_source(f"s3://fills/{key}", SETTINGS) == ObjectSource("fills", key)


def test_outputs_of_two_attempts_never_share_a_key() -> None:
    assert output_key(OWNER, JOB, 2, 0, "png") == f"outputs/{OWNER.hex}/single/{JOB.hex}/2-0.png"
    assert output_key(OWNER, JOB, 1, 3, "webp", batch=OTHER) == f"outputs/{OWNER.hex}/{OTHER.hex}/{JOB.hex}/1-3.webp"


@pytest.mark.parametrize("extension", ["", ".png", "PNG", "p/ng", "..", "png\n"])
def test_an_extension_is_a_plain_word(extension: str) -> None:
    with pytest.raises(ValueError, match="not a file extension"):
        output_key(OWNER, JOB, 1, 0, extension)
    with pytest.raises(ValueError, match="not a file extension"):
        input_key(OWNER, "ab" * 32, extension)


def test_an_input_is_known_by_a_whole_sha256() -> None:
    assert input_key(OWNER, "ab" * 32, "png") == f"inputs/{OWNER.hex}/{'ab' * 32}.png"
    with pytest.raises(ValueError, match="64 lower-case hex"):
        input_key(OWNER, "../" + "ab" * 30, "png")
