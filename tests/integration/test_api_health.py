"""Health over HTTP: whether the process lives, whether it can serve, and what it says while a server is away."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from common.settings import Settings
from common.workers import WorkerBeat, WorkerState, beat
from tests.support.api import IMAGE, Account, Api, ask, check_envelope, fetch, running_api

AWAY = {
    "database": "database_url",
    "redis": "redis_url",
    "s3": "s3_endpoint",
}


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that is bound, so that nobody else takes it, but on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_ready_while_all_servers_answer(api: Api) -> None:
    response = fetch(f"{api.url}/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "workers": 0, "database": "ok", "redis": "ok", "s3": "ok"}


def test_an_answer_does_not_wait_for_the_networks_40_ms(account: Account) -> None:
    # Nagle's algorithm and delayed acknowledgements together would make every single one that slow.
    def seconds() -> float:
        began = time.monotonic()
        account.client.get("/healthz")
        return time.monotonic() - began

    assert any(seconds() < 0.03 for _ in range(200))


def test_ready_counts_the_workers_that_take_jobs(settings: Settings) -> None:
    with running_api(settings) as api:
        with api.engine.begin() as connection:
            for name, state in (("a", WorkerState.READY), ("b", WorkerState.READY), ("c", WorkerState.LOADING)):
                beat(connection, WorkerBeat(id=name, hostname="host", slots=4, state=state, version={}))
        assert fetch(f"{api.url}/readyz").json()["workers"] == 2


@pytest.mark.parametrize("away", AWAY)
def test_not_ready_while_a_server_is_away_and_nothing_internal_is_said(
    settings: Settings, dead_port: int, away: str
) -> None:
    urls = {
        "database": SecretStr(f"postgresql://app:hunter2@127.0.0.1:{dead_port}/x"),
        "redis": SecretStr(f"redis://:hunter2@127.0.0.1:{dead_port}/0"),
        "s3": f"http://127.0.0.1:{dead_port}",
    }
    with running_api(settings.model_copy(update={AWAY[away]: urls[away]})) as api:
        response = fetch(f"{api.url}/readyz")
        alive = fetch(f"{api.url}/healthz")
    assert response.status_code == 503
    expected = {"status": "unavailable", "workers": 0, "database": "ok", "redis": "ok", "s3": "ok"}
    assert response.json() == expected | {away: "unavailable"}
    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})


def test_without_redis_jobs_are_accepted(settings: Settings, dead_port: int) -> None:
    redis_url = SecretStr(f"redis://127.0.0.1:{dead_port}/0")
    with running_api(settings.model_copy(update={"redis_url": redis_url})) as api:
        assert api.account().submit()["status"] == "created"


def test_without_a_bucket_jobs_are_accepted_and_uploads_are_a_503(settings: Settings, dead_port: int) -> None:
    with running_api(settings.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{dead_port}"})) as api:
        account = api.account()
        assert account.submit()["status"] == "created"
        response = account.client.post("/api/v3/media/upload/binary", files={"file": ("a.png", b"abc")})
        assert response.status_code == 503
        assert response.headers["retry-after"]
        message = check_envelope(response)["message"]
        assert message == (
            "the object store is not available; try again later; nothing was changed, so try again in a few seconds"
        )


def test_without_a_database_every_route_is_a_503_that_says_nothing_internal(settings: Settings, dead_port: int) -> None:
    with running_api(settings) as healthy:
        key = healthy.account().key
    lost = SecretStr(f"postgresql://app:hunter2@127.0.0.1:{dead_port}/x")
    with running_api(settings.model_copy(update={"database_url": lost})) as api:
        headers = {"Authorization": f"Bearer {key}"}
        response = ask("POST", f"{api.url}/api/v3/wavespeed-ai/flux-dev-fill", json={"image": IMAGE}, headers=headers)
    assert response.status_code == 503
    assert check_envelope(response)["message"].startswith("the database does not answer; ")
    assert response.headers["retry-after"] == "2"
    assert "hunter2" not in response.text
    assert str(dead_port) not in response.text


def test_the_public_url_is_what_links_begin_with(settings: Settings) -> None:
    with running_api(settings.model_copy(update={"public_url": "https://fill.example.com/deep/"})) as api:
        account = api.account()
        data = account.submit("v2")
        assert data["urls"]["get"] == f"https://fill.example.com/deep/api/v2/predictions/{data['id']}/result"
        link = account.upload()
        assert link.startswith("https://fill.example.com/deep/api/v3/media/files/")
        assert api.row(account.submit(image=link)["id"]).request["image"].startswith("s3://")
        missing = link.replace(link.split("/")[-2], "0" * 32)
        account.ask("POST", "/api/v3/wavespeed-ai/flux-dev-fill", status=404, json={"image": missing})


def test_a_crash_is_a_500_envelope_with_an_id_and_no_trace(settings: Settings) -> None:
    with running_api(settings) as api:
        account = api.account()
        job = account.submit()["id"]
        with api.engine.begin() as connection:
            connection.exec_driver_sql('UPDATE jobs SET request = \'{"seed": "hunter2"}\'')
        with capture_logs() as logs:
            response = account.client.get(f"/api/v3/predictions/{job}/result")
            deadline = time.monotonic() + 60
            while len(logs) < 2 and time.monotonic() < deadline:  # the answer is out before its line is written
                time.sleep(0.01)
        assert response.status_code == 500
        answer = check_envelope(response)
        assert [line["event"] for line in logs] == ["api.crashed", "api.request"]
        assert answer["data"] == {"code": 5000, "request_id": response.headers["x-request-id"]}
        assert response.headers["x-request-id"] in answer["message"]
        assert "hunter2" not in response.text
        assert account.submit()["status"] == "created"


def test_docs_and_openapi_show_the_documented_example(api: Api) -> None:
    document = fetch(f"{api.url}/openapi.json").json()
    submit = document["paths"]["/api/v2/wavespeed-ai/flux-dev-fill"]["post"]
    content = submit["requestBody"]["content"]["application/json"]
    assert content["examples"]["knight"]["value"]["prompt"] == "a knight holding a greatshield"
    fields = document["components"]["schemas"]["FillRequest"]["properties"]
    assert fields["num_inference_steps"] | {"title": ""} == {
        "default": 28,
        "maximum": 50,
        "minimum": 1,
        "title": "",
        "type": "integer",
    }
    assert {"Idempotency-Key", "X-Fillfleet-Priority"} == {parameter["name"] for parameter in submit["parameters"]}
    assert "swagger" in fetch(f"{api.url}/docs").text


def test_every_example_of_the_openapi_document_is_accepted(api: Api, account: Account) -> None:
    document = fetch(f"{api.url}/openapi.json").json()
    tried = 0
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        examples = [example["value"] for example in content.get("examples", {}).values()]
        for example in [*examples, *([content["example"]] if "example" in content else [])]:
            expected = 404 if path.endswith("/delete") else 200  # the example's prediction is nobody's
            account.ask("POST", path, status=expected, json=example)
            tried += 1
    assert tried == 2 * (2 * 4 + 3) + 3  # of both versions of the API, and of batches in one


def test_every_reference_of_the_openapi_document_leads_somewhere(api: Api) -> None:
    document = fetch(f"{api.url}/openapi.json").json()

    def references(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            yield from [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            for inner in node.values():
                yield from references(inner)
        elif isinstance(node, list):
            for inner in node:
                yield from references(inner)

    found = set(references(document))
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
