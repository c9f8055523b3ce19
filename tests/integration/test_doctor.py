"""`fillfleet doctor` as an operator gives it: a process of its own, before real servers that are there or not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import snapshot_download
from pydantic import SecretStr
from sqlalchemy import Engine, text

from common.checkup import Verdict
from common.database import transaction
from common.objects import Objects
from common.settings import Settings
from common.workers import WorkerBeat, WorkerState, beat
from infra.demo_model.files import FOLDER
from infra.embedded.ready_file import READY_FILE, Ready, write_ready
from infra.embedded.servers import EmbeddedServers
from producer.server_checks import check_fleet
from tests.support.databases import fresh_database
from tests.support.gpu_host import LARGE, SMALL, with_gpus
from tests.support.model_hub import COMMIT, FILL_CARD, ModelHub, running_hub, with_card
from tests.support.tiny_classifier import build_classifier

ROOT = Path(__file__).parents[2]
NAME = "someone/some-fill"
TOKEN = "hf_madeUpForThisTestAlone1234567890"
BASE = ["settings", "postgres", "redis", "s3"]
WORKER = ["model", "licence", "device", "profile", "gpus", "host", "disk", "safety"]
NO_TORCH = "import sys; sys.modules['torch'] = None; "
"""Makes torch look as if it were not installed. What is asked of servers is answered much sooner then, too."""
SECRETS = ("DATABASE_URL", "REDIS_URL", "S3_SECRET_KEY", "API_KEY_SECRET", "WEBHOOK_SECRET", "HF_TOKEN")


@dataclass(frozen=True)
class Examined:
    """What the command has left."""

    code: int
    out: str

    @property
    def checks(self) -> dict[str, dict[str, Any]]:
        """Return the findings by the name of their check."""
        return {check["check"]: check for check in json.loads(self.out)["checks"]}

    @property
    def missing(self) -> list[str]:
        """Return what is missing."""
        return [name for name, check in self.checks.items() if check["verdict"] == "missing"]


Doctor = Callable[..., Examined]


@pytest.fixture
def doctor(environment: dict[str, str], settings: Settings, tmp_path: Path) -> Doctor:
    """Run `fillfleet doctor` under this test's settings with changes, and with --json unless told otherwise.

    A change to None takes a setting away. No run may show a secret, nor write to stderr.
    """
    with_bucket = Objects(settings)
    with_bucket.ensure_bucket()
    with_bucket.close()

    def examine(*arguments: str, as_json: bool = True, before: str = "", **changes: str | None) -> Examined:
        wished = environment | {"HF_HOME": str(tmp_path / "hf")} | changes
        env = {name: value for name, value in wished.items() if value is not None}
        options = [*arguments, *(["--json"] if as_json else [])]
        done = subprocess.run(
            [sys.executable, "-c", f"{before}from producer.cli.main import main; main()", "doctor", *options],
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stderr == ""
        for name in SECRETS:
            secret = secret_in(env.get(name, ""))
            assert not secret or secret not in done.stdout, f"{name} is shown"
        return Examined(done.returncode, done.stdout)

    return examine


def secret_in(value: str) -> str:
    """Return the password of a URL, or else the whole value."""
    return value.partition("://")[2].rpartition("@")[0].partition(":")[2] if "://" in value else value


@pytest.fixture(scope="module")
def fill_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model under the real model's card."""
    return with_card(FOLDER, tmp_path_factory.mktemp("models") / "fill", FILL_CARD)


@pytest.fixture
def hub(fill_folder: Path) -> Iterator[ModelHub]:
    """A hub that has this model, and gives its files to one token only."""
    with running_hub({NAME: fill_folder}, token=TOKEN) as hub:
        yield hub


# --- settings and servers


