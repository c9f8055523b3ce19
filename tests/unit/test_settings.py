"""Settings are checked as a whole at start: what would be dangerous or contradictory is refused, and never shown."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from common.errors import Rejected
from common.settings import DEVELOPMENT_SECRET, Environment, Settings, get_settings

PRODUCTION: dict[str, Any] = {
    "fillfleet_env": "production",
    "api_key_secret": "a secret of our own",
    "s3_secret_key": "another one",
}


class TheseSettings(Settings):
    """Settings that read no environment: a test must not depend on the shell it runs in."""

    @classmethod
    def settings_customise_sources(cls, settings_cls: Any, init_settings: Any, *_: Any, **__: Any) -> tuple[Any, ...]:
        return (init_settings,)


def made(**values: Any) -> Settings:
    """Return settings for a laptop, with these values."""
    return TheseSettings.model_validate({"fillfleet_env": "development"} | values)


def refused(**values: Any) -> str:
    """Return why these values are refused."""
    with pytest.raises(ValidationError) as error:
        made(**values)
    return str(error.value)


# --- secrets


@pytest.mark.parametrize("name", ["api_key_secret", "s3_secret_key"])
def test_nothing_set_means_production_and_production_uses_no_default_secret(name: Any) -> None:
    with pytest.raises(Rejected, match=f"{name.upper()} must be set in production") as error:
        TheseSettings().secret(name)
    assert DEVELOPMENT_SECRET not in str(error.value)


def test_a_process_is_asked_only_for_the_secrets_that_it_uses() -> None:
    settings = made(**PRODUCTION | {"api_key_secret": DEVELOPMENT_SECRET})
    assert settings.secret("s3_secret_key") == PRODUCTION["s3_secret_key"]


def test_production_starts_on_secrets_of_its_own() -> None:
    settings = made(**PRODUCTION)
    assert settings.fillfleet_env is Environment.PRODUCTION
    assert settings.secret("api_key_secret") == PRODUCTION["api_key_secret"]


def test_a_laptop_starts_on_nothing() -> None:
    assert made().secret("s3_secret_key") == DEVELOPMENT_SECRET


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    name: Any
    for name in ("API_KEY_SECRET", "S3_SECRET_KEY", "S3_PUBLIC_ENDPOINT"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("FILLFLEET_ENV", "production")
    settings = Settings()
    assert settings.s3_public_endpoint is None
    for name in ("api_key_secret", "s3_secret_key"):
        with pytest.raises(Rejected, match="must be set in production"):
            settings.secret(name)


def test_no_secret_shows_in_any_form_of_the_settings() -> None:
    names = ("api_key_secret", "s3_secret_key", "s3_access_key", "hf_token")
    secrets = {name: f"hunter-{name}" for name in names} | {"webhook_secret": "whsec_" + "hunter/x" * 4}
    urls = {"database_url": "postgresql://a:hunter-db@h/x", "redis_url": "redis://:hunter-redis@h/0"}
    settings = made(**secrets, **urls)
    for text in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert "hunter" not in text


@pytest.mark.parametrize(
    "bad",
    [
        {"database_url": "mysql://a:hunter2@h/x"},
        {"database_url": "hunter2"},
        {"database_url": "postgresql://a:hunter2@h:port/x"},
        {"redis_url": "http://:hunter2@h/0"},
        {"redis_url": "redis://:hunter2/x@h:6379/0"},
        {"redis_url": "hunter2"},
        {"api_key_secret": "hunter2", "lease_seconds": 0},
        {"webhook_secret": "hunter2"},
        {"webhook_secret": "whsec_hunter2"},
    ],
)
def test_no_secret_shows_in_a_complaint(bad: dict[str, Any]) -> None:
    assert "hunter2" not in refused(**bad)


# --- values


@pytest.mark.parametrize(
    "good",
    [
        {"database_url": "postgres://a:b@h/x"},
        {"database_url": "postgresql+psycopg://a:b@h:5433/x?sslmode=require"},
        {"database_url": "postgresql:///x?host=/run/postgresql"},
        {"redis_url": "rediss://:p%2Fw@h:6380/2"},
        {"s3_endpoint": "https://s3.eu-central-1.amazonaws.com"},
        {"s3_public_endpoint": "http://[::1]:8333/s3"},
        {"log_level": "debug"},
        {"log_level": "WARNING"},
        {"fill_device": "cuda:3"},
        {"worker_health_port": 65535},
    ],
)
def test_what_operators_write_is_taken(good: dict[str, Any]) -> None:
    made(**good)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"log_level": "loud"}, "log_level"),
        ({"log_format": "xml"}, "log_format"),
        ({"fillfleet_env": "staging"}, "'production'"),
        ({"database_url": "mysql://h/x"}, "postgresql://user:password@host:5432/database"),
        ({"redis_url": "h:6379"}, "redis://:password@host:6379/0"),
        ({"s3_endpoint": "s3:8333"}, "http://host:8333"),
        ({"s3_public_endpoint": "http://"}, "http://host:8333"),
        ({"public_url": "fill.example.com"}, "http://host:8333"),
        ({"fill_device": "gpu"}, "fill_device"),
        ({"fill_dtype": "int8"}, "fill_dtype"),
        ({"max_failures": 0}, "max_failures"),
        ({"worker_slots": 0}, "worker_slots"),
        ({"worker_health_port": 0}, "worker_health_port"),
        ({"presigned_url_seconds": 7 * 86400 + 1}, "presigned_url_seconds"),
        ({"step_seconds": 0}, "step_seconds"),
        ({"safety_threshold": 1.1}, "safety_threshold"),
        ({"safety_policy": "hide"}, "'blank', 'blur', 'drop' or 'allow'"),
        ({"webhook_secret": "whsec_"}, 'make one with: echo "whsec_$(openssl rand -base64 32)"'),
        ({"webhook_signature": "v2"}, "'standard' or 'vendor'"),
        ({"webhook_seconds": 0}, "webhook_seconds"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name_or_example(bad: dict[str, Any], says: str) -> None:
    assert says in refused(**bad)


@pytest.mark.parametrize(
    ("written", "hosts"),
    [
        ("", ()),
        ("minio.local", ("minio.local",)),
        (" A.example:8080 , b.example ,, [::1]:80 ", ("a.example:8080", "b.example", "[::1]:80")),
    ],
)
def test_hosts_are_split_at_commas_and_compared_in_lower_case(written: str, hosts: tuple[str, ...]) -> None:
    assert made(fetch_allow_hosts=written).fetch_allow_hosts == hosts


def test_hosts_from_the_environment_need_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FETCH_ALLOW_HOSTS", "one.local,two.local:81")
    assert Settings(fillfleet_env=Environment.TEST).fetch_allow_hosts == ("one.local", "two.local:81")


# --- relations


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"lease_seconds": 14.9, "heartbeat_seconds": 5}, "LEASE_SECONDS must be at least 3 x HEARTBEAT_SECONDS"),
        ({"backoff_seconds": 5, "backoff_max_seconds": 4}, "BACKOFF_MAX_SECONDS must not be below BACKOFF_SECONDS"),
        (
            {"webhook_backoff_seconds": 5, "webhook_backoff_max_seconds": 4},
            "WEBHOOK_BACKOFF_MAX_SECONDS must not be below WEBHOOK_BACKOFF_SECONDS",
        ),
        ({"test_model_class": "a:B"}, "TEST_MODEL_CLASS is accepted only under FILLFLEET_ENV=test"),
        (PRODUCTION | {"test_model_class": "a:B"}, "TEST_MODEL_CLASS is accepted only under FILLFLEET_ENV=test"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(values: dict[str, Any], says: str) -> None:
    assert says in refused(**values)


def test_numbers_at_the_edge_of_their_relation_are_taken() -> None:
    made(lease_seconds=15, heartbeat_seconds=5, backoff_seconds=4, backoff_max_seconds=4)
    assert made(fillfleet_env="test", test_model_class="a:B").test_model_class == "a:B"


def test_all_slots_may_decode_at_once() -> None:
    settings = made(worker_slots=4, image_decode_seconds=30)
    assert settings.decode_seconds >= 4 * 30


# --- what is derived


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_form_of_the_database_url_names_the_driver(scheme: str) -> None:
    assert made(database_url=f"{scheme}://a:b@h/x").sqlalchemy_url == "postgresql+psycopg://a:b@h/x"


def test_links_are_signed_for_the_public_endpoint_if_there_is_one() -> None:
    assert made(s3_endpoint="http://s3:1/").s3_link_endpoint == "http://s3:1"
    assert made(s3_endpoint="http://s3:1", s3_public_endpoint="https://p/").s3_link_endpoint == "https://p"


def test_a_process_reads_its_environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    get_settings.cache_clear()
    monkeypatch.setenv("FILLFLEET_ENV", "test")
    monkeypatch.setenv("MAX_FAILURES", "7")
    assert get_settings().max_failures == 7
    monkeypatch.setenv("MAX_FAILURES", "8")
    assert get_settings().max_failures == 7
    get_settings.cache_clear()
