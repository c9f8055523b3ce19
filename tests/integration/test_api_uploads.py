"""Uploads over HTTP in both styles, who may use them, and what a request may name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from common.ids import new_id
from common.read_prefixes import parse_read_prefixes
from common.settings import Settings
from tests.support.api import IMAGE, PNG, Account, Api, ask, check_envelope, fetch, running_api

TICKET = "/api/v3/media/uploads"
BINARY = "/api/v3/media/upload/binary"
SUBMIT = "/api/v3/wavespeed-ai/flux-dev-fill"


def _key_of(api: Api, source: str) -> str:
    assert source.startswith(f"s3://{api.settings.s3_bucket}/")
    return source.removeprefix(f"s3://{api.settings.s3_bucket}/")


def _submitted_image(api: Api, account: Account, image: str, **more: Any) -> str:
    return str(api.row(account.submit(image=image, **more)["id"]).request["image"])


def test_a_ticket_takes_the_file_with_just_its_headers(api: Api, account: Account) -> None:
    wish = {"filename": "knight.png", "size": len(PNG), "content_type": "image/png"}
    data = account.ask("POST", TICKET, json=wish)["data"]
    ticket = data["upload"]
    assert ticket["method"] == "PUT"
    put = ask("PUT", ticket["url"], headers=ticket["headers"], content=PNG)
    assert put.status_code == 200
    key = _key_of(api, _submitted_image(api, account, data["download_url"]))
    assert key.startswith(f"uploads/{account.owner.hex}/")
    assert api.objects.get(key, max_bytes=1000) == PNG


def test_a_ticket_takes_no_other_size(api: Api, account: Account) -> None:
    ticket = account.ask("POST", TICKET, json={"filename": "a.png", "size": 10})["data"]["upload"]
    put = ask("PUT", ticket["url"], headers=ticket["headers"], content=b"x" * 11)
    assert put.status_code == 403


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_a_form_upload_is_stored_as_it_is(api: Api, account: Account, version: str) -> None:
    answer = account.ask(
        "POST",
        f"/api/{version}/media/upload/binary",
        files={"file": ("knight.png", PNG, "image/png")},
        data={"folder": "knights"},
    )
    data = answer["data"]
    assert data["download_url"].startswith(f"{api.url}/api/{version}/media/files/")
    assert (data["filename"], data["size"], data["content_type"], data["type"]) == (
        "knight.png",
        len(PNG),
        "image/png",
        "image",
    )
    key = _key_of(api, _submitted_image(api, account, data["download_url"]))
    assert api.objects.get(key, max_bytes=1000) == PNG


def test_a_file_of_the_largest_size_fits_and_one_byte_more_does_not(api: Api, account: Account) -> None:
    largest = api.settings.upload_max_bytes
    assert account.upload(data=b"x" * largest)
    answer = account.ask("POST", BINARY, status=413, files={"file": ("a.png", b"x" * (largest + 1))})
    assert answer["message"] == f"file: {largest + 1} bytes is too large; allowed: at most {largest} bytes"


def test_a_huge_upload_is_refused_without_being_read_to_its_end(api: Api, account: Account) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        yield head
        for _ in range(320):
            sent += 65536
            yield b"x" * 65536

    response = account.client.post(
        BINARY, content=endless(), headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    answer = check_envelope(response)
    assert answer["code"] == 413
    assert answer["message"].startswith("file: more than ")


def test_a_link_leads_its_owner_to_the_file(api: Api, account: Account) -> None:
    link = account.upload("my knight (1).png")
    response = account.client.get(link)
    assert response.status_code == 307
    assert response.json() == {
        "code": 307,
        "message": "the file is at the address in the header Location",
        "data": {},
    }
    assert fetch(response.headers["location"]).content == PNG


def test_a_link_is_a_404_to_everyone_else(api: Api, account: Account) -> None:
    path = urlsplit(account.upload()).path
    other = api.account()
    words = {
        other.ask("GET", wrong, status=404)["message"]
        for wrong in (
            path,
            f"/api/v3/media/files/{new_id().hex}/knight.png",
            "/api/v3/media/files/nonsense/x",
            "/api/v3/media/files/%2e%2e%2f%2e%2e/etc/passwd",
        )
    }
    assert words == {"no such file; check the link, and that your key belongs to the owner who uploaded it"}
    assert fetch(api.url + path).status_code == 401


@pytest.mark.parametrize("field", ["image", "mask_image", "loras[0].path"])
def test_anothers_or_an_unknown_upload_is_a_404_that_names_the_field(api: Api, account: Account, field: str) -> None:
    theirs = api.account().upload()
    unknown = f"{api.url}/api/v3/media/files/{new_id().hex}/knight.png"
    for link in (theirs, unknown, f"{api.url}/api/v2/media/files/nonsense/x.png"):
        body: dict[str, Any] = {"image": IMAGE}
        body |= {"loras": [{"path": link, "scale": 1}]} if field.startswith("loras") else {field: link}
        answer = account.ask("POST", SUBMIT, status=404, json=body)
        assert answer["message"] == (
            f'{field}: "{link}" is no upload of yours; allowed: an upload made with a key of yours'
        )
        assert answer["data"]["errors"][0]["field"] == field
    assert api.count_jobs(account.owner) == 0


def test_an_upload_may_be_named_by_any_name_of_the_host(api: Api, account: Account) -> None:
    link = account.upload()
    for name in (link.replace("127.0.0.1", "localhost"), link.replace("/v3/", "/v2/"), f"{link}?x=1#y"):
        assert _submitted_image(api, account, name).startswith("s3://")


def test_the_path_of_an_upload_on_a_strangers_host_stays_a_plain_url(api: Api, account: Account) -> None:
    stranger = f"https://example.com/api/v3/media/files/{new_id().hex}/knight.png"
    assert _submitted_image(api, account, stranger) == stranger


def test_mask_and_lora_may_be_uploads_too(api: Api, account: Account) -> None:
    mask, lora = account.upload("mask.png"), account.upload("yarn.safetensors")
    request = api.row(account.submit(mask_image=mask, loras=[{"path": lora, "scale": 1}])["id"]).request
    assert request["mask_image"].endswith("/mask.png")
    assert request["loras"][0]["path"].endswith("/yarn.safetensors")


def test_a_link_to_ones_own_result_is_its_object(api: Api, account: Account) -> None:
    job = account.submit()["id"]
    api.complete(job)
    link = account.result(job)["outputs"][0]
    source = _submitted_image(api, account, link)
    assert source == api.objects.uri(api.row(job).result["outputs"][0]["key"])


def test_anothers_objects_are_not_to_be_named(api: Api, account: Account) -> None:
    other = api.account()
    job = other.submit()["id"]
    api.complete(job)
    key = api.row(job).result["outputs"][0]["key"]
    for source in (api.objects.uri(key), other.result(job)["outputs"][0]):
        answer = account.ask("POST", SUBMIT, status=400, json={"image": source})
        assert answer["message"].startswith("image: ")
        assert "is not yours" in answer["message"]
        assert "X-Amz" not in answer["message"]
    assert api.count_jobs(account.owner) == 0


@pytest.mark.parametrize(
    "source",
    [
        "knight.jpg",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://example.com/a.png",
        "data:image/png;base64,AAAA",
        "http://",
        "https://user:secret@example.com/a.png",
        "https://exa mple.com/a.png",
        "s3://",
        "s3://elsewhere/uploads/a.png",
        "s3://BUCKET/uploads/OWNER/../other/a.png",
        "s3://BUCKET/migrations/a.png",
        "s3://BUCKET/uploads/OWNER",
        "javascript:alert(1)",
    ],
)
def test_what_can_never_be_read_is_refused_naming_field_and_value(api: Api, account: Account, source: str) -> None:
    named = source.replace("BUCKET", api.settings.s3_bucket).replace("OWNER", account.owner.hex)
    for field, body in {
        "image": {"image": named},
        "mask_image": {"image": IMAGE, "mask_image": named},
    }.items():
        answer = account.ask("POST", SUBMIT, status=400, json=body)
        assert answer["message"].startswith(f'{field}: "')
        assert "; allowed: " in answer["message"]
        assert "secret" not in answer["message"]
        assert answer["data"]["code"] == 1401
        assert answer["data"]["errors"][0]["field"] == field
    assert api.count_jobs(account.owner) == 0


@pytest.mark.parametrize("path", ["linoyts/yarn_art_Flux_LoRA", "my-lora", "https://example.com/a.safetensors"])
def test_lora_names_and_links_are_left_to_the_worker(api: Api, account: Account, path: str) -> None:
    assert api.row(account.submit(loras=[{"path": path, "scale": 1}])["id"]).request["loras"][0]["path"] == path


@pytest.mark.parametrize("path", ["file:///etc/passwd", "s3://elsewhere/a.safetensors", "ftp://example.com/a", "  "])
def test_a_lora_that_can_never_be_read_is_refused(api: Api, account: Account, path: str) -> None:
    body = {"image": IMAGE, "loras": [{"path": "fine", "scale": 1}, {"path": path, "scale": 1}]}
    assert account.ask("POST", SUBMIT, status=400, json=body)["message"].startswith("loras[1].path: ")
    assert api.count_jobs(account.owner) == 0


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"size": 1}, "filename"),
        ({"filename": "", "size": 1}, "filename"),
        ({"filename": "a" * 256, "size": 1}, "filename"),
        ({"filename": "a\x00.png", "size": 1}, "filename"),
        ({"filename": "a.png"}, "size"),
        ({"filename": "a.png", "size": 0}, "size"),
        ({"filename": "a.png", "size": -5}, "size"),
        ({"filename": "a.png", "size": "big"}, "size"),
        ({"filename": "a.png", "size": 1.5}, "size"),
        ({"filename": "a.png", "size": True}, "size"),
        ({"filename": "a.png", "size": 1, "content_type": 7}, "content_type"),
    ],
    ids=repr,
)
def test_a_wrong_ticket_names_the_field(account: Account, wish: dict[str, Any], field: str) -> None:
    answer = account.ask("POST", TICKET, status=400, json=wish)
    assert answer["message"].startswith(f"{field}: ")
    assert "; allowed: " in answer["message"]


def test_a_ticket_for_too_much_is_refused(api: Api, account: Account) -> None:
    largest = api.settings.upload_max_bytes
    answer = account.ask("POST", TICKET, status=413, json={"filename": "a.png", "size": largest + 1})
    assert answer["message"] == f"size: {largest + 1} bytes is too large; allowed: at most {largest} bytes"


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/passwd",
        "..\\..\\windows\\system.ini",
        "/etc/passwd",
        "a/../../b.png",
        "....//....//x.png",
        "%2e%2e%2fx.png",
        "name with spaces?.png",
        "naïve ✓.png",
        ".htaccess",
        "-rf",
        "a" * 255,
        'quote".png',
        "$(reboot).png",
        "<script>.html",
        "nul\u202egnp.exe",
    ],
)
def test_no_file_name_leaves_its_owners_folder(api: Api, account: Account, name: str) -> None:
    ticket = account.ask("POST", TICKET, json={"filename": name, "size": 3, "content_type": "text/html"})["data"]
    assert ticket["upload"]["headers"] == {"Content-Type": "application/octet-stream"}
    put = ask("PUT", ticket["upload"]["url"], headers=ticket["upload"]["headers"], content=b"abc")
    assert put.status_code == 200
    source = _key_of(api, _submitted_image(api, account, ticket["download_url"]))
    folder = f"uploads/{account.owner.hex}/{ticket['id']}/"
    assert source.startswith(folder)
    assert "/" not in source.removeprefix(folder)
    assert api.objects.get(source, max_bytes=10) == b"abc"
    assert account.client.get(ticket["download_url"]).status_code == 307


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("application/json", b"{}", "Content-Type: 'application/json' is not supported"),
        ("application/x-www-form-urlencoded", b"file=abc", "Content-Type: 'application/x-www-form-urlencoded' is not"),
        ("multipart/form-data", b"--x\r\n", "Missing boundary in multipart."),
        ("multipart/form-data; boundary=x", b"", "file: is missing"),
        ("multipart/form-data; boundary=x", b"no form at all", ""),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nonly text\r\n--x--\r\n',
            "file: is missing",
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\nabc\r\n--x--\r\n',
            "file: is missing",
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\r\n--x--\r\n',
            "file: 0 bytes is empty",
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n' * 2 + b"--x--\r\n",
            "Too many files",
        ),
        ("multipart/form-data; boundary=x; charset=klingon", b"--x\r\n\r\n", ""),
        ("multipart/form-data; boundary=" + "x" * 5000, b"--x\r\n\r\n", ""),
    ],
)
def test_a_broken_form_is_a_400_in_words(account: Account, content_type: str, body: bytes, message: str) -> None:
    response = account.client.post(BINARY, content=body, headers={"Content-Type": content_type})
    answer = check_envelope(response)
    assert answer["code"] == 400
    assert message in answer["message"]


def test_a_folder_that_the_operator_allowed_is_named_by_its_owner_alone(settings: Settings) -> None:
    name = f"alice-{new_id().hex}"
    allowed = settings.model_copy(update={"s3_read_prefixes": parse_read_prefixes(f"{name}=s3://elsewhere/photos/")})
    with running_api(allowed) as api:
        alice, bob = api.account(name), api.account()
        image = "s3://elsewhere/photos/a.png"
        assert _submitted_image(api, alice, image) == image
        for account, source in ((bob, image), (alice, "s3://elsewhere/photos2/a.png")):
            answer = account.ask("POST", SUBMIT, status=400, json={"image": source})
            assert "you may not read here" in answer["message"]