def test_where_all_is_well_every_check_says_ok_and_the_exit_code_is_0(doctor: Doctor) -> None:
    done = doctor()
    assert (done.code, done.missing) == (0, [])
    assert list(done.checks) == [*BASE, *WORKER]
    assert {check["verdict"] for name, check in done.checks.items() if name != "gpus"} == {"ok"}
    assert done.checks["gpus"]["verdict"] in {"ok", "note"}, "a worker on the CPU misses none"
    assert done.checks["profile"]["profile"] == "exact"
    assert json.loads(done.out)["ok"] is True
    assert done.checks["licence"]["licence"] == "apache-2.0"
    assert done.checks["model"]["revision"].startswith("sha256:")
    assert done.checks["device"]["torch"] == torch.__version__


def test_the_base_install_says_that_no_worker_is_here_and_finds_nothing_wrong_with_that(doctor: Doctor) -> None:
    done = doctor(before=NO_TORCH)
    assert done.code == 0
    assert list(done.checks) == [*BASE, "worker"]
    assert done.checks["worker"]["verdict"] == "note"
    assert "pip install 'fillfleet[worker]'" in done.checks["worker"]["todo"]


def test_for_people_it_is_a_table_with_what_to_do_below_what_is_missing(doctor: Doctor) -> None:
    done = doctor(as_json=False, before=NO_TORCH, REDIS_URL="redis://:hunter2@127.0.0.1:1/0")
    assert done.code == 1
    lines = done.out.splitlines()
    table = [line for line in lines[:-2] if not line.startswith(" ")]
    assert [line.split()[:2] for line in table] == [
        ["ok", "settings"], ["ok", "postgres"], ["missing", "redis"], ["ok", "s3"], ["note", "worker"],
    ]  # fmt: skip
    assert lines[lines.index(table[2]) + 1].strip() == "→ start Redis or Valkey, or correct REDIS_URL"
    assert lines[-1] == "1 missing"


def test_a_redis_that_is_down_is_the_one_thing_missing(servers: EmbeddedServers, doctor: Doctor) -> None:
    servers.redis.kill()
    try:
        done = doctor(before=NO_TORCH)
    finally:
        servers.redis.start()
    assert (done.code, done.missing) == (1, ["redis"])
    assert done.checks["redis"]["found"].startswith("does not answer at 127.0.0.1:")
    assert doctor(before=NO_TORCH).code == 0


@pytest.mark.parametrize(
    ("name", "check", "found"),
    [
        ("DATABASE_URL", "postgres", "password authentication failed"),
        ("REDIS_URL", "redis", "refuses the password"),
        ("S3_SECRET_KEY", "s3", "refuses the keys"),
    ],
)
def test_a_wrong_password_is_named_as_such_and_not_shown(
    name: str, check: str, found: str, doctor: Doctor, environment: dict[str, str]
) -> None:
    wrong = environment[name].replace(secret_in(environment[name]), "hunter2hunter2")
    done = doctor(before=NO_TORCH, **{name: wrong})
    assert (done.code, done.missing) == (1, [check])
    assert found in done.checks[check]["found"]
    assert name in done.checks[check]["todo"]


def test_database_and_bucket_that_migrate_has_not_seen_are_missing_until_it_has(
    servers: EmbeddedServers, doctor: Doctor, environment: dict[str, str]
) -> None:
    with fresh_database(servers) as url:
        new = {"DATABASE_URL": url, "S3_BUCKET": "not-there-yet"}
        done = doctor(before=NO_TORCH, **new)
        assert (done.code, done.missing) == (1, ["postgres", "s3"])
        assert "no tables yet" in done.checks["postgres"]["found"]
        assert done.checks["postgres"]["todo"] == "run: fillfleet migrate"
        assert "fillfleet migrate" in done.checks["s3"]["todo"]
        migrate = [sys.executable, "-m", "producer.cli", "migrate"]
        subprocess.run(migrate, env=environment | new, cwd=ROOT, capture_output=True, timeout=60, check=True)
        assert doctor(before=NO_TORCH, **new).missing == []


def test_a_schema_of_a_newer_version_is_a_warning(doctor: Doctor, database: Engine) -> None:
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    done = doctor(before=NO_TORCH)
    assert done.code == 0
    assert done.checks["postgres"]["verdict"] == "warning"
    assert "9999 is newer" in done.checks["postgres"]["found"]


