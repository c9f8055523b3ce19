"""What a fill request may say: every field with its default, its edges and its types, and what is said of a mistake.

The values stand here a second time, as the endpoint documents them, and are not taken from the contract's own names.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.contract import (
    ALLOWED,
    FillRequest,
    InvalidRequest,
    LoraRef,
    Problem,
    Size,
    Status,
    parse_request,
    parse_size,
    shorten,
    unknown_fields,
)

IMAGE = "https://example.com/a.png"
LORA: dict[str, Any] = {"path": "linoyts/yarn_art_Flux_LoRA", "scale": 1.0}


def parsed(**fields: Any) -> FillRequest:
    """Return the request with these fields and a good image."""
    return parse_request({"image": IMAGE} | fields)


def problems(body: object) -> tuple[Problem, ...]:
    """Return what is wrong with it."""
    with pytest.raises(InvalidRequest) as error:
        parse_request(body)
    assert error.value.problems
    assert str(error.value) == "; ".join(map(str, error.value.problems))
    return error.value.problems


def problem(**fields: Any) -> Problem:
    """Return the one thing that is wrong with these fields and a good image."""
    (only,) = problems({"image": IMAGE} | fields)
    return only


# --- defaults


def test_an_image_alone_is_a_request_and_all_else_has_its_documented_default() -> None:
    assert parsed().model_dump() == {
        "image": IMAGE,
        "mask_image": None,
        "prompt": "",
        "size": "1024*1024",
        "num_inference_steps": 28,
        "seed": -1,
        "guidance_scale": 30.0,
        "num_images": 1,
        "loras": (),
        "enable_safety_checker": True,
        "enable_sync_mode": False,
        "enable_base64_output": False,
        "output_format": "png",
    }


def test_a_region_that_nobody_asked_for_is_neither_stored_nor_told() -> None:
    # What is stored of a row decides whether it is the same one; rows of before this field have none.
    assert "region" not in parsed().model_dump(mode="json")
    assert "region" not in parsed(region=None).model_dump_json()
    assert FillRequest.model_validate_json(parsed().model_dump_json()).region is None


@pytest.mark.parametrize("region", ["full", "auto"])
def test_a_region_that_was_asked_for_is_kept(region: str) -> None:
    assert parsed(region=region).model_dump(mode="json")["region"] == region
    assert FillRequest.model_validate_json(parsed(region=region).model_dump_json()).region == region


@pytest.mark.parametrize("region", ["Auto", "crop", "", 1, True])
def test_there_is_no_other_region(region: object) -> None:
    assert problem(region=region).allowed == "full or auto"


def test_every_field_is_described_for_complaints() -> None:
    lora = {f"loras.{name}" for name in LoraRef.model_fields}
    assert ALLOWED.keys() == FillRequest.model_fields.keys() | lora


def test_a_null_counts_as_left_out_in_every_field() -> None:
    assert parse_request({"image": IMAGE} | dict.fromkeys(FillRequest.model_fields.keys() - {"image"})) == parsed()
    (missing,) = problems({"image": None})
    assert str(missing) == "image: is missing; allowed: a URL of at most 8192 characters"


def test_unknown_fields_are_ignored_and_can_be_named() -> None:
    body = {"image": IMAGE, "webhook_url": 7, "Prompt": "x", "loras": [LORA | {"weight": "?"}]}
    assert parse_request(body).loras == (LoraRef(path=LORA["path"], scale=1.0),)
    assert unknown_fields(body) == ["Prompt", "webhook_url"]
    assert unknown_fields({"image": IMAGE}) == []


# --- edges


@pytest.mark.parametrize(
    ("field", "low", "high", "below", "above"),
    [
        ("num_inference_steps", 1, 50, 0, 51),
        ("seed", -1, 9_999_999_999, -2, 10_000_000_000),
        ("guidance_scale", 28, 35, math.nextafter(28, 0), math.nextafter(35, 99)),
        ("num_images", 1, 4, 0, 5),
    ],
)
def test_a_number_is_taken_up_to_its_edges_and_not_beyond(
    field: str, low: float, high: float, below: float, above: float
) -> None:
    assert getattr(parsed(**{field: low}), field) == low
    assert getattr(parsed(**{field: high}), field) == high
    for value, reason in ((below, "is too small"), (above, "is too large"), (-(10**9), "is too small")):
        wrong = problem(**{field: value})
        assert (wrong.field, wrong.value, wrong.reason) == (field, shorten(value), reason)
        assert wrong.allowed == ALLOWED[field]
        assert str(low) in wrong.allowed
        assert str(high) in wrong.allowed


@pytest.mark.parametrize(("scale", "reason"), [(-0.001, "is too small"), (4.001, "is too large"), (0, None), (4, None)])
def test_a_loras_scale_is_taken_from_0_to_4(scale: float, reason: str | None) -> None:
    lora = LORA | {"scale": scale}
    if reason is None:
        assert parsed(loras=[lora]).loras[0].scale == scale
        return
    wrong = problem(loras=[LORA, lora])
    assert (wrong.field, wrong.value, wrong.reason) == ("loras[1].scale", str(scale), reason)
    assert wrong.allowed == "a number from 0 to 4"


def test_five_loras_are_taken_and_a_sixth_is_one_complaint_whatever_the_six_are() -> None:
    assert len(parsed(loras=[LORA] * 5).loras) == 5
    many: list[list[Any]] = [[LORA] * 6, [None] * 6, [{}] * 500_000]
    for six in many:
        wrong = problem(loras=six)
        assert (wrong.field, wrong.value, wrong.reason) == ("loras", f"a list of {len(six)}", "is too long")


@pytest.mark.parametrize("field", ["path", "scale"])
def test_both_parts_of_a_lora_are_required(field: str) -> None:
    wrong = problem(loras=[{name: value for name, value in LORA.items() if name != field}])
    assert (wrong.field, wrong.reason) == (f"loras[0].{field}", "is missing")


def test_texts_are_taken_up_to_their_lengths() -> None:
    assert len(parsed(prompt="é" * 10_000).prompt) == 10_000
    assert len(parsed(image="x" * 8192, mask_image="y" * 8192).image) == 8192
    assert problem(prompt="x" * 10_001).reason == "is too long"
    for wrong in (problem(image="x" * 8193), problem(mask_image="x" * 8193)):
        assert wrong.reason == "is too long"
        assert len(str(wrong)) < 300, "it is not repeated whole"
    assert problem(loras=[{"path": "x" * 8193, "scale": 1}]).field == "loras[0].path"


# --- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1024*1024", Size(1024, 1024)),
        ("256*1536", Size(256, 1536)),
        ("513x769", Size(513, 769)),
        ("match", None),
        ("0512*0512", Size(512, 512)),
    ],
)
def test_a_size_is_width_by_height_or_match(text: str, size: Size | None) -> None:
    assert parsed(size=text).output_size == size


@pytest.mark.parametrize(
    "text",
    ["", "1024", "1024*", "*1024", "1024 * 1024", "1024*1024*3", "-512*512", "1e3*512", "512.0*512", "Match",
     "1024*1024\n", "\uff11\uff10\uff12\uff14*1024", "999999*512", "1024X1024"],
)  # fmt: skip
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    wrong = problem(size=text)
    assert wrong.field == "size"
    assert wrong.reason == "must look like 1024*1024, or be 'match'"
    assert wrong.allowed == "W*H with each side 256 to 1536, such as 1024*1024, or 'match'"


@pytest.mark.parametrize("text", ["255*1024", "1024*255", "1537*256", "256*1537", "0*0"])
def test_a_side_outside_256_to_1536_is_refused(text: str) -> None:
    assert problem(size=text).reason == "each side must be 256 to 1536 pixels"
    with pytest.raises(ValueError, match="256 to 1536"):
        parse_size(text)


def test_a_size_is_written_as_it_is_read() -> None:
    assert parse_size(str(Size(512, 768))) == Size(512, 768)


# --- types


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("image", [1, True, ["x"], {}]),
        ("mask_image", [1, False, ["x"], {}]),
        ("prompt", [1, True, ["x"], {}]),
        ("size", [1024, [512, 512], {}, True]),
        ("num_inference_steps", ["28", 28.0, True, [28], {}]),
        ("seed", ["7", 7.0, True, [7], {}]),
        ("guidance_scale", ["30", True, [30], {}, 10**400]),
        ("num_images", ["1", 1.0, True, [1], {}]),
        ("loras", ["x", 1, True, {"path": "x", "scale": 1}]),
        ("enable_safety_checker", ["true", 1, 0, "", [], {}]),
        ("enable_sync_mode", ["true", 1, 0, "", [], {}]),
        ("enable_base64_output", ["true", 1, 0, "", [], {}]),
    ],
)
def test_no_type_is_taken_for_another(field: str, wrong: list[Any]) -> None:
    for value in wrong:
        found = problem(**{field: value})
        assert (found.field, found.value) == (field, shorten(value))
        assert found.reason == "has the wrong type", value
        assert found.allowed == ALLOWED[field]


def test_the_two_exceptions_an_integer_is_a_number_and_a_list_a_tuple() -> None:
    assert parsed(guidance_scale=30, loras=[{"path": "x", "scale": 1}]) == parsed(
        guidance_scale=30.0, loras=({"path": "x", "scale": 1.0},)
    )


@pytest.mark.parametrize("entry", [1, "x", None, ["x", 1], True])
def test_an_entry_of_loras_is_an_object(entry: object) -> None:
    wrong = problem(loras=[LORA, entry])
    assert (wrong.field, wrong.reason) == ("loras[1]", "has the wrong type")
    assert wrong.allowed == "a list of at most 5 objects {path, scale}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_only_finite_numbers_are_numbers(value: float) -> None:
    assert problem(guidance_scale=value).reason == "is not a finite number"
    assert problem(loras=[LORA | {"scale": value}]).reason == "is not a finite number"


@pytest.mark.parametrize("value", ["PNG", "jpg", "", "png ", "tiff", 1, [], {}])
def test_an_output_format_is_one_of_three(value: object) -> None:
    assert [parsed(output_format=name).output_format for name in ("png", "jpeg", "webp")] == ["png", "jpeg", "webp"]
    wrong = problem(output_format=value)
    assert (wrong.reason, wrong.allowed) == ("is not one of the choices", "png, jpeg or webp")


@pytest.mark.parametrize("body", [None, 1, 1.5, "x", True, [], [{"image": IMAGE}]])
def test_what_is_no_object_is_no_request(body: object) -> None:
    (wrong,) = problems(body)
    assert (wrong.field, wrong.value, wrong.reason) == ("body", shorten(body), "is not an object")


# --- texts


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "\ud800", "a\udfff", "\ude00\ud83d"])
def test_what_the_database_cannot_store_is_refused_in_every_text(text: str) -> None:
    for fields, field in (
        ({"image": text}, "image"),
        ({"mask_image": text}, "mask_image"),
        ({"prompt": text}, "prompt"),
        ({"size": text}, "size"),
        ({"loras": [LORA | {"path": text}]}, "loras[0].path"),
    ):
        wrong = problem(**fields)
        assert (wrong.field, wrong.reason) == (field, "holds a NUL character or half of a surrogate pair")


def test_other_odd_characters_are_a_users_own_business() -> None:
    prompt = "a\tb\r\n\x7f\u202e 🦊 \U0010ffff \ufeff"
    assert parsed(prompt=prompt).prompt == prompt


def test_a_source_loses_the_blanks_around_it_and_must_hold_something() -> None:
    assert parsed(image=f" {IMAGE}\n").image == IMAGE
    for blank in ("", " ", "\n\t"):
        assert problem(image=blank).reason == "must not be empty"
        assert problem(loras=[LORA | {"path": blank}]).reason == "must not be empty"
        assert parsed(mask_image=blank).mask_image is None, "clients send an empty mask where they have none"


# --- complaints


def test_a_complaint_says_field_value_what_is_wrong_and_what_is_allowed() -> None:
    assert str(problem(num_images=9)) == "num_images: 9 is too large; allowed: an integer from 1 to 4"
    assert str(problem(prompt=5)) == "prompt: 5 has the wrong type; allowed: a text of at most 10000 characters"


def test_all_that_is_wrong_is_said_at_once_in_the_contracts_order() -> None:
    wrong = problems({"seed": "x", "num_images": 0, "loras": [{"scale": 9}], "size": "big"})
    assert [one.field for one in wrong] == ["image", "size", "seed", "num_images", "loras[0].path", "loras[0].scale"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (7, "7"),
        (-0.5, "-0.5"),
        (10**400, "a huge integer"),
        ("a'b\n", '"a\'b\\n"'),
        ("x" * 101, f"'{'x' * 100}'… (101 characters)"),
        ([1, [2]], "a list of 2"),
        ({"a": 1}, "an object"),
        ("\ud800", "'\\ud800'"),
    ],
)
def test_a_value_is_shown_short_and_printable(value: object, shown: str) -> None:
    assert shorten(value) == shown
    shorten(value).encode()


# --- seeds and states


def test_a_random_seed_is_drawn_once_and_leaves_room_for_the_other_images() -> None:
    drawn = {parsed().with_seed().seed for _ in range(50)}
    assert len(drawn) > 40
    assert all(0 <= seed <= 9_999_999_999 - 4 for seed in drawn)
    fixed = parsed(seed=0)
    assert fixed.with_seed() is fixed


def test_only_two_states_are_the_end() -> None:
    assert [status.value for status in Status if status.is_terminal] == ["completed", "failed"]
    assert [status.value for status in Status] == ["created", "processing", "completed", "failed"]


# --- anything at all

TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**400), 10**400) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
LORAS = st.lists(st.fixed_dictionaries({}, optional={"path": JSON, "scale": JSON}) | JSON, max_size=7)
BODY = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(FillRequest.model_fields, JSON) | {"image": JSON | st.just(IMAGE), "loras": LORAS}
)
GOOD = st.fixed_dictionaries(
    {"image": st.just(IMAGE)},
    optional={
        "mask_image": st.just(IMAGE),
        "prompt": st.text(max_size=40).filter(lambda text: "\x00" not in text),
        "size": st.builds(lambda w, h: f"{w}*{h}", st.integers(256, 1536), st.integers(256, 1536)) | st.just("match"),
        "num_inference_steps": st.integers(1, 50),
        "seed": st.integers(-1, 9_999_999_999),
        "guidance_scale": st.floats(28, 35) | st.integers(28, 35),
        "num_images": st.integers(1, 4),
        "loras": st.lists(st.fixed_dictionaries({"path": st.just("a/b"), "scale": st.floats(0, 4)}), max_size=5),
        "enable_safety_checker": st.booleans(),
        "output_format": st.sampled_from(["png", "jpeg", "webp"]),
    },
)


@settings(max_examples=300, deadline=None)
@given(JSON | BODY)
def test_any_json_is_a_request_or_an_invalid_request_and_nothing_else(body: object) -> None:
    try:
        request = parse_request(body)
    except InvalidRequest as error:
        for one in error.problems:
            str(one).encode()  # it can be sent
            assert len(str(one)) < 500
    else:
        assert parse_request(json.loads(request.model_dump_json())) == request


@settings(max_examples=200, deadline=None)
@given(GOOD)
def test_every_good_request_is_taken_and_comes_back_from_the_database_as_it_was(body: dict[str, Any]) -> None:
    request = parse_request(body)
    stored = json.loads(json.dumps(request.model_dump(mode="json")))
    assert FillRequest.model_validate(stored) == request
    assert request.with_seed().seed >= 0
