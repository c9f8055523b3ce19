"""The `fillfleet` command: a table of names, and errors in words instead of tracebacks.

Commands of the worker and of infra are loaded by name, only when called: the base install has neither torch nor the
embedded servers, and the producer never imports the worker.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import click
from pydantic import ValidationError

from common.errors import FillfleetError


@dataclass(frozen=True)
class _Place:
    """Where a command lives, what it does in a line, and which extra of the package it needs."""

    module: str
    name: str
    line: str
    extra: str | None = None


_COMMANDS: Final = {
    "up": _Place("infra.embedded.cli", "up", "Start the whole system on this machine, servers included.", "embedded"),
    "submit": _Place("producer.cli.submit", "submit", "Bring a manifest into a batch, and start it."),
    "status": _Place("producer.cli.batches", "status", "List your batches, or show all about one."),
    "watch": _Place("producer.cli.watch", "watch", "Follow a batch to its end."),
    "results": _Place("producer.cli.results", "results", "Save a batch's table, and its outputs."),
    "retry": _Place("producer.cli.batches", "retry", "Run the failed rows of a batch again."),
    "cancel": _Place("producer.cli.batches", "cancel", "End a batch; what is done stays."),
    "pause": _Place("producer.cli.batches", "pause", "Let nothing more of a batch start."),
    "resume": _Place("producer.cli.batches", "resume", "Let a paused batch go on."),
    "report": _Place("producer.cli.report", "report", "Write an HTML page about a batch."),
    "api": _Place("producer.cli.serve", "api", "Serve the HTTP API."),
    "dispatcher": _Place("producer.cli.serve", "dispatcher", "Publish due jobs and rescue lost ones."),
    "worker": _Place("worker.cli", "worker", "Fill jobs on this machine's GPU (or CPU).", "worker"),
    "flower": _Place("producer.cli.serve", "flower", "Show the fleet in Flower, read-only."),
    "migrate": _Place("migrations.cli", "migrate", "Bring the database to the newest schema."),
    "doctor": _Place("producer.cli.doctor", "doctor", "Say what is missing on this machine, and what to do."),
    "keys": _Place("producer.cli.keys", "keys", "Create, list and revoke API keys."),
    "lora": _Place("worker.loras.cli", "lora", "Add, list and verify LoRAs.", "worker"),
}


_OUR_PACKAGES: Final = frozenset({"common", "producer", "worker", "migrations", "infra"})


class _Commands(click.Group):
    """Loads a command when it is called; its help line stands in the table, so --help loads none."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        try:
            loaded = getattr(importlib.import_module(place.module), place.name)
        except ModuleNotFoundError as error:
            _name_the_extra(cmd_name, error)
            raise
        if not isinstance(loaded, click.Command):
            raise TypeError(f"{place.module}:{place.name} is not a command")
        return loaded

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it imports only now may be missing, too."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            _name_the_extra(ctx.invoked_subcommand or "", error)
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.line) for name, place in _COMMANDS.items()])


def _name_the_extra(command: str, error: ModuleNotFoundError) -> None:
    """Raise ClickException where the package that is missing comes with an extra of this command."""
    place = _COMMANDS.get(command)
    missing = (error.name or "").partition(".")[0]
    if place is not None and place.extra is not None and missing not in _OUR_PACKAGES:
        raise click.ClickException(
            f"`fillfleet {command}` needs {missing}: pip install 'fillfleet[{place.extra}]'"
        ) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fillfleet")
def cli() -> None:
    """Fill images in bulk with FLUX.1 [dev] Fill on your own GPUs."""


def main() -> None:
    """Run the command line; a mistake or a server that is away is one clear line and exit code 1 or 2."""
    try:
        cli()
    except FillfleetError as error:
        click.echo(f"fillfleet: {error.message}", err=True)
        sys.exit(1)
    except ValidationError as error:
        for mistake in setting_mistakes(error):
            click.echo(f"fillfleet: {mistake}", err=True)
        sys.exit(2)


def setting_mistakes(error: ValidationError) -> Iterator[str]:
    """Yield what is wrong with the settings, a line each, without the values."""
    for detail in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in detail["loc"]).upper()
        reason = detail["msg"].removeprefix("Value error, ")
        yield f"{f'setting {name}: ' if name else ''}{reason}"
