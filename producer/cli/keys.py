"""`fillfleet keys`: makes, lists and revokes API keys. A key is printed once, when it is made, and stored nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import click
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection

from common.database import make_engine, transaction
from common.settings import Settings, get_settings
from producer import keys as api_keys
from producer.keys import KeyInfo


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.option("--owner", required=True, help="Whose jobs the key sees; made with its first key.")
@click.option("--new-secret", is_flag=True, help="API_KEY_SECRET was changed on purpose: all older keys are void.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(owner: str, new_secret: bool, as_json: bool) -> None:
    """Make a key and print it: this is the only time that it is shown."""
    settings = get_settings()
    with _database(settings) as connection:
        key = api_keys.create(connection, owner, settings, new_secret=new_secret)
    if as_json:
        click.echo(json.dumps({"id": key.id.hex, "owner": key.owner_name, "hint": key.hint, "key": key.text}))
        return
    click.echo(key.text)
    click.echo(f"Key {key.hint}… of {key.owner_name}. Store it now: it cannot be shown again.", err=True)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List all keys, revoked ones too; never the keys themselves."""
    with _database(get_settings()) as connection:
        found = api_keys.list_keys(connection)
    if as_json:
        click.echo(json.dumps([_plain(key) for key in found]))
        return
    table = Table("owner", "hint", "id", "created", "revoked")
    for key in found:
        table.add_row(key.owner_name, key.hint, key.id.hex, _day(key.created_at), _day(key.revoked_at))
    Console().print(table if found else "No keys yet; make one with `fillfleet keys create --owner NAME`.")


@keys.command()
@click.argument("name", metavar="ID-OR-HINT")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def revoke(name: str, as_json: bool) -> None:
    """Revoke a key: it stops working at once, and its owner's other keys go on."""
    settings = get_settings()
    with _database(settings) as connection:
        key = api_keys.revoke(connection, name, settings)
    click.echo(json.dumps(_plain(key)) if as_json else f"Key {key.hint}… of {key.owner_name} is revoked.")


@contextmanager
def _database(settings: Settings) -> Iterator[Connection]:
    engine = make_engine(settings, pool_size=1, application="fillfleet keys")
    try:
        with transaction(engine) as connection:
            yield connection
    finally:
        engine.dispose()


def _plain(key: KeyInfo) -> dict[str, str | None]:
    return {
        "id": key.id.hex,
        "owner": key.owner_name,
        "hint": key.hint,
        "created_at": key.created_at.isoformat(),
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }


def _day(time: datetime | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M") if time else "-"
