"""Bad input over HTTP: each is a 4xx in the envelope that names field, value and allowed range; nothing is queued."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.api import IMAGE, Account, Api, check_envelope

SUBMIT = "/api/v3/wavespeed-ai/flux-dev-fill"
LORA = {"path": "linoyts/yarn_art_Flux_LoRA", "scale": 1.0}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def _nothing_is_queued(api: Api, account: Account) -> Iterator[None]:
    yield
    assert api.count_jobs(account.owner) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        # wrong type
        (
            {"num_inference_steps": "28"},
            "num_inference_steps: '28' has the wrong type; allowed: an integer from 1 to 50",
        ),
        (
            {"num_inference_steps": 28.5},
            "num_inference_steps: 28.5 has the wrong type; allowed: an integer from 1 to 50",
        ),
        ({"num_images": True}, "num_images: true has the wrong type; allowed: an integer from 1 to 4"),
        ({"prompt": ["a"]}, "prompt: a list of 1 has the wrong type; allowed: a text of at most 10000 characters"),
        ({"image": 7}, "image: 7 has the wrong type; allowed: a URL of at most 8192 characters"),
        ({"enable_safety_checker": "yes"}, "enable_safety_checker: 'yes' has the wrong type; allowed: true or false"),
        ({"loras": {}}, "loras: an object has the wrong type; allowed: a list of at most 5 objects {path, scale}"),
        ({"loras": ["a/b"]}, "loras[0]: 'a/b' has the wrong type; allowed: a list of at most 5 objects {path, scale}"),
        # out of range
        ({"num_inference_steps": 0}, "num_inference_steps: 0 is too small; allowed: an integer from 1 to 50"),
        ({"num_inference_steps": 51}, "num_inference_steps: 51 is too large; allowed: an integer from 1 to 50"),
        ({"seed": -2}, "seed: -2 is too small; allowed: an integer from -1 (random) to 9999999999"),
        (
            {"seed": 10_000_000_000},
            "seed: 10000000000 is too large; allowed: an integer from -1 (random) to 9999999999",
        ),
        ({"guidance_scale": 27.9}, "guidance_scale: 27.9 is too small; allowed: a number from 28 to 35"),
        ({"guidance_scale": 1e30}, "guidance_scale: 1e+30 is too large; allowed: a number from 28 to 35"),
        ({"num_images": 5}, "num_images: 5 is too large; allowed: an integer from 1 to 4"),
        ({"loras": [LORA] * 6}, "loras: a list of 6 is too long; allowed: a list of at most 5 objects {path, scale}"),
        ({"loras": [LORA | {"scale": 5}]}, "loras[0].scale: 5 is too large; allowed: a number from 0 to 4"),
        ({"loras": [LORA, {"path": "a/b"}]}, "loras[1].scale: is missing; allowed: a number from 0 to 4"),
        ({"output_format": "gif"}, "output_format: 'gif' is not one of the choices; allowed: png, jpeg or webp"),
        # sizes
        (
            {"size": "99*99"},
            "size: '99*99' each side must be 256 to 1536 pixels; "
            "allowed: W*H with each side 256 to 1536, such as 1024*1024, or 'match'",
        ),
        (
            {"size": "1024x"},
            "size: '1024x' must look like 1024*1024, or be 'match'; "
            "allowed: W*H with each side 256 to 1536, such as 1024*1024, or 'match'",
        ),
        # a missing or an empty image
        ({"image": None}, "image: is missing; allowed: a URL of at most 8192 characters"),
        ({"image": " "}, "image: ' ' must not be empty; allowed: a URL of at most 8192 characters"),
        # text that no database can keep
        (
            {"prompt": "a\x00b"},
            "prompt: 'a\\x00b' holds a NUL character or half of a surrogate pair; "
            "allowed: a text of at most 10000 characters",
        ),
        ({"seed": 10**300}, "seed: a huge integer is too large; allowed: an integer from -1 (random) to 9999999999"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_a_wrong_field_is_named_with_its_value_and_its_range(
    account: Account, fields: dict[str, Any], message: str
) -> None:
    answer = account.ask("POST", SUBMIT, status=400, json={"image": IMAGE} | fields)
    assert message in answer["message"]
    assert answer["data"]["code"] == 1401
    error = answer["data"]["errors"][0]
    told = f"{error['value']} {error['reason']}".strip()
    assert message == f"{error['field']}: {told}; allowed: {error['allowed']}"


def test_all_that_is_wrong_is_said_at_once(account: Account) -> None:
    body = {"image": IMAGE, "seed": -2, "num_images": 9, "loras": [{"path": "", "scale": 9}]}
    errors = account.ask("POST", SUBMIT, status=400, json=body)["data"]["errors"]
    assert {error["field"] for error in errors} == {"seed", "num_images", "loras[0].path", "loras[0].scale"}


def test_a_prompt_that_is_too_long_is_not_sent_back(account: Account) -> None:
    answer = account.ask("POST", SUBMIT, status=400, json={"image": IMAGE, "prompt": "x" * 100_000})
    assert "(100000 characters) is too long; allowed: a text of at most 10000 characters" in answer["message"]
    assert len(answer["message"]) < 300


@pytest.mark.parametrize("lora", [b"{}", b"1"])
def test_very_many_loras_are_one_short_complaint(account: Account, lora: bytes) -> None:
    body = b'{"image": "https://example.com/a.png", "loras": [' + b",".join([lora] * 300_000) + b"]}"
    answer = account.ask("POST", SUBMIT, status=400, content=body, headers=JSON)
    assert answer["message"].startswith("loras: a list of 300000 is too long; allowed: a list of at most 5")


def test_a_thousand_complaints_are_cut_short(account: Account) -> None:
    answer = account.ask("POST", "/api/v3/predictions/delete", status=400, json={"ids": [1] * 1000})
    assert answer["message"].endswith("and 980 more")
    assert len(answer["data"]["errors"]) == 20


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "chunked"])
def test_a_prompt_of_20_mb_is_a_413_that_names_size_and_limit(api: Api, account: Account, chunked: bool) -> None:
    body = json.dumps({"image": IMAGE, "prompt": "x" * 20_000_000}).encode()
    content = (body[start : start + 65536] for start in range(0, len(body), 65536)) if chunked else body
    answer = account.ask("POST", SUBMIT, status=413, content=content, headers=JSON)
    limit = api.settings.api_max_body_bytes
    size = f"more than {limit} bytes" if chunked else f"{len(body)} bytes"
    assert answer["message"] == f"body: {size} is too large; allowed: at most {limit} bytes"
    assert answer["data"]["errors"][0]["field"] == "body"


def test_a_body_of_just_the_limit_is_read(api: Api, account: Account) -> None:
    body = json.dumps({"prompt": 1, "padding": ""}).encode()
    body = body[:-2] + b" " * (api.settings.api_max_body_bytes - len(body)) + body[-2:]
    assert account.ask("POST", SUBMIT, status=400, content=body, headers=JSON)["message"].startswith(
        "image: is missing"
    )
    account.ask("POST", SUBMIT, status=413, content=body + b" ", headers=JSON)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: is empty"),
        (b"  \n", "body: is empty"),
        (b"{", "body: is not JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
        (b'{"image": "a"} x', "body: is not JSON: Extra data at line 1, column 16"),
        (b"{'image': 'a'}", "body: is not JSON"),
        (b"image=a&mask=b", "body: is not JSON"),
        (b'"text"', "body: 'text' is not an object"),
        (b"[]", "body: a list of 0 is not an object"),
        (b"null", "body: null is not an object"),
        (b"7", "body: 7 is not an object"),
        (b'{"image": "a", "image": "b"}', "body: has the key 'image' twice in one object"),
        (b'{"loras": [{"path": "a", "scale": 1, "scale": 2}]}', "body: has the key 'scale' twice in one object"),
        (b'{"guidance_scale": NaN}', "body: holds NaN, which is not JSON"),
        (b'{"guidance_scale": -Infinity}', "body: holds -Infinity, which is not JSON"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "body: holds a number of 5000 digits"),
        (b"[" * 100_000, "body: is nested deeper than 32 levels"),
        (b'{"a":' * 100_000, "body: is nested deeper than 32 levels"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "body: is nested deeper than 32 levels"),
        (b'{"image": "\xff\xfe"}', "body: is not UTF-8: byte 11 is wrong"),
        ('{"image": "a"}'.encode("utf-16"), "body: is not UTF-8: byte 0 is wrong"),
        (b'{"image": "a\nb"}', "body: is not JSON: Invalid control character"),
        (b"\x00" * 100, "body: is not JSON"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_a_body_that_is_no_json_object_is_a_400_in_words(account: Account, body: bytes, message: str) -> None:
    answer = account.ask("POST", SUBMIT, status=400, content=body, headers=JSON)
    assert answer["message"].startswith(message)
    assert answer["message"].endswith('; allowed: a JSON object such as {"image": "https://…"}')


def test_half_a_surrogate_pair_is_refused_and_the_answer_can_be_read(account: Account) -> None:
    body = b'{"image": "https://example.com/a.png", "prompt": "\\ud800", "\\udfff": 1}'
    answer = account.ask("POST", SUBMIT, status=400, content=body, headers=JSON)
    assert answer["message"].startswith("prompt: '\\ud800' ")
    answer = account.ask("POST", SUBMIT, status=400, content=b'{"\\ud800": 1, "\\ud800": 2}', headers=JSON)
    assert "twice in one object" in answer["message"]


@pytest.mark.parametrize("value", ["1e999", "-1e999"])
def test_a_number_beyond_all_numbers_is_refused(account: Account, value: str) -> None:
    body = b'{"image": "https://example.com/a.png", "guidance_scale": ' + value.encode() + b"}"
    message = account.ask("POST", SUBMIT, status=400, content=body, headers=JSON)["message"]
    assert message.startswith("guidance_scale: ")
    assert "is not a finite number" in message


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Content-Type": "text/plain"}, "Content-Type: 'text/plain' is not supported; allowed: application/json"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "Content-Type: 'application/x-www-form-urlencoded'"),
        ({"Content-Type": "application/json; charset=utf-16"}, "Content-Type: 'charset=utf-16' is not supported"),
        ({"Content-Type": ""}, "Content-Type: '' is not supported"),
        ({**JSON, "Content-Encoding": "gzip"}, "Content-Encoding: 'gzip' is not supported; allowed: none"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_another_kind_of_body_is_refused(account: Account, headers: dict[str, str], message: str) -> None:
    answer = account.ask("POST", SUBMIT, status=400, content=b'{"image": "https://a.example/"}', headers=headers)
    assert answer["message"].startswith(message)


FIELDS = [
    "image", "mask_image", "prompt", "size", "num_inference_steps", "seed", "guidance_scale", "num_images", "loras",
    "enable_safety_checker", "enable_sync_mode", "enable_base64_output", "output_format", "path", "scale", "x",
]  # fmt: skip
ODD_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(st.sampled_from(FIELDS), ODD_JSON, max_size=8), path=st.sampled_from(
    [SUBMIT, "/api/v2/wavespeed-ai/flux-fill-dev", "/api/v3/predictions", "/api/v3/predictions/delete",
     "/api/v3/media/uploads"]
))  # fmt: skip
def test_whatever_the_json_says_the_answer_is_an_envelope_and_no_500(
    account: Account, body: dict[str, Any], path: str
) -> None:
    body.pop("image", None)  # so that nothing is queued
    response = account.client.post(path, content=json.dumps(body).encode("ascii"), headers=JSON)
    assert check_envelope(response)["code"] < 500


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200))
def test_whatever_the_bytes_are_the_answer_is_a_400_envelope(account: Account, body: bytes) -> None:
    account.ask("POST", SUBMIT, status=400, content=body, headers=JSON)
