"""Structured logs: one event a line, JSON for machines or console for people, each carrying its job and attempt.

`bind_job` sets what every line of this thread carries. No secret is ever logged: settings hold them as SecretStr, and
what looks like one inside a URL is cut out of every finished line as a last net.
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

_URL_SECRET: Final = re.compile(r"(?<=://)([^:/@\s\"']*):[^/\s\"']+(?=@)")
"""Up to the last @ before the path: an @ inside a password is a mistake that many URLs carry."""
_SIGNATURE: Final = re.compile(
    r"((?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|[?&](?:Signature|AWSAccessKeyId|sig))(?:=|%3D))"
    r"[^&\s\"'\\]+",
    re.IGNORECASE,
)
_TOKEN: Final = re.compile(r"\b(Bearer )[\w.~+/=-]{8,}|\b(hf_|ff_)[A-Za-z0-9]{20,}")
"""Of a request's header, of the hub, and our own keys."""


def cut_secrets(text: str) -> str:
    """Return `text` without passwords in URLs, signatures of presigned links, and tokens as headers carry them."""
    return _TOKEN.sub(r"\1\2…", _SIGNATURE.sub(r"\1…", _URL_SECRET.sub(r"\1:…", text)))


def configure_logging(settings: Settings, service: str, **always: str) -> None:
    """Send all logs of this process, the libraries' and their warnings too, to stderr in the chosen format.

    Each line carries the service, and what `always` says beside it.
    """

    def name_service(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        # Not by a context variable: those of this thread are unknown to all others.
        event.update(service=service, **always)
        return event

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        name_service,
    ]
    console = settings.log_format == "console"
    colours = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer(colors=colours) if console else structlog.processors.JSONRenderer()

    def render(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        return cut_secrets(renderer(logger, method, event))

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
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    # These say per request what our own events say better.
    for noisy in ("urllib3", "botocore", "boto3", "httpx", "httpx2", "PIL", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


@contextmanager
def bind_job(job: UUID, attempt: int) -> Iterator[None]:
    """Let every line that this thread logs inside the block carry the job and its attempt."""
    with structlog.contextvars.bound_contextvars(job=job.hex, attempt=attempt):
        yield
