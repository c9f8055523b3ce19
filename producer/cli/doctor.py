"""`fillfleet doctor`: looks at settings, servers, model and device, and says what is missing and what to do.

It changes nothing and shows no secret. Checks are loaded by name, as commands are (docs/decisions/0004): those of the
worker run where its extra is installed, and the producer never imports them.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import structlog
from pydantic import ValidationError
from rich.console import Console

from common.checkup import Check, Finding, Verdict
from common.errors import FillfleetError, Rejected
from common.settings import Settings
from producer.cli.connection import system_settings
from producer.cli.main import setting_mistakes

_MODULES: Final = ("migrations.checks", "producer.server_checks", "worker.checks")
"""Each has CHECKS, in the order in which their findings are shown."""
_COLOURS: Final = {Verdict.OK: "green", Verdict.NOTE: "cyan", Verdict.WARNING: "yellow", Verdict.MISSING: "red"}


@click.command()
@click.option(
    "--system",
    type=click.Path(path_type=Path),
    envvar="FILLFLEET_SYSTEM",
    metavar="DIR",
    help="Look at the system that `fillfleet up --dir DIR` runs. Default: FILLFLEET_SYSTEM, or else the settings of "
    "the environment.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(system: Path | None, as_json: bool) -> None:
    """Say what is missing on this machine, and what to do about it; nothing is changed.

    Looks at the settings, PostgreSQL, Redis, the bucket and, where the worker is installed, at the model with its
    licence, the device and the safety classifier. The exit code is 1 where something is missing.
    """
    with _silent_libraries(), Console(stderr=True).status("looking …"):
        findings = _examine(system)
    missing = sum(finding.verdict is Verdict.MISSING for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": missing == 0, "checks": [_plain(finding) for finding in findings]}))
    else:
        _show(findings, missing)
    sys.exit(1 if missing else 0)


def _examine(system: Path | None) -> list[Finding]:
    """Return all findings; the checks run side by side, since one whose server is away takes its time."""
    settings, findings = _read_settings(system)
    if settings is None:
        return findings
    checks: list[Check] = [check for name in _MODULES for check in importlib.import_module(name).CHECKS]
    with ThreadPoolExecutor(len(checks)) as pool:
        for found in pool.map(lambda check: _run(check, settings), checks):
            findings.extend(found)
    return findings


def _read_settings(system: Path | None) -> tuple[Settings | None, list[Finding]]:
    """Return the settings, if there are any, and what is to be said of them."""
    name = "settings"
    try:
        settings = Settings(**({} if system is None else system_settings(system)))
    except ValidationError as error:
        mistakes = "; ".join(setting_mistakes(error))
        todo = "correct the environment; nothing else can be looked at before"
        return None, [Finding(name, Verdict.MISSING, mistakes, todo)]
    except FillfleetError as error:
        return None, [Finding(name, Verdict.MISSING, "nothing to look at", error.message)]
    source = "the environment" if system is None else str(system)
    found = f"{settings.fillfleet_env.value}, from {source}"
    try:
        settings.secret("api_key_secret")
    except Rejected as error:  # which keeps the API from starting, but no worker and no dispatcher
        return settings, [Finding(name, Verdict.WARNING, f"{found}; no API starts on them", error.message)]
    return settings, [Finding(name, Verdict.OK, found)]


def _run(check: Check, settings: Settings) -> Sequence[Finding]:
    name = check.__name__.removeprefix("check_")
    try:
        return check(settings)
    except FillfleetError as error:
        found, todo = "is not as it should be", error.message
    except ModuleNotFoundError as error:
        found, todo = f"needs {error.name}, which is not installed", "install Fillfleet with its extras again"
    except Exception as error:  # noqa: BLE001 - what breaks one check must not hide what the others found
        found, todo = f"could not be looked at ({type(error).__name__})", "please report it: the check has a defect"
    return [Finding(name, Verdict.MISSING, found, todo)]


def _show(findings: Sequence[Finding], missing: int) -> None:
    wide = max(len(finding.check) for finding in findings)
    for finding in findings:
        verdict = click.style(f"{finding.verdict.value:<7}", fg=_COLOURS[finding.verdict])
        click.echo(f"{verdict}  {finding.check:<{wide}}  {finding.found}")
        if finding.todo:
            click.echo(f"{'':7}  {'':{wide}}  → {finding.todo}")
    click.echo(f"\n{f'{missing} missing' if missing else 'Nothing is missing.'}")


def _plain(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "verdict": finding.verdict.value,
        "found": finding.found,
        "todo": finding.todo or None,
        **finding.facts,
    }


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Log nothing: the findings say the same in words for the operator, and stdout is theirs alone."""
    disabled, config = logging.root.manager.disable, structlog.get_config()
    logging.disable(logging.CRITICAL)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        logging.disable(disabled)
        structlog.configure(**config)
