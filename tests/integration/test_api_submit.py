"""Submitting over HTTP: what is accepted, how it is kept, and what the answer says."""

from __future__ import annotations

import re

import pytest

from common.contract import MAX_SEED, MODELS
from tests.support.api import IMAGE, MASK, Account, Api


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("version", ["v2", "v3"])
def test_either_name_in_either_version_takes_a_request(api: Api, account: Account, version: str, model: str) -> None:
    data = account.submit(version, model)
    assert data["model"] == model
    assert data["status"] == "created"
    assert data["urls"]["get"] == f"{api.url}/api/{version}/predictions/{data['id']}/result"
    assert api.row(data["id"]).owner_id == account.owner


def test_the_answer_has_every_documented_field_in_its_type(account: Account) -> None:
    data = account.submit()
    assert re.fullmatch("[0-9a-f]{32}", data["id"])
    assert data["outputs"] == []
    assert data["has_nsfw_contents"] == []
    assert data["error"] == ""
    assert data["executionTime"] == 0
    assert data["timings"] == {"inference": 0}
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", data["created_at"])


def test_a_bare_image_gets_every_default(api: Api, account: Account) -> None:
    answer = account.ask("POST", "/api/v2/wavespeed-ai/flux-dev-fill", json={"image": IMAGE})
    request = api.row(answer["data"]["id"]).request
    assert 0 <= request.pop("seed") <= MAX_SEED
    assert request == {
        "image": IMAGE,
        "mask_image": None,
        "prompt": "",
        "size": "1024*1024",
        "num_inference_steps": 28,
        "guidance_scale": 30.0,
        "num_images": 1,
        "loras": [],
        "enable_safety_checker": True,
        "enable_sync_mode": False,
        "enable_base64_output": False,
        "output_format": "png",
    }
    assert answer["message"] == "success"


def test_a_random_seed_is_drawn_once_and_told(api: Api, account: Account) -> None:
    first, second = (account.submit(seed=-1) for _ in range(2))
    assert first["input"]["seed"] != second["input"]["seed"]
    assert (
        account.result(first["id"])["input"]["seed"] == first["input"]["seed"] == api.row(first["id"]).request["seed"]
    )


def test_a_seed_that_was_asked_for_is_kept(account: Account) -> None:
    assert account.submit(seed=MAX_SEED)["input"]["seed"] == MAX_SEED


def test_single_jobs_go_to_the_interactive_queue_unless_they_say_bulk(api: Api, account: Account) -> None:
    body = {"image": IMAGE}
    queues = []
    for headers in ({}, {"X-Fillfleet-Priority": "bulk"}, {"X-Fillfleet-Priority": "Interactive"}):
        answer = account.ask("POST", "/api/v3/wavespeed-ai/flux-dev-fill", json=body, headers=headers)
        queues.append(api.row(answer["data"]["id"]).queue)
    assert queues == ["interactive", "bulk", "interactive"]


def test_an_unknown_priority_is_refused(api: Api, account: Account) -> None:
    answer = account.ask(
        "POST",
        "/api/v3/wavespeed-ai/flux-dev-fill",
        status=400,
        json={"image": IMAGE},
        headers={"X-Fillfleet-Priority": "urgent"},
    )
    assert answer["message"] == (
        "X-Fillfleet-Priority: 'urgent' is not one of the choices; allowed: interactive (the default) or bulk"
    )
    assert api.count_jobs(account.owner) == 0


def test_unknown_fields_are_ignored_but_named_in_a_header(account: Account) -> None:
    response = account.client.post(
        "/api/v3/wavespeed-ai/flux-dev-fill?webhook=https://example.com/hook?a=b&c",
        json={
            "image": IMAGE,
            "strength": 1,
            "webhook_url": "https://example.com",
            "bad\r\nX-Evil: 1": True,
            "naïve": 1,
            "loras": [{"path": "a/b", "scale": 1, "weight": 2}],
        },
    )
    assert response.status_code == 200
    names = response.headers["X-Fillfleet-Ignored-Fields"].split(", ")
    assert names == ["bad%0D%0AX-Evil%3A%201", "na%C3%AFve", "strength", "webhook_url", "loras[0].weight", "webhook"]
    assert "x-evil" not in response.headers


def test_a_thousand_unknown_fields_make_a_short_header(account: Account) -> None:
    body = {f"field{number}" * 20: 1 for number in range(1000)} | {"image": IMAGE}
    response = account.client.post("/api/v3/wavespeed-ai/flux-dev-fill", json=body)
    assert response.status_code == 200
    assert len(response.headers["X-Fillfleet-Ignored-Fields"]) < 2000
    assert response.headers["X-Fillfleet-Ignored-Fields"].endswith("and 980 more")


def test_a_request_without_unknown_fields_has_no_such_header(account: Account) -> None:
    response = account.client.post("/api/v3/wavespeed-ai/flux-dev-fill", json={"image": IMAGE, "mask_image": MASK})
    assert "X-Fillfleet-Ignored-Fields" not in response.headers


def test_null_counts_as_left_out(account: Account) -> None:
    data = account.submit(mask_image=None, seed=None, loras=None, size=None)
    assert data["input"]["size"] == "1024*1024"
    assert data["input"].get("mask_image") is None


def test_five_loras_are_kept_in_their_order(api: Api, account: Account) -> None:
    loras = [{"path": f"name{number}", "scale": number / 2} for number in range(5)]
    assert api.row(account.submit(loras=loras)["id"]).request["loras"] == loras


def test_both_models_are_listed_with_the_schema_of_a_request(api: Api, account: Account) -> None:
    models = account.ask("GET", "/api/v2/models")["data"]
    assert [model["model_id"] for model in models] == list(MODELS)
    schema = models[0]["api_schema"]["api_schemas"][0]
    assert schema["server"] == api.url
    assert schema["api_path"] == "/api/v2/wavespeed-ai/flux-dev-fill"
    assert schema["request_schema"]["properties"]["num_inference_steps"]["maximum"] == 50
