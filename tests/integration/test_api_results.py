"""Reading results over HTTP: each state on the wire, lists, cancelling, deleting, and whose jobs one sees."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from common.errors import Rejected, Transient, Unavailable
from tests.support.api import PNG, TIMINGS, Account, Api, check_envelope, fetch

RESULTS = "/api/v3/predictions"
UNKNOWN = "0195d3c1c8a67cf0a3f0b0c5a1b2c3d4"


def test_a_completed_job_has_links_flags_and_timings(api: Api, account: Account) -> None:
    job = account.submit(num_images=2, seed=7)["id"]
    stored = api.complete(job, nsfw=(False, True))
    data = account.result(job)
    assert data["status"] == "completed"
    assert data["has_nsfw_contents"] == [False, True]
    assert data["timings"] == TIMINGS.model_dump()
    assert data["executionTime"] == data["timings"]["inference"] == 1234
    assert data["seeds"] == [7, 8]
    assert data["model_version"] == {"model": "test", "revision": "1"}
    assert data["error"] == ""
    assert "code" not in data
    assert [fetch(link).content for link in data["outputs"]] == stored


def test_a_job_that_was_filled_in_areas_names_them(api: Api, account: Account) -> None:
    job = account.submit(region="auto")["id"]
    assert account.result(job)["input"]["region"] == "auto"
    api.complete(job, region="auto", regions=((0, 0, 384, 384), (640, 640, 384, 448)))
    data = account.result(job)
    assert (data["region"], data["regions"]) == ("auto", [[0, 0, 384, 384], [640, 640, 384, 448]])
    assert data["mask_coverage"] == 0.5


def test_a_job_that_says_nothing_of_areas_has_no_word_of_them_on_the_wire(api: Api, account: Account) -> None:
    job = account.submit()["id"]
    api.complete(job)
    data = account.result(job)
    assert not {"region", "regions"} & {*data, *data["input"]}


def test_flags_are_never_invented_where_the_checker_did_not_look(api: Api, account: Account) -> None:
    job = account.submit()["id"]
    api.complete(job, nsfw=(None,))
    data = account.result(job)
    assert data["has_nsfw_contents"] == []
    assert len(data["outputs"]) == 1


def test_a_job_of_a_worker_says_processing(api: Api, account: Account) -> None:
    job = account.submit()["id"]
    api.claim(job)
    data = account.result(job)
    assert (data["status"], data["outputs"], data["error"]) == ("processing", [], "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Rejected("fetch_not_found", "image: the server answered HTTP 404"), 1402),
        (Transient("fetch_failed", "image: the server answered HTTP 503 (tried 3 times)"), 1402),
        (Rejected("image_not_an_image", "image: is no PNG, JPEG or WebP"), 1402),
        (Rejected("mask_empty", "mask_image: nothing in it is white"), 1401),
        (Rejected("lora_does_not_fit", "loras[0].path: does not fit the model"), 1401),
        (Unavailable("worker_lost", "the worker that had this job was lost"), 5000),
        (Rejected("a_word_nobody_knows_yet", "something new"), 5000),
    ],
    ids=lambda value: str(getattr(value, "code", value)),
)
def test_a_failed_job_says_why_with_the_number_that_clients_know(
    api: Api, account: Account, error: Rejected, code: int
) -> None:
    job = account.submit()["id"]
    api.fail(job, error)
    answer = account.ask("GET", f"{RESULTS}/{job}/result")
    assert (answer["code"], answer["message"]) == (200, "success")
    data = answer["data"]
    assert (data["status"], data["error"], data["code"]) == ("failed", error.message, code)
    assert data["error_code"] == error.code
    assert data["executionTime"] == 0


def test_base64_outputs_are_the_stored_bytes(api: Api, account: Account) -> None:
    job = account.submit(enable_base64_output=True, num_images=2)["id"]
    assert account.result(job)["outputs"] == []
    stored = api.complete(job, nsfw=(False, False))
    assert [base64.b64decode(text, validate=True) for text in account.result(job)["outputs"]] == stored
    listed = account.ask("GET", RESULTS)["data"]["items"][0]["outputs"]
    assert all(link.startswith("http") for link in listed)


def test_base64_of_an_image_that_is_gone_says_so(api: Api, account: Account) -> None:
    job = account.submit(enable_base64_output=True)["id"]
    api.complete(job)
    api.objects.delete([api.row(job).result["outputs"][0]["key"]])
    answer = account.ask("GET", f"{RESULTS}/{job}/result", status=410)
    assert answer["message"] == "the images of this prediction are no longer stored; submit it again"


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_links_stay_in_the_version_that_the_caller_speaks(api: Api, account: Account, version: str) -> None:
    job = account.submit("v2" if version == "v3" else "v3")["id"]
    for path in (f"/api/{version}/predictions/{job}", f"/api/{version}/predictions/{job}/result"):
        data = account.ask("GET", path)["data"]
        assert data["urls"]["get"] == f"{api.url}/api/{version}/predictions/{job}/result"
        assert account.client.get(data["urls"]["get"]).json()["data"]["id"] == job


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/predictions/{}/result"),
        ("GET", "/predictions/{}"),
        ("DELETE", "/predictions/{}"),
        ("POST", "/predictions/{}/cancel"),
    ],
)
def test_anothers_unknown_deleted_and_malformed_ids_are_the_same_404(
    api: Api, account: Account, method: str, path: str
) -> None:
    theirs = api.account()
    other = theirs.submit()["id"]
    deleted = account.submit()["id"]
    account.ask("DELETE", f"{RESULTS}/{deleted}")
    ids = [other, UNKNOWN, deleted, "nonsense", "1", "%00", "a" * 300, "é"]
    words = {account.ask(method, f"/api/v3{path.format(name)}", status=404)["message"] for name in ids}
    assert words == {"no such prediction; check the id, and that your key belongs to the owner who submitted it"}
    assert api.row(other).status == "created"
    assert api.row(other).deleted_at is None


def test_a_list_shows_only_ones_own_newest_first(api: Api, account: Account) -> None:
    api.account().submit()
    mine = [account.submit()["id"] for _ in range(3)]
    data = account.ask("GET", RESULTS)["data"]
    assert [item["id"] for item in data["items"]] == mine[::-1]
    assert (data["page"], data["page_size"], data["total"]) == (1, 20, 3)


def test_pages_hold_each_job_once(account: Account) -> None:
    mine = {account.submit()["id"] for _ in range(5)}
    pages = [
        account.ask("POST", RESULTS, json={"page": page, "page_size": 2})["data"] for page in (1, 2, 3, 4, 1_000_000)
    ]
    assert [len(page["items"]) for page in pages] == [2, 2, 1, 0, 0]
    assert {item["id"] for page in pages for item in page["items"]} == mine
    assert {page["total"] for page in pages} == {5}


def test_the_command_lines_body_filters(api: Api, account: Account) -> None:
    done, waiting = account.submit()["id"], account.submit(model="wavespeed-ai/flux-fill-dev")["id"]
    api.complete(done)

    def ids(**body: Any) -> list[str]:
        return [item["id"] for item in account.ask("POST", RESULTS, json=body)["data"]["items"]]

    def when(hours: float) -> str:
        return (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.000Z")

    assert ids(status="completed") == [done]
    assert ids(status="created", model="wavespeed-ai/flux-fill-dev") == [waiting]
    assert ids(model="somebody/else") == []
    assert ids(created_after=when(-24), created_before=when(1)) == [waiting, done]
    assert ids(created_after=when(1)) == ids(created_before=when(-1)) == []
    assert ids(created_after="2020-01-01", page=None) == [waiting, done]


def test_a_query_filters_the_same_way(api: Api, account: Account) -> None:
    done = account.submit()["id"]
    account.submit()
    api.complete(done)
    path = f"{RESULTS}?status=completed&page=1&page_size=5&created_after=2020-01-01T00:00:00%2B02:00&colour=red"
    response = account.client.get(path)
    assert [item["id"] for item in check_envelope(response)["data"]["items"]] == [done]
    assert response.headers["X-Fillfleet-Ignored-Fields"] == "colour"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"page": 0}, "page: 0 is not allowed; allowed: an integer from 1 to 1000000"),
        ({"page": "2"}, "page: '2' is not allowed; allowed: an integer from 1 to 1000000"),
        ({"page_size": 101}, "page_size: 101 is not allowed; allowed: an integer from 1 to 100"),
        (
            {"status": "pending"},
            "status: 'pending' is not allowed; allowed: one of created, processing, completed, failed",
        ),
        ({"model": "a\x00b"}, "model: 'a\\x00b' is not allowed; allowed: a model's name"),
        (
            {"created_after": "yesterday"},
            "created_after: 'yesterday' is not allowed; allowed: an ISO 8601 time such as 2026-04-01T12:00:00Z",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_list_names_field_value_and_range(account: Account, body: dict[str, Any], message: str) -> None:
    assert account.ask("POST", RESULTS, status=400, json=body)["message"] == message


def test_the_ends_of_time_are_times_too(account: Account) -> None:
    account.submit()
    for time in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        account.ask("POST", RESULTS, json={"created_after": time})
        account.ask("POST", RESULTS, json={"created_before": time})


def test_cancelling_a_waiting_job_ends_it_at_once(account: Account) -> None:
    job = account.submit()["id"]
    data = account.ask("POST", f"{RESULTS}/{job}/cancel")["data"]
    assert (data["status"], data["error"], data["error_code"]) == ("failed", "cancelled", "cancelled")
    assert "code" not in data


def test_cancelling_a_running_job_marks_it(api: Api, account: Account) -> None:
    job = account.submit()["id"]
    api.claim(job)
    assert account.ask("POST", f"{RESULTS}/{job}/cancel")["data"]["status"] == "processing"
    assert api.row(job).cancel_requested_at is not None


def test_cancelling_what_is_over_changes_nothing(api: Api, account: Account) -> None:
    job = account.submit()["id"]
    api.complete(job)
    assert account.ask("POST", f"{RESULTS}/{job}/cancel")["data"]["status"] == "completed"


def test_deleting_hides_jobs_and_cancels_what_waits(api: Api, account: Account) -> None:
    first, second, kept = (account.submit()["id"] for _ in range(3))
    theirs = api.account().submit()["id"]
    data = account.ask("POST", f"{RESULTS}/delete", json={"ids": [first, second, theirs, "nonsense", first]})["data"]
    assert sorted(data["deleted"]) == sorted([first, second])
    assert data["not_found"] == [theirs, "nonsense"]
    assert [item["id"] for item in account.ask("GET", RESULTS)["data"]["items"]] == [kept]
    assert api.row(first).status == "failed"
    assert api.row(theirs).deleted_at is None


def test_deleting_one_and_deleting_nothing(account: Account) -> None:
    job = account.submit()["id"]
    assert account.ask("DELETE", f"{RESULTS}/{job}")["data"] == {"deleted": [job], "not_found": []}
    account.ask("DELETE", f"{RESULTS}/{job}", status=404)
    account.ask("POST", f"{RESULTS}/delete", status=404, json={"ids": [job]})


@pytest.mark.parametrize("ids", [[], "all", [1], [None], ["a"] * 1001, ["a" * 101], None], ids=repr)
def test_a_wrong_deletion_names_the_field_and_deletes_nothing(account: Account, ids: object) -> None:
    job = account.submit()["id"]
    message = account.ask("POST", f"{RESULTS}/delete", status=400, json={"ids": ids})["message"]
    assert message.startswith("ids")
    assert "allowed: a list of 1 to 1000 prediction ids" in message
    assert account.result(job)["status"] == "created"


def test_stored_bytes_are_reached_only_with_a_signature(api: Api, account: Account) -> None:
    job = account.submit()["id"]
    api.complete(job)
    link = account.result(job)["outputs"][0]
    assert fetch(link).content.startswith(PNG)
    assert fetch(link.partition("?")[0]).status_code == 403
