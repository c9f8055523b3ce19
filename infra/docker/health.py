"""What a container's health check runs: exit code 0 is healthy, 1 is not, with the reason on stderr.

It must never write anything, and needs nothing beyond the base install.
"""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException

import click

_SECONDS = 3.0


@click.group()
def health() -> None:
    """Check the process of this container."""


@health.command()
@click.argument("port", type=click.IntRange(1, 65535))
@click.argument("path")
def http(port: int, path: str) -> None:
    """Healthy where PATH on this container's PORT answers 200."""
    # http.client knows no proxies: the address is our own.
    connection = HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (HTTPException, OSError) as error:
        raise click.ClickException(f"port {port}, {path}: {error}") from error
    finally:
        connection.close()
    if status != 200:
        raise click.ClickException(f"port {port}, {path}: HTTP {status}")


@health.command()
@click.argument("seconds", type=click.FloatRange(min=1))
def polling(seconds: float) -> None:
    """Healthy where another connection of this host used Postgres within the last SECONDS.

    The dispatcher has no port, but its loop asks Postgres every DISPATCHER_POLL_SECONDS: one that hangs, or that
    lost the database, falls silent there.
    """
    # Imported here, since the check over HTTP runs every few seconds in more places.
    import psycopg

    from common.settings import get_settings

    url = get_settings().sqlalchemy_url.replace("postgresql+psycopg://", "postgresql://", 1)
    try:
        with psycopg.connect(url, connect_timeout=int(_SECONDS)) as connection:
            row = connection.execute(
                "SELECT extract(epoch FROM clock_timestamp() - max(state_change))::float8 FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND client_addr = inet_client_addr()"
            ).fetchone()
    except psycopg.Error as error:
        raise click.ClickException("the database does not answer") from error
    silent = row[0] if row else None
    if silent is None:
        raise click.ClickException("no connection to the database")
    if silent > seconds:
        raise click.ClickException(f"silent towards the database for {silent:.0f} s")


if __name__ == "__main__":
    health()