def test_wrong_settings_are_named_without_their_values_and_end_the_examination(doctor: Doctor) -> None:
    done = doctor(WORKER_SLOTS="many", REDIS_URL="http://:hunter2@127.0.0.1/0")
    assert (done.code, list(done.checks), done.missing) == (1, ["settings"], ["settings"])
    for name in ("WORKER_SLOTS", "REDIS_URL"):
        assert f"setting {name}: " in done.checks["settings"]["found"]
    assert "many" not in done.out


def test_production_on_secrets_that_everybody_knows_is_told_what_to_set(doctor: Doctor) -> None:
    done = doctor(before=NO_TORCH, FILLFLEET_ENV="production", API_KEY_SECRET=None, S3_SECRET_KEY=None)
    assert (done.code, done.missing) == (1, ["s3"])
    assert done.checks["s3"]["todo"].startswith("S3_SECRET_KEY must be set in production")
    assert done.checks["settings"]["verdict"] == "warning", "a worker's host needs none"
    assert done.checks["settings"]["todo"].startswith("API_KEY_SECRET must be set in production")


def test_the_system_of_fillfleet_up_is_found_by_its_folder(
    servers: EmbeddedServers, settings: Settings, doctor: Doctor, tmp_path: Path
) -> None:
    shutil.copy(servers.home.directory / "fillfleet.json", tmp_path)
    urls = {"redis_url": settings.redis_url.get_secret_value(), "database_url": settings.sqlalchemy_url}
    store = {name: getattr(servers, name) for name in ("s3_endpoint", "s3_access_key", "s3_secret_key", "s3_bucket")}
    ready = Ready("http://127.0.0.1:1", "key", "http://127.0.0.1:1", "user", "password", **urls, **store, pids={})
    write_ready(tmp_path / READY_FILE, ready)
    elsewhere = {"DATABASE_URL": "postgresql://app:hunter2@127.0.0.1:1/other", "REDIS_URL": None, "S3_ENDPOINT": None}
    for given in ({"FILLFLEET_SYSTEM": str(tmp_path)}, {}):
        done = doctor(*([] if given else ["--system", str(tmp_path)]), before=NO_TORCH, **elsewhere, **given)
        assert (done.code, done.missing) == (0, [])
        assert str(tmp_path) in done.checks["settings"]["found"]


def test_a_folder_in_which_no_system_runs_says_how_to_start_it(doctor: Doctor) -> None:
    done = doctor("--system", "/nowhere")
    assert (done.code, list(done.checks)) == (1, ["settings"])
    assert "fillfleet up --dir /nowhere" in done.checks["settings"]["todo"]


# --- the model and this machine


def test_a_model_that_is_not_there_is_missing(doctor: Doctor) -> None:
    done = doctor(FILL_MODEL="/nowhere/at/all")
    assert (done.code, done.missing) == (1, ["model"])
    assert "must be `bundled`, a folder that holds model_index.json, or a hub id" in done.checks["model"]["todo"]


def test_weights_that_rule_out_commercial_use_are_a_warning_with_their_terms(doctor: Doctor, fill_folder: Path) -> None:
    done = doctor(FILL_MODEL=str(fill_folder))
    licence = done.checks["licence"]
    assert (done.code, licence["verdict"]) == (0, "warning")
    assert licence["licence"] == "flux-1-dev-non-commercial-license"
    assert licence["commercial_use"] == "ruled out"
    assert "rules out commercial use" in licence["found"]
    for link in licence["terms"]:
        assert link in licence["todo"]
    assert "docs/use-policy.md" in licence["todo"]


def test_a_gated_model_without_a_token_that_may_have_it_is_missing_and_says_what_to_accept(
    doctor: Doctor, hub: ModelHub, tmp_path: Path
) -> None:
    done = doctor(**of_hub(hub, tmp_path))
    assert (done.code, done.missing) == (1, ["model"])
    assert "HF_TOKEN is not set" in done.checks["model"]["found"]
    assert "accept the model's licence on its page, and set HF_TOKEN" in done.checks["model"]["todo"]
    assert f"https://huggingface.co/{NAME}" in done.checks["model"]["todo"]


