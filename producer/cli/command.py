"""What the commands of batches have in common: the options for the way to the fleet, help in sections, and errors.

Whatever goes wrong becomes one line that says what to do next; Ctrl-C is no error, and a second one ends at once.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click
import structlog

from common.contract import InvalidRequest
from common.errors import FillfleetError, Transient, Unavailable
from producer.cli.connection import Access

INTERRUPTED: Final = 130
FAILED_ROWS: Final = 3
BAD_ROWS: Final = 4
GO_ON: Final = "producer.cli.go_on"
"""The key of the context's meta for what to do after Ctrl-C."""
_FLEET: Final = "Which fleet"
_ADVICE: Final = {
    "database_unavailable": "; check DATABASE_URL and that PostgreSQL runs, then give the same command again",
    "fleet_away": "; check the address and that the API runs",
    "batch_exists": " (--name NAME); `fillfleet status` with its name shows what --prompt and the like were then",
    "row_changed": " (--name NAME)",
}


class Option(click.Option):
    """An option that stands in a section of its own in the help."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class BatchCommand(click.Command):
    """A command that talks to a fleet: it is called with `access` beside its own options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["params"] = [*kwargs.get("params", ()), *_fleet_options()]
        super().__init__(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with errors in words."""
        given = ctx.params
        way = {name: given.pop(name) for name in ("url", "key", "system", "owner")}
        given["access"] = Access(**way, quiet=given.pop("quiet"))
        _logs_for_people()
        with _in_words(ctx), _second_interrupt_ends():
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by section, in the order in which the sections come first."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        sections["Options"] = sections.pop("Options", [])  # the general ones come last
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


def json_option(function: Any) -> Any:
    """Add --json: machine-readable on stdout, and nothing else there."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def _fleet_options() -> list[click.Parameter]:
    folder = click.Path(path_type=Path)
    return [
        Option(["--url"], section=_FLEET, metavar="URL", help="Its HTTP API. Default: FILLFLEET_URL."),
        Option(["--key"], section=_FLEET, metavar="KEY", help="The API key; better in FILLFLEET_API_KEY."),
        Option(
            ["--system"],
            section=_FLEET,
            type=folder,
            metavar="DIR",
            help="The one that `fillfleet up --dir DIR` runs. Default: FILLFLEET_SYSTEM.",
        ),
        Option(
            ["--owner"],
            section=_FLEET,
            metavar="NAME",
            help="Straight to the database, as this owner. Without any of these: DATABASE_URL, and FILLFLEET_OWNER "
            "or local.",
        ),
        Option(["--quiet", "-q"], is_flag=True, help="No progress and no notes."),
    ]


@contextmanager
def _in_words(ctx: click.Context) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\nstopped. {ctx.meta.get(GO_ON, 'Nothing was changed.')}", err=True)
        sys.exit(INTERRUPTED)
    except InvalidRequest as error:
        raise FillfleetError("invalid_request", str(error)) from error
    except FillfleetError as error:
        advice = _ADVICE.get(error.code, "")
        if not advice and isinstance(error, Unavailable | Transient):
            advice = "; give the same command again in a while"
        raise FillfleetError(error.code, error.message + advice) from error
    except OSError as error:
        if error.errno in {None, errno.EPIPE}:
            raise  # a reader such as `head` has gone, which click ends in silence
        name = f"{error.filename}: " if error.filename else ""
        raise FillfleetError("io_error", f"{name}{error.strerror}; mend that and try again") from error


@contextmanager
def _second_interrupt_ends() -> Iterator[None]:
    """Let the first Ctrl-C end things in order, and the next one at once: whatever is cut off can be given again."""
    asked = False

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h\n")  # the cursor, which a live display hides
            os._exit(INTERRUPTED)
        asked = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _logs_for_people() -> None:
    """Send warnings of our own to stderr as plain lines; those of libraries say nothing that our errors do not."""
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, _as_line],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    for noisy in ("urllib3", "botocore", "boto3"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


def _as_line(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    level, what = event.pop("level"), str(event.pop("event")).replace("_", " ").replace(".", " ")
    details = ", ".join(str(value) for value in event.values())
    return f"fillfleet: {level}: {what}: {details}" if details else f"fillfleet: {level}: {what}"
