"""The options of `fillfleet submit`: what they ask for, and that they are checked before anything is read or sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from producer.cli.figures import count, duration_text, rate_text, size_text
from producer.cli.reading import Reading
from producer.cli.rejects import rejects_path
from producer.cli.results import results
from producer.cli.submit import submit
from producer.cli.submit_options import Wish, wish_of
from producer.manifest import BadRow, ManifestRow
from producer.manifest.options import Form


def wish(*arguments: str) -> Wish:
    """Return what a command line asks for."""
    return wish_of(submit.make_context("submit", list(arguments)).params)


def refused(*arguments: str) -> str:
    """Return why a command line is wrong."""
    with pytest.raises(click.UsageError) as caught:
        wish(*arguments)
    return caught.value.format_message()


def test_columns_are_named_by_their_own_options_and_by_field() -> None:
    asked = wish("a.csv", "--image-col", "url", "--id-col", "sku", "--col", "seed=random number", "--keep", "steps")
    assert asked.options.columns == {"image": "url", "custom_id": "sku", "seed": "random number"}
    assert asked.options.keep == ("steps",)


def test_constants_hold_for_the_batch_and_not_for_each_row() -> None:
    asked = wish("a.csv", "--prompt", "a fox", "--size", "512*768", "--steps", "4", "--guidance", "30", "--seed", "-1",
                 "--num-images", "2", "--output-format", "webp", "--lora", "https://x.org/a.safetensors:0.5",
                 "--lora", "b/c:1", "--region", "auto")  # fmt: skip
    assert asked.options.constants == {}
    assert asked.defaults == {
        "prompt": "a fox",
        "size": "512*768",
        "num_inference_steps": 4,
        "guidance_scale": 30.0,
        "seed": -1,
        "num_images": 2,
        "output_format": "webp",
        "loras": [{"path": "https://x.org/a.safetensors", "scale": 0.5}, {"path": "b/c", "scale": 1.0}],
        "region": "auto",
    }


def test_what_is_not_said_is_left_to_the_rows() -> None:
    asked = wish("a.csv")
    assert asked.defaults == {}
    assert (asked.options.form, asked.name, asked.limit, asked.priority, asked.strict) == (None, None, None, 5, False)


def test_an_empty_prompt_is_a_constant_like_any_other() -> None:
    assert wish("a.csv", "--prompt", "").defaults == {"prompt": ""}


def test_a_form_may_be_said() -> None:
    assert wish("-", "--name", "x", "--form", "tsv").options.form is Form.TSV


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--steps", "51", "--steps: 51 is too large; allowed: an integer from 1 to 50"),
        ("--guidance", "3", "--guidance: 3.0 is too small"),
        ("--num-images", "5", "--num-images: 5 is too large"),
        ("--size", "10*10", "--size: '10*10' each side must be 256 to 1536"),
        ("--seed", "-2", "--seed: -2 is too small"),
        ("--lora", "a/b", "PATH:SCALE"),
        ("--lora", "a/b:x", "PATH:SCALE"),
        ("--lora", "a/b:9", "--lora: 9.0 is too large"),
        ("--output-format", "gif", "'gif' is not one of"),
        ("--priority", "10", "10 is not in the range"),
        ("--limit", "0", "0 is not in the range"),
        ("--col", "image", "must be FIELD=COLUMN"),
        ("--col", "picture=url", "must be FIELD=COLUMN"),
        ("--masks", "/nowhere", "does not exist"),
        ("--root", "/nowhere", "does not exist"),
    ],
)
def test_a_wrong_value_names_its_option(option: str, value: str, words: str) -> None:
    assert words in refused("a.csv", option, value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a.csv", "--mask", "m.png", "--masks", "."), "give one of the two"),
        (("a.csv", "--check", "--watch"), "leave one of them out"),
        (("a.csv", "--seconds-per-image", "2"), "for the estimate of --check"),
        (("a.csv", "--check", "--dollars-per-hour", "2"), "needs --seconds-per-image"),
        (("-",), "give the batch one with --name"),
        (("a.csv", "--image-col", "a", "--col", "image=b"), "image is said to be two columns"),
        ((), "Missing argument"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(*arguments)


@pytest.mark.parametrize("command", [submit, results])
def test_help_fits_80_columns_and_names_every_option(command: click.Command) -> None:
    context = click.Context(command, info_name=command.name, max_content_width=80, terminal_width=80)
    text = command.get_help(context)
    assert max(map(len, text.splitlines())) <= 80
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option):
            assert parameter.opts[-1] in text


class _Ten:
    """A manifest of ten rows."""

    form = Form.JSONL
    name = "ten.jsonl"

    def rows(self) -> Iterator[ManifestRow | BadRow]:
        for number in range(1, 11):
            yield ManifestRow(number, f"line {number}", {})


def test_a_part_of_a_manifest_has_its_own_name_and_counts_each_pass_anew() -> None:
    reading = Reading(_Ten(), limit=3)
    assert reading.name == "ten.jsonl-first-3"
    for _ in range(2):
        assert [row.number for row in reading.rows()] == [1, 2, 3]
        assert reading.read == 3
    assert Reading(_Ten()).name == "ten.jsonl"


def test_bad_rows_go_to_a_file_in_this_folder_whatever_the_batch_is_called() -> None:
    assert rejects_path(None, "photos") == Path("photos.rejects.jsonl")
    assert rejects_path(None, "../../etc/x").parent == Path()
    assert rejects_path(Path("mine"), "photos") == Path("mine")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.9, "1 min"),
        (90, "1 min 30 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (11_520, "3 h 12 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d"),
        (1_000_000, "11 d 13 h"),
    ],
)
def test_a_duration_is_said_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_numbers_are_easy_to_read() -> None:
    assert (count(1, "row"), count(12_345, "row"), count(0)) == ("1 row", "12,345 rows", "0")
    assert [size_text(size) for size in (999, 1000, 45_200_000, 7e12)] == ["999 bytes", "1.0 KB", "45.2 MB", "7.0 TB"]
    assert [rate_text(rate) for rate in (0, 0.25, 12.34, 4321)] == [
        "0.0 rows/s",
        "15.0 rows/min",
        "12.3 rows/s",
        "4,321 rows/s",
    ]
