"""API keys: without a good one nothing is answered but how to get one; they are stored only as a keyed hash."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
import structlog
from click.testing import CliRunner
from sqlalchemy import select

from common.errors import Rejected
from common.settings import get_settings
from common.tables import api_keys
from producer import keys
from producer.cli.main import cli
from tests.support.api import IMAGE, Account, Api, ask, check_envelope, fetch
from tests.support.environment import environment_of

SUBMIT = "/api/v3/wavespeed-ai/flux-dev-fill"
ROUTES = [
    ("POST", SUBMIT),
    ("POST", "/api/v2/wavespeed-ai/flux-fill-dev"),
    ("GET", "/api/v3/predictions/0195d3c1c8a67cf0a3f0b0c5a1b2c3d4/result"),
    ("GET", "/api/v2/predictions/0195d3c1c8a67cf0a3f0b0c5a1b2c3d4"),
    ("DELETE", "/api/v3/predictions/0195d3c1c8a67cf0a3f0b0c5a1b2c3d4"),
    ("POST", "/api/v3/predictions/0195d3c1c8a67cf0a3f0b0c5a1b2c3d4/cancel"),
    ("GET", "/api/v3/predictions"),
    ("POST", "/api/v3/predictions"),
    ("POST", "/api/v3/predictions/delete"),
    ("GET", "/api/v3/models"),
    ("POST", "/api/v3/media/uploads"),
    ("POST", "/api/v3/media/upload/binary"),
    ("GET", "/api/v3/media/files/0195d3c1c8a67cf0a3f0b0c5a1b2c3d4/a.png"),
]
HOW = "send the header `Authorization: Bearer KEY`; the operator makes a key with `fillfleet keys create --owner NAME`"


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_answers_without_a_key(api: Api, method: str, path: str) -> None:
    response = ask(method, api.url + path, json={"image": IMAGE})
    assert response.status_code == 401
    assert check_envelope(response)["message"] == f"no API key was sent: {HOW}"
    assert response.headers["www-authenticate"] == "Bearer"


def _with(api: Api, authorization: bytes) -> str:
    headers = {b"Authorization": authorization}
    response = ask("POST", api.url + SUBMIT, json={"image": IMAGE}, headers=headers)
    assert response.status_code == 401
    return str(check_envelope(response)["message"])


def test_a_wrong_key_is_told_what_is_wrong_with_it(api: Api, account: Account) -> None:
    mistyped = account.key[:-8] + ("a" if account.key[-8] != "a" else "b") + account.key[-7:]
    unknown = keys.PREFIX + "x" * 40 + keys._check("x" * 40)
    assert _with(api, f"Bearer {mistyped}".encode()) == f"the API key is mistyped or was cut off: {HOW}"
    assert _with(api, f"Bearer {account.key[:-1]}".encode()) == f"the API key is mistyped or was cut off: {HOW}"
    assert _with(api, f"Bearer {unknown}".encode()) == f"the API key is unknown or was revoked: {HOW}"


@pytest.mark.parametrize(
    "authorization",
    [b"Bearer", b"Basic YTpi", b"nonsense", b"Bearer \xff\xfe", b"Bearer " + b"a" * 8000, b"Bearer a b"],
)
def test_an_odd_authorization_header_is_a_401(api: Api, authorization: bytes) -> None:
    assert HOW in _with(api, authorization)


def test_the_scheme_may_be_written_in_any_case(account: Account) -> None:
    account.ask("GET", "/api/v3/models", headers={"Authorization": f"bearer {account.key}"})


def test_a_revoked_key_stops_at_once_and_its_owners_others_go_on(api: Api) -> None:
    first, second = api.account("rotating"), api.account("rotating")
    job = first.submit()["id"]
    with api.engine.begin() as connection:
        keys.revoke(connection, first.key, api.settings)
    first.ask("GET", f"/api/v3/predictions/{job}", status=401)
    assert second.result(job)["id"] == job


def test_only_a_keyed_hash_is_stored(api: Api, account: Account) -> None:
    with api.engine.begin() as connection:
        row = connection.execute(select(api_keys).where(api_keys.c.owner_id == account.owner)).one()
    assert len(row.key_hash) == 32
    assert account.key.encode() not in row.key_hash
    assert row.hint == account.key[:9]
    other = api.settings.model_copy(update={"api_key_secret": type(api.settings.api_key_secret)("another")})
    with api.engine.begin() as connection:
        assert keys.authenticate(connection, account.key, other) is None
        assert keys.authenticate(connection, account.key, api.settings) is not None


def test_no_key_is_made_under_another_secret_than_the_apis_unless_that_is_meant(api: Api, account: Account) -> None:
    other = api.settings.model_copy(update={"api_key_secret": type(api.settings.api_key_secret)("another")})
    with api.engine.connect() as connection:  # never committed: the other tests' keys stay the newest
        with pytest.raises(Rejected, match="API_KEY_SECRET is not the one"):
            keys.create(connection, "mallory", other)
        made = keys.create(connection, "mallory", other, new_secret=True)
        assert keys.authenticate(connection, made.text, other) is not None
        with pytest.raises(Rejected, match="API_KEY_SECRET is not the one"):
            keys.create(connection, "me", api.settings)


def test_every_single_typo_is_noticed_without_the_database(account: Account) -> None:
    for place in range(len(keys.PREFIX), len(account.key)):
        typo = "A" if account.key[place] != "A" else "B"
        assert not keys.is_well_formed(account.key[:place] + typo + account.key[place + 1 :])
    assert keys.is_well_formed(account.key)


Run = Callable[..., str]


@pytest.fixture
def run(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run `fillfleet keys …` on the API's database; returns what it prints."""
    for name, value in environment_of(api.settings).items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    # The API of this process writes its log to whatever sys.stdout is then, which is also where the command prints.
    structlog.configure(logger_factory=structlog.stdlib.LoggerFactory())

    def invoke(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["keys", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    yield invoke
    structlog.reset_defaults()
    get_settings.cache_clear()


def test_the_command_prints_a_key_that_works_and_shows_it_never_again(api: Api, run: Run) -> None:
    key = run("create", "--owner", "knights").strip()
    headers = {"Authorization": f"Bearer {key}"}
    assert fetch(f"{api.url}/api/v3/models", headers=headers).status_code == 200
    assert key not in run("list") + run("list", "--json")
    assert key[:9] in run("list")


def test_the_command_speaks_json(run: Run) -> None:
    made = json.loads(run("create", "--owner", "squires", "--json"))
    assert keys.is_well_formed(made["key"])
    listed = {key["id"]: key for key in json.loads(run("list", "--json"))}
    assert listed[made["id"]] == {
        "id": made["id"],
        "owner": "squires",
        "hint": made["hint"],
        "created_at": listed[made["id"]]["created_at"],
        "revoked_at": None,
    }


@pytest.mark.parametrize("by", ["id", "hint", "key"])
def test_a_key_is_revoked_by_id_hint_or_itself(api: Api, run: Run, by: str) -> None:
    made = json.loads(run("create", "--owner", "fickle", "--json"))
    first = json.loads(run("revoke", made[by], "--json"))
    assert (first["id"], first["owner"]) == (made["id"], "fickle")
    assert first["revoked_at"] is not None
    assert json.loads(run("revoke", made[by], "--json")) == first
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert fetch(f"{api.url}/api/v3/models", headers=headers).status_code == 401


@pytest.mark.parametrize("name", ["ff_unknown", "", "0195d3c1c8a67cf0a3f0b0c5a1b2c3d4", "'; DROP TABLE api_keys"])
def test_revoking_what_is_not_there_says_so(api: Api, name: str) -> None:
    with pytest.raises(Rejected, match="no key has the id or hint"), api.engine.begin() as connection:
        keys.revoke(connection, name, api.settings)


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "a" * 101, "ab\x00", "ünder", "-x"])
def test_an_owners_name_is_plain(api: Api, name: str) -> None:
    with pytest.raises(Rejected, match="is not allowed; allowed: 1 to 100 letters"), api.engine.begin() as connection:
        keys.create(connection, name, api.settings)
