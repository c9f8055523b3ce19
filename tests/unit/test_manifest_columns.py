"""Which column is which field, and what a cell of text means."""

from __future__ import annotations

from typing import Any

import pytest

from producer.manifest.columns import BadCell, cell_value, custom_id_of, map_columns
from producer.manifest.options import ManifestOptions
from producer.manifest.row import ManifestError


def mapped(names: list[str], **options: Any) -> tuple[dict[str, str], str | None, list[str]]:
    columns = map_columns(names, ManifestOptions(**options), "products.csv")
    custom_id = None if columns.custom_id is None else names[columns.custom_id]
    return {field: names[place] for field, place in columns.fields}, custom_id, [name for name, _ in columns.extra]


def refused(names: list[str], **options: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        map_columns(names, ManifestOptions(**options), "products.csv")
    return caught.value.message


def test_columns_named_as_fields_are_those_fields_and_the_others_pass_through() -> None:
    found = mapped(["custom_id", "sku", "image", "prompt"])
    assert found == ({"image": "image", "prompt": "prompt"}, "custom_id", ["sku"])


def test_a_column_can_be_mapped_to_a_field_and_one_of_that_fields_name_then_passes_through() -> None:
    found = mapped(["image", "url", "sku"], columns={"image": "url", "custom_id": "sku"})
    assert found == ({"image": "url"}, "sku", ["image"])


def test_a_kept_column_passes_through_although_it_is_called_as_a_field() -> None:
    assert mapped(["image", "size", "sead"], keep=("size", "sead")) == ({"image": "image"}, None, ["size", "sead"])
    assert mapped(["image", "region"], keep=("region",)) == ({"image": "image"}, None, ["region"])


@pytest.mark.parametrize(
    ("column", "field"),
    [
        ("promt", "prompt"),
        ("Prompt", "prompt"),
        (" prompt", "prompt"),
        ("mask", "mask_image"),
        ("maskimage", "mask_image"),
        ("guidance scale", "guidance_scale"),
        ("lora", "loras"),
        ("num-images", "num_images"),
        ("custom_ids", "custom_id"),
    ],
)
def test_a_misspelt_column_stops_the_table_naming_the_field_and_how_to_keep_it(column: str, field: str) -> None:
    message = refused(["image", column])
    assert message.startswith("products.csv: ")
    assert f"the column {column!r} looks like the field {field}" in message
    assert "--keep" in message


@pytest.mark.parametrize("column", ["image_id", "sku", "id", "category", "width", "price", "url", "caption"])
def test_a_column_of_the_users_own_is_taken_for_no_field(column: str) -> None:
    assert mapped(["image", column])[2] == [column]


def test_what_looks_like_a_field_passes_through_when_that_field_is_given_otherwise() -> None:
    assert mapped(["image", "mask_image", "mask"])[2] == ["mask"]
    assert mapped(["image", "promt"], constants={"prompt": "a cat"})[2] == ["promt"]


def test_a_table_without_an_image_lists_its_columns_and_says_what_to_do() -> None:
    message = refused(["picture", "prompt"])
    assert message.startswith("products.csv: ")
    assert "'picture', 'prompt'" in message
    assert "--image-col NAME" in message


def test_a_mapped_column_must_exist_and_its_field_too() -> None:
    assert "no column 'pic' to take as image; its columns are 'image'" in refused(["image"], columns={"image": "pic"})
    assert "'imagee' is no field of a request" in refused(["image"], columns={"imagee": "image"})


def test_two_columns_of_one_name_are_refused() -> None:
    assert refused(["image", "prompt", "prompt"]) == (
        "products.csv: two columns are called 'prompt'; rename or remove one of them"
    )


def test_the_index_that_pandas_writes_is_no_column() -> None:
    assert mapped(["", "image", "__index_level_0__"])[2] == []


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("num_inference_steps", "28", 28),
        ("num_inference_steps", "28.0", 28),
        ("num_inference_steps", " 7 ", 7),
        ("num_inference_steps", "28.5", "28.5"),
        ("num_inference_steps", "1_0", "1_0"),
        ("num_inference_steps", "٣", "٣"),
        ("seed", "9999999999", 9_999_999_999),
        ("seed", "-1", -1),
        ("seed", "9" * 5000, "9" * 5000),
        ("guidance_scale", "30", 30),
        ("guidance_scale", "3.05e1", 30.5),
        ("guidance_scale", "nan", "nan"),
        ("guidance_scale", "1e999", "1e999"),
        ("enable_safety_checker", "True", True),
        ("enable_safety_checker", "no", False),
        ("enable_safety_checker", "2", "2"),
        ("prompt", " 28 ", " 28 "),
        ("loras", "a/b:0.5", [{"path": "a/b", "scale": 0.5}]),
        ("loras", "https://x.example/l.safetensors:1;s3://b/k : 2", [
            {"path": "https://x.example/l.safetensors", "scale": 1},
            {"path": "s3://b/k", "scale": 2},
        ]),
        ("loras", '[{"path": "a/b", "scale": 1.5}]', [{"path": "a/b", "scale": 1.5}]),
        ("loras", '{"path": "a/b", "scale": 1.5}', [{"path": "a/b", "scale": 1.5}]),
        ("loras", "https://x.example/l.safetensors", "https://x.example/l.safetensors"),
        ("loras", "a/b", "a/b"),
        ("loras", "[not json", "[not json"),
    ],
)  # fmt: skip
def test_a_cell_of_text_becomes_the_fields_json_value_or_stays_as_it_is(field: str, text: str, value: Any) -> None:
    found = cell_value(field, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "text"),
    [("a", "a"), (17, "17"), (17.0, "17"), (1.5, "1.5"), (None, None), ("", None), (float("nan"), None)],
)
def test_a_custom_id_is_text_and_a_number_is_turned_into_it(given: Any, text: str | None) -> None:
    assert custom_id_of(given) == text


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("x" * 513, "longer than 512"),
        ("a\x00b", "NUL"),
        (True, "a text or a number"),
        (["a"], "a text or a number"),
        ("\ud800", "surrogate"),
    ],
)
def test_a_custom_id_that_cannot_be_kept_makes_the_row_a_bad_one(given: Any, reason: str) -> None:
    with pytest.raises(BadCell, match=reason) as caught:
        custom_id_of(given)
    assert caught.value.field == "custom_id"
