"""docker-compose.yml as Compose itself reads it: no secret by default, nothing open that need not be."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from common.settings import Environment, Settings
from common.webhook_signature import SECRET_PREFIX, check_secret

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = Path(sys.executable).parent / "docker-compose"
GPU_FILES = ("docker-compose.yml",)
CPU_FILES = ("docker-compose.yml", "docker-compose.cpu.yml")
SECRETS = {
    name: f"made-up-{name.lower().replace('_', '-')}"
    for name in (
        "POSTGRES_PASSWORD",
        "REDIS_PASSWORD",
        "S3_ACCESS_KEY",
        "S3_SECRET_KEY",
        "API_KEY_SECRET",
        "FLOWER_USER",
        "FLOWER_PASSWORD",
    )
}
OPTIONAL = {"WEBHOOK_SECRET": "whsec_" + "0f" * 24}
"""Secrets of what is off without them."""
FLEET = ("api", "dispatcher", "flower", "migrate", "worker")
STORES = ("postgres", "redis", "s3")


def compose(
    files: tuple[str, ...], variables: Mapping[str, str], env_file: str = "/dev/null"
) -> subprocess.CompletedProcess[str]:
    """Run `docker-compose config` with nothing in its environment but the given variables."""
    named = [part for name in files for part in ("-f", name)]
    return subprocess.run(
        [str(COMPOSE), "--env-file", env_file, *named, "config", "--format", "json"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def services(files: tuple[str, ...]) -> dict[str, Any]:
    result = compose(files, SECRETS | OPTIONAL)
    assert result.returncode == 0, result.stderr
    parsed: dict[str, Any] = json.loads(result.stdout)["services"]
    return parsed


@pytest.fixture(scope="module")
def gpu() -> dict[str, Any]:
    return services(GPU_FILES)


@pytest.fixture(scope="module")
def cpu() -> dict[str, Any]:
    return services(CPU_FILES)


def seconds(duration: str) -> int:
    """Return the seconds of a duration as Compose writes it, such as 1h2m3s."""
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))


def test_the_whole_fleet_is_there(gpu: dict[str, Any]) -> None:
    assert set(gpu) == {*FLEET, *STORES}


def test_every_service_that_keeps_running_has_a_health_check(gpu: dict[str, Any]) -> None:
    assert gpu["migrate"]["healthcheck"] == {"disable": True}
    assert gpu["migrate"]["restart"] == "no"
    for name in {*FLEET, *STORES} - {"migrate"}:
        assert gpu[name]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}, name
        assert gpu[name]["restart"] == "unless-stopped", name


@pytest.mark.parametrize("name", SECRETS)
def test_a_missing_secret_stops_everything_and_is_named(name: str) -> None:
    result = compose(GPU_FILES, {key: value for key, value in SECRETS.items() if key != name})
    assert result.returncode != 0
    assert f"{name} is missing" in result.stderr


def test_an_empty_secret_is_a_missing_one() -> None:
    result = compose(GPU_FILES, {**SECRETS, "REDIS_PASSWORD": ""})
    assert result.returncode != 0
    assert "REDIS_PASSWORD is missing" in result.stderr


def test_the_example_as_it_stands_holds_no_secret() -> None:
    assert compose(GPU_FILES, {}, env_file=".env.example").returncode != 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the command in .env.example uses openssl")
def test_the_command_in_the_example_makes_a_file_that_starts(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".env.example", tmp_path)
    command = next(
        line.lstrip("# ")
        for line in (ROOT / ".env.example").read_text().splitlines()
        if line.lstrip("# ").startswith("(umask")
    )
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, timeout=30)
    made = tmp_path / ".env"
    assert made.stat().st_mode & 0o077 == 0, "others could read the secrets"
    result = compose(GPU_FILES, {}, env_file=str(made))
    assert result.returncode == 0, result.stderr
    written = [line.partition("=")[2] for line in made.read_text().splitlines() if re.match(r"[A-Z0-9_]+=", line)]
    assert all(written)
    check_secret(next(value for value in written if value.startswith(SECRET_PREFIX)))
    assert len(set(written)) == len(written), "two secrets are the same"


def test_without_its_secret_there_are_no_webhooks_and_all_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    result = compose(GPU_FILES, SECRETS)
    assert result.returncode == 0, result.stderr
    monkeypatch.setenv(
        "WEBHOOK_SECRET", json.loads(result.stdout)["services"]["dispatcher"]["environment"]["WEBHOOK_SECRET"]
    )
    assert Settings().webhook_secret is None


def test_no_secret_has_a_default() -> None:
    for file in CPU_FILES:
        for name, rest in re.findall(r"\$\{([A-Z0-9_]+)([^}]*)\}", (ROOT / file).read_text()):
            if name in SECRETS:
                assert rest.startswith(":?"), f"{file}: {name}{rest}"
            elif re.search("PASSWORD|SECRET|TOKEN", name):
                assert rest == ":-", f"{file}: {name}{rest}"


def test_every_secret_in_a_container_came_from_the_operator(gpu: dict[str, Any]) -> None:
    for service, definition in gpu.items():
        for name, value in definition.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|ACCESS_KEY|AUTH", name):
                assert value in {*SECRETS.values(), *OPTIONAL.values()}, f"{service}: {name}"
    assert SECRETS["REDIS_PASSWORD"] in gpu["api"]["environment"]["REDIS_URL"]
    assert SECRETS["POSTGRES_PASSWORD"] in gpu["api"]["environment"]["DATABASE_URL"]


@pytest.mark.parametrize("service", FLEET)
def test_production_accepts_the_settings_of_each_service(
    service: str, gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = gpu[service]["environment"]
    known = {name.upper() for name in Settings.model_fields} | {"FLOWER_USER", "FLOWER_PASSWORD"}
    assert set(environment) <= known, "a setting that nobody reads"
    for name in known:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.fillfleet_env is Environment.PRODUCTION
    assert settings.s3_link_endpoint != settings.s3_endpoint, "clients know no host named s3"


def test_the_operators_word_on_safety_reaches_whoever_acts_on_it() -> None:
    wished = {"SAFETY_CLASSIFIER": "someone/nsfw", "SAFETY_REVISION": "0" * 40, "SAFETY_THRESHOLD": "0.5"}
    wished |= {"SAFETY_POLICY": "drop", "SAFETY_CHECK_INPUTS": "true", "PROMPT_DENY_FILE": "/etc/fillfleet/deny.txt"}
    example = (ROOT / ".env.example").read_text()
    assert [name for name in wished if f"\n# {name}=" not in example] == []
    result = compose(GPU_FILES, SECRETS | wished)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["services"]
    assert {name: found["worker"]["environment"][name] for name in wished} == wished
    for service in ("api", "dispatcher"):
        assert found[service]["environment"]["PROMPT_DENY_FILE"] == wished["PROMPT_DENY_FILE"], service


def test_every_gpu_of_the_host_has_a_worker_unless_the_operator_names_some(gpu: dict[str, Any]) -> None:
    assert gpu["worker"]["command"] == ["worker", "--gpus", "all"]
    some = json.loads(compose(GPU_FILES, SECRETS | {"WORKER_GPUS": "0,2"}).stdout)["services"]
    assert some["worker"]["command"] == ["worker", "--gpus", "0,2"]
    (device,) = gpu["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    assert device["count"] == -1, "all of them"
    assert all("deploy" not in gpu[name] for name in gpu if name != "worker")


def test_the_cpu_override_drops_the_gpu_and_keeps_the_rest(gpu: dict[str, Any], cpu: dict[str, Any]) -> None:
    assert "deploy" not in cpu["worker"]
    assert cpu["worker"]["command"] == ["worker"]
    assert cpu["worker"]["environment"]["FILL_MODEL"] == "bundled"
    assert set(cpu) == set(gpu)
    assert {name: cpu[name] for name in cpu if name != "worker"} == {
        name: gpu[name] for name in gpu if name != "worker"
    }


def test_a_worker_is_not_killed_while_it_drains(gpu: dict[str, Any]) -> None:
    worker = gpu["worker"]
    assert worker["stop_signal"] == "SIGTERM"
    assert seconds(worker["stop_grace_period"]) > float(worker["environment"]["DRAIN_SECONDS"])


def test_redis_keeps_messages_on_disk_and_never_drops_one(gpu: dict[str, Any]) -> None:
    command = gpu["redis"]["command"]
    given = dict(zip(command[1::2], command[2::2], strict=True))
    assert given == {
        "--requirepass": SECRETS["REDIS_PASSWORD"],
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--maxmemory-policy": "noeviction",
    }


def test_only_the_api_is_open_to_other_hosts(gpu: dict[str, Any]) -> None:
    published = {name: [port["host_ip"] for port in gpu[name].get("ports", [])] for name in gpu}
    assert {name: hosts for name, hosts in published.items() if hosts} == {
        "api": ["0.0.0.0"],  # noqa: S104 - that is what is asserted
        "flower": ["127.0.0.1"],
        "s3": ["127.0.0.1"],
    }


@pytest.mark.parametrize("name", ["api", "dispatcher", "worker"])
def test_who_fetches_or_delivers_has_a_way_out(name: str) -> None:
    whole = json.loads(compose(GPU_FILES, SECRETS).stdout)
    internal = {network for network, rest in whole["networks"].items() if rest.get("internal")}
    assert set(whole["services"][name]["networks"]) - internal


def test_redis_and_postgres_have_no_way_out() -> None:
    whole = json.loads(compose(GPU_FILES, SECRETS).stdout)
    internal = {name for name, network in whole["networks"].items() if network.get("internal")}
    for name in ("redis", "postgres"):
        assert set(whole["services"][name]["networks"]) <= internal, name


def test_what_holds_state_is_on_a_volume(gpu: dict[str, Any]) -> None:
    targets = {name: [volume["target"] for volume in gpu[name]["volumes"]] for name in (*STORES, "worker")}
    assert targets == {
        # Below 18 the image kept its data in /var/lib/postgresql/data; that path now loses everything.
        "postgres": ["/var/lib/postgresql"],
        "redis": ["/data"],
        "s3": ["/data"],
        "worker": ["/cache", "/loras"],
    }


def test_every_image_is_pinned(gpu: dict[str, Any]) -> None:
    used = [gpu[name]["image"] for name in STORES]
    dockerfile = (ROOT / "infra/docker/Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", dockerfile, re.MULTILINE))
    used += [name for name in re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) if name not in stages]
    for image in used:
        assert re.search(r":\d", image), image
    for service in FLEET:
        assert gpu[service]["build"]["target"] in stages, service
