"""Logs are one JSON object a line, say which service, job and attempt they are of, and hold no secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from common.telemetry import cut_secrets

ROOT = Path(__file__).parents[2]
JOB = "0199c0de000070008000000000000001"

PROGRAM = f"""
import logging, threading, warnings
from uuid import UUID
from common.settings import Environment, Settings
from common.telemetry import bind_job, configure_logging, get_logger
log = get_logger("worker.task")
configure_logging(Settings(fillfleet_env=Environment.TEST), "worker", gpu="0:1")
log.info("before")
with bind_job(UUID("{JOB}"), 3):
    log.info("inside", images=2)
    logging.getLogger("a.library").warning("said %s", "this")
    thread = threading.Thread(target=lambda: log.info("elsewhere"))
    thread.start()
    thread.join()
    try:
        raise OSError("cannot reach postgresql://app:hunter2@db/fillfleet")
    except OSError:
        log.exception("failed")
log.info("after")
log.info("nested", answer={{"url": "redis://:hunter2@redis:6379/0"}}, error=ValueError("https://u:hunter2@host/a"))
log.warning("two\\nlines", text="caf\\u00e9 \\ud800 \\x00")
library = logging.getLogger("a.library")
library.error("GET https://s3/b/k?X-Amz-Signature=hunter2", extra={{"header": "Bearer hunter2hunter2"}})
warnings.warn("a library is old")
logging.getLogger("urllib3").info("noise")
log.debug("too quiet")
"""


def run(program: str, **env: str) -> list[str]:
    """Return what a process that runs `program` writes to stderr, line by line."""
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | env, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return done.stderr.splitlines()


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """What the program logs."""
    return run(PROGRAM)


@pytest.fixture(scope="module")
def events(lines: list[str]) -> Mapping[str, Mapping[str, Any]]:
    """The same, parsed, by event."""
    parsed = [json.loads(line) for line in lines]
    return {event["event"]: event for event in parsed}


def test_every_line_is_one_json_object_with_time_level_logger_and_service(
    lines: list[str], events: Mapping[str, Mapping[str, Any]]
) -> None:
    assert len(lines) == len(events)
    for event in events.values():
        assert {"timestamp", "level", "logger", "service"} <= event.keys()
        assert (event["service"], event["gpu"]) == ("worker", "0:1"), "also in threads that were started later"


def test_a_jobs_lines_carry_job_and_attempt_also_those_of_libraries(events: Mapping[str, Mapping[str, Any]]) -> None:
    for name in ("inside", "said this", "failed"):
        assert (events[name]["job"], events[name]["attempt"]) == (JOB, 3)
    for name in ("before", "after", "elsewhere"):
        assert "job" not in events[name]
    assert events["inside"]["images"] == 2


def test_an_exception_is_logged_with_its_traceback_in_its_line(events: Mapping[str, Mapping[str, Any]]) -> None:
    assert "Traceback" in events["failed"]["exception"]
    assert "OSError: cannot reach postgresql://app:…@db/fillfleet" in events["failed"]["exception"]


def test_no_secret_is_in_any_line_wherever_it_was_hidden(lines: list[str]) -> None:
    assert not [line for line in lines if "hunter2" in line]


def test_a_librarys_warning_is_a_line_like_any_other(lines: list[str]) -> None:
    assert sum("a library is old" in line for line in lines) == 1


def test_what_is_below_the_level_or_noise_is_left_out(events: Mapping[str, Mapping[str, Any]]) -> None:
    assert not {"noise", "too quiet"} & events.keys()


def test_the_console_format_holds_the_same_and_no_secret_either() -> None:
    text = "\n".join(run(PROGRAM, LOG_FORMAT="console"))
    assert "inside" in text
    assert JOB in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("postgresql://app:s3cret@db:5432/x", "postgresql://app:…@db:5432/x"),
        ("redis://:s3cret@redis/0", "redis://:…@redis/0"),
        ("https://u:p@ss@w@host/a@b", "https://u:…@host/a@b"),
        ("a://u:one@h b://v:two@i", "a://u:…@h b://v:…@i"),
        ("http://host:8333/bucket/key@2x.png", "http://host:8333/bucket/key@2x.png"),
        ("mail me@example.com", "mail me@example.com"),
        ("/k?X-Amz-Credential=AKIA%2Fx&X-Amz-Date=1", "/k?X-Amz-Credential=…&X-Amz-Date=1"),
        ("/k?X-Amz-Date=1&X-Amz-Signature=abc", "/k?X-Amz-Date=1&X-Amz-Signature=…"),
        ("/k?x-amz-security-token=abc'", "/k?x-amz-security-token=…'"),
        ("/k?next=https://s/b?X-Amz-Signature%3Dabc", "/k?next=https://s/b?X-Amz-Signature%3D…"),
        ("/k?X-Goog-Signature=abc&x=1", "/k?X-Goog-Signature=…&x=1"),
        ("/k?sv=1&sig=abc%3D&se=2", "/k?sv=1&sig=…&se=2"),
        ("/k?AWSAccessKeyId=AKIA&Signature=abc", "/k?AWSAccessKeyId=…&Signature=…"),
        ("Authorization: Bearer ff_abcdefgh", "Authorization: Bearer …"),
        ("hf_abcdefghijklmnopqrstuvwxyz0123456789", "hf_…"),
        ("in hf_hub_download(token=hf_token_or_none)", "in hf_hub_download(token=hf_token_or_none)"),
        (f"key ff_{'0aZ' * 15}x is new", "key ff_… is new"),
        ("signature=(a, b)", "signature=(a, b)"),
    ],
)
def test_what_looks_like_a_secret_is_cut_and_nothing_else(text: str, cut: str) -> None:
    assert cut_secrets(text) == cut
