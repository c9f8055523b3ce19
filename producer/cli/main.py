"""The `fillfleet` command: a table of names, and errors in words instead of tracebacks.

Commands of the worker and of infra are loaded by name, only when called: the base install has neither torch nor the
embedded servers, and the producer never imports the worker.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click
from pydantic import ValidationError

from common.errors import FillfleetError

_COMMANDS: Final = {
    "api": ("producer.cli.serve:api", None),
    "dispatcher": ("producer.cli.serve:dispatcher", None),
    "flower": ("producer.cli.serve:flower", None),
    "migrate": ("migrations.cli:migrate", None),
    "keys": ("producer.cli.keys:keys", None),
    "worker": ("worker.cli:worker", "worker"),
    "lora": ("worker.cli:lora", "worker"),
    "up": ("infra.embedded.cli:up", "embedded"),
}
"""Command -> where it lives, and the extra that it needs."""


class _Commands(click.Group):
    """Loads a command when it is called or explained."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        place, extra = _COMMANDS[cmd_name]
        module, _, name = place.partition(":")
        try:
            loaded = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if extra is None:
                raise
            return _unavailable(cmd_name, extra, error.name or "a package")
        if not isinstance(loaded, click.Command):
            raise TypeError(f"{place} is not a command")
        return loaded


def _unavailable(name: str, extra: str, missing: str) -> click.Command:
    help_text = f"Not installed here (no {missing}): pip install 'fillfleet[{extra}]'"

    @click.command(name, help=help_text, context_settings={"ignore_unknown_options": True})
    @click.argument("rest", nargs=-1)
    def explain(rest: tuple[str, ...]) -> None:
        raise click.ClickException(f"`fillfleet {name}` needs the package {missing}: pip install 'fillfleet[{extra}]'")

    return explain


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
        for detail in error.errors(include_url=False, include_input=False):
            name = ".".join(str(part) for part in detail["loc"]).upper()
            click.echo(f"fillfleet: setting {name or 'conflict'}: {detail['msg']}", err=True)
        sys.exit(2)
