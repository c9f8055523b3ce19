"""Structured logs: one event a line, JSON for machines or console for people, each carrying its job and attempt.

`bind_job` sets what every line of this thread carries. No secret is ever logged: settings hold them as SecretStr, and
what looks like a password inside a URL is cut out here as a last net.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

import structlog

from common.settings import Settings

_URL_SECRET: Final = re.compile(r"(?<=://)([^:/@\s]*):([^@/\s]+)(?=@)")
_SIGNATURE: Final = re.compile(r"(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"']+", re.IGNORECASE)


def cut_secrets(text: str) -> str:
    """Return `text` without passwords in URLs and without the signatures of presigned links."""
    return _SIGNATURE.sub(r"\1…", _URL_SECRET.sub(r"\1:…", text))


def _cut(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = cut_secrets(value)
    return event


def configure_logging(settings: Settings, service: str) -> None:
    """Send all logs of this process, the libraries' too, to stderr in the chosen format."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _cut,
    ]
    console = settings.log_format == "console"
    colours = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer(colors=colours) if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    # These say per request what our own events say better.
    for noisy in ("urllib3", "botocore", "boto3", "httpx", "PIL", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(service=service)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


@contextmanager
def bind_job(job: UUID, attempt: int) -> Iterator[None]:
    """Let every line that this thread logs inside the block carry the job and its attempt."""
    with structlog.contextvars.bound_contextvars(job=job.hex, attempt=attempt):
        yield
