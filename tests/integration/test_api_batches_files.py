"""Inputs that are known by their content, and outputs by their URI: signed links that open one's own objects alone."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from common.ids import new_id
from tests.support.api import PNG, Account, Api, ask, fetch

INPUTS = "/api/v3/batches/inputs"
OUTPUTS = "/api/v3/batches/outputs"
SHA256 = hashlib.sha256(PNG).hexdigest()


def _wish(**fields: Any) -> dict[str, Any]:
    return {"sha256": SHA256, "extension": "png", "size": len(PNG), "content_type": "image/png"} | fields


def test_an_input_is_put_once_and_then_known(api: Api, account: Account) -> None:
    first = account.ask("POST", INPUTS, json=_wish())["data"]
    assert first["exists"] is False
    put = ask(first["upload"]["method"], first["upload"]["url"], headers=first["upload"]["headers"], content=PNG)
    assert put.status_code == 200
    uri = f"s3://{api.settings.s3_bucket}/inputs/{account.owner.hex}/{SHA256}.png"
    assert account.ask("POST", INPUTS, json=_wish())["data"] == {"exists": True, "uri": uri}
    assert first["uri"] == uri
    assert account.ask("GET", INPUTS)["data"] == {
        "prefix": f"s3://{api.settings.s3_bucket}/inputs/{account.owner.hex}/",
        "max_bytes": api.settings.upload_max_bytes,
    }
    assert api.account().ask("POST", INPUTS, json=_wish())["data"]["exists"] is False


def test_a_link_for_an_input_takes_no_other_content(account: Account) -> None:
    upload = account.ask("POST", INPUTS, json=_wish())["data"]["upload"]
    other = PNG[:-1] + b"!"
    for headers, data in (
        (upload["headers"], other),
        (upload["headers"], PNG + b"!"),
        ({"Content-Type": "image/png"}, other),
        ({**upload["headers"], "Content-Type": "text/html"}, PNG),
    ):
        assert ask("PUT", upload["url"], headers=headers, content=data).status_code in {400, 403}
    assert account.ask("POST", INPUTS, json=_wish())["data"]["exists"] is False


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sha256": SHA256.upper()}, "sha256: "),
        ({"sha256": "../../x"}, "sha256: '../../x' is not allowed; allowed: 64 lower-case hex digits"),
        ({"sha256": SHA256 + "\n"}, "sha256: "),
        ({"extension": "svg"}, "extension: 'svg' is no kind of image here; allowed: one of png, jpg, webp"),
        ({"extension": "../x"}, "extension: '../x' is no kind"),
        ({"content_type": "text/html"}, "content_type: 'text/html' does not fit; allowed: image/png, as"),
        ({"content_type": "image/png; x"}, "content_type: 'image/png; x' does not fit"),
        ({"size": 0}, "size: 0 is not allowed"),
        ({"size": None}, "size: is missing"),
        ({"sha": "x"}, "sha: 'x' is no field here; did you mean sha256?"),
    ],
)
def test_a_wrong_input_is_named(account: Account, fields: dict[str, Any], message: str) -> None:
    assert account.ask("POST", INPUTS, status=400, json=_wish(**fields))["message"].startswith(message)


def test_an_input_that_is_too_large_is_refused(api: Api, account: Account) -> None:
    largest = api.settings.upload_max_bytes
    answer = account.ask("POST", INPUTS, status=413, json=_wish(size=largest + 1))
    assert answer["message"] == f"size: {largest + 1} bytes is too large; allowed: at most {largest} bytes"


def test_an_output_is_read_by_its_owner_alone(api: Api, account: Account) -> None:
    job = account.submit()["id"]
    (stored,) = api.complete(job)
    uri = api.objects.uri(api.row(job).result["outputs"][0]["key"])
    link = account.ask("GET", OUTPUTS, params={"uri": uri})["data"]["url"]
    assert fetch(link).content == stored
    other = api.account()
    bucket = f"s3://{api.settings.s3_bucket}"
    for caller, wrong in (
        (other, uri),
        (other, uri.replace(account.owner.hex, new_id().hex)),
        (account, f"{bucket}/loras/{account.owner.hex}/x"),
        (account, f"{bucket}/inputs/{new_id().hex}/x.png"),
        (account, uri.replace(api.settings.s3_bucket, "elsewhere")),
    ):
        answer = caller.ask("GET", OUTPUTS, status=404, params={"uri": wrong})
        assert answer["data"]["error_code"] == "output_not_found"
    for wrong in (
        "",
        "nonsense",
        "https://example.com/a.png",
        uri.replace("/outputs/", "/outputs/../outputs/"),
        "s3://",
    ):
        answer = account.ask("GET", OUTPUTS, status=400, params={"uri": wrong})
        assert answer["message"].startswith("uri: ")
    account.ask("GET", OUTPUTS, status=400)


@pytest.mark.parametrize("place", ["inputs", "uploads"])
def test_an_input_is_read_back_by_its_owner_alone(api: Api, account: Account, place: str) -> None:
    key = f"{place}/{account.owner.hex}/{SHA256}.png"
    api.objects.put(key, b"the photograph", "image/png")
    params = {"uri": api.objects.uri(key)}
    link = account.ask("GET", OUTPUTS, params=params)["data"]["url"]
    assert fetch(link).content == b"the photograph"
    answer = api.account().ask("GET", OUTPUTS, status=404, params=params)
    assert answer["data"]["error_code"] == "output_not_found"