def test_a_model_of_the_hub_is_looked_at_without_a_download(doctor: Doctor, hub: ModelHub, tmp_path: Path) -> None:
    done = doctor(**of_hub(hub, tmp_path, HF_TOKEN=TOKEN))
    assert (done.code, done.missing) == (0, [])
    model = done.checks["model"]
    assert (model["revision"], model["gated"], model["hf_token"], model["on_this_host"]) == (COMMIT, True, True, False)
    assert done.checks["licence"]["commercial_use"] == "ruled out"
    assert done.checks["licence"]["terms"][0] == f"https://huggingface.co/{NAME}/blob/main/LICENSE.md"
    assert [asked for asked in hub.asked if asked.startswith("GET") and "/resolve/" in asked] == []
    assert not list((tmp_path / "hub").rglob("*.safetensors"))


def test_without_the_hub_a_model_that_was_never_downloaded_is_missing(
    doctor: Doctor, hub: ModelHub, tmp_path: Path
) -> None:
    away = of_hub(hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:1")
    done = doctor(**away)
    assert (done.code, done.missing) == (1, ["model"])
    assert "the Hugging Face hub does not answer" in done.checks["model"]["todo"]


def test_without_the_hub_a_model_that_is_kept_here_is_found_with_its_licence(
    doctor: Doctor, hub: ModelHub, tmp_path: Path
) -> None:
    kept = Path(snapshot_download(NAME, endpoint=hub.url, token=TOKEN, cache_dir=tmp_path / "hub"))
    assert doctor(**of_hub(hub, tmp_path, HF_TOKEN=TOKEN)).checks["model"]["on_this_host"] is True
    away = of_hub(hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:1")
    done = doctor(**away)
    assert (done.code, done.missing) == (0, [])
    assert "on this host" in done.checks["model"]["found"]
    assert "does not answer" in done.checks["model"]["found"]
    assert done.checks["licence"]["commercial_use"] == "ruled out"

    (kept / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert doctor(**away).missing == ["model"], "what is half there is not there"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_here_is_missing(doctor: Doctor) -> None:
    done = doctor(FILL_DEVICE="cuda")
    assert (done.code, done.missing) == (1, ["device"])
    assert "torch sees no GPU here" in done.checks["device"]["todo"]


def test_settings_of_a_profile_that_do_not_go_together_are_missing(doctor: Doctor) -> None:
    done = doctor(FILL_PROFILE="exact", FILL_STEP_CACHE="true")
    assert (done.code, done.missing) == (1, ["profile"])
    assert "set FILL_PROFILE=fast" in done.checks["profile"]["todo"]


@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a torch that is built without CUDA")
def test_what_the_gpus_can_do_and_what_they_lack_is_said_before_anything_is_downloaded(
    doctor: Doctor, hub: ModelHub, fill_folder: Path, tmp_path: Path
) -> None:
    gpus = with_gpus(tmp_path / "bin", [LARGE, SMALL])
    done = doctor(**of_hub(hub, tmp_path, HF_TOKEN=TOKEN, CUDA_VISIBLE_DEVICES="1"), **gpus)
    assert (done.code, done.missing) == (1, ["gpus"])
    (seen,) = done.checks["gpus"]["gpus"]
    assert (seen["id"], seen["name"], seen["driver"]) == ("1", "NVIDIA GeForce RTX 4090", "570.133.20")
    assert (seen["memory_bytes"], seen["compute_capability"]) == (24564 * 1024**2, "8.9")
    assert "is built without CUDA" in done.checks["gpus"]["found"]
    weights = sum(path.stat().st_size for path in fill_folder.glob("*/*.safetensors"))
    assert done.checks["disk"]["download_bytes"] == weights
    assert sum(done.checks["vram"]["model_bytes"].values()) == weights
    assert done.checks["vram"]["found"].startswith("24.0 GiB: exact fits (")
    assert {plan["fits"] for plan in done.checks["vram"]["fits"][0]["plans"]} == {True}
    assert done.checks["host"]["gpus"] == 1
    assert [asked for asked in hub.asked if asked.startswith("GET") and "/resolve/" in asked] == []


# --- safety


def test_the_classifier_that_is_named_is_loaded_and_what_it_leads_to_is_said(doctor: Doctor, tmp_path: Path) -> None:
    folder = build_classifier(tmp_path / "classifier")
    done = doctor(SAFETY_CLASSIFIER=str(folder), SAFETY_POLICY="drop")
    assert (done.code, done.missing) == (0, [])
    assert done.checks["safety"]["found"] == f"{folder} flags images from 0.85 on; what is stored of them: drop"
    (folder / "preprocessor_config.json").unlink()
    assert doctor(SAFETY_CLASSIFIER=str(folder)).missing == ["safety"]


def test_a_classifier_of_the_hub_is_not_downloaded_for_a_look(doctor: Doctor, hub: ModelHub, tmp_path: Path) -> None:
    done = doctor(SAFETY_CLASSIFIER="someone/nsfw", **hub.environment(tmp_path))
    assert (done.code, done.checks["safety"]["verdict"]) == (0, "note")
    assert "the first worker downloads it" in done.checks["safety"]["found"]
    assert not [path for path in hub.asked if "someone/nsfw" in path]


def test_a_file_of_refused_prompts_is_read_where_there_is_one(doctor: Doctor, tmp_path: Path) -> None:
    rules = tmp_path / "deny.txt"
    rules.write_text("fox\nhare\n")
    assert doctor(PROMPT_DENY_FILE=str(rules)).checks["prompts"]["found"] == f"2 rules on refused prompts in {rules}"
    rules.write_text("fox\n/ha+re/\n")
    done = doctor(PROMPT_DENY_FILE=str(rules))
    assert (done.code, done.missing) == (1, ["prompts"])
    assert f"{rules}:2: regular expressions are not taken" in done.checks["prompts"]["todo"]


def of_hub(hub: ModelHub, home: Path, **more: str) -> dict[str, str]:
    """Return the settings for the hub's model, with what is kept of it in `home`/hub."""
    return {"FILL_MODEL": NAME, **hub.environment(home), **more}


@pytest.mark.parametrize(
    ("other", "verdict", "says"),
    [
        ({}, Verdict.OK, "all of one model version"),
        ({"device": "NVIDIA L40S"}, Verdict.NOTE, "device (NVIDIA H200, NVIDIA L40S)"),
        (
            {"profile": "fast", "compile": "repeated blocks"},
            Verdict.WARNING,
            "compile (none, repeated blocks); profile",
        ),
        ({"torch": "2.14.0"}, Verdict.WARNING, "torch (2.13.0, 2.14.0)"),
    ],
)
def test_workers_whose_results_differ_are_named_with_what_they_differ_in(
    other: dict[str, str], verdict: Verdict, says: str, settings: Settings, database: Engine
) -> None:
    version = {"profile": "exact", "device": "NVIDIA H200", "torch": "2.13.0"}
    assert list(check_fleet(settings)) == []  # where no worker is, there is nothing to say
    with transaction(database) as connection:
        for name, one in (("a", version), ("b", version | other)):
            beat(connection, WorkerBeat(name, "host", 4, WorkerState.READY, one))
        beat(connection, WorkerBeat("c", "host", 4, WorkerState.STOPPED, {"profile": "long gone"}))

    (found,) = check_fleet(settings)

    assert (found.verdict, found.check) == (verdict, "fleet")
    assert says in found.found
    assert bool(found.todo) == bool(other)


def test_without_a_database_nothing_is_said_of_the_fleet(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"database_url": SecretStr("postgresql://app@127.0.0.1:1/none")})

    assert list(check_fleet(nowhere)) == []
