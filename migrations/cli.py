"""`fillfleet migrate`: brings the database to the newest schema and makes the bucket where it is missing."""

from __future__ import annotations

import click
from sqlalchemy.exc import OperationalError

from common.errors import Unavailable
from common.objects import Objects
from common.settings import get_settings
from migrations.run import upgrade


@click.command()
@click.option("--bucket/--no-bucket", default=True, show_default=True, help="Also make the S3 bucket if it is missing.")
def migrate(bucket: bool) -> None:
    """Upgrade the database to the newest schema; safe to run at every deployment, from several places at once."""
    settings = get_settings()
    objects = Objects(settings) if bucket else None  # refuses a default secret before anything is changed
    try:
        upgrade(settings.sqlalchemy_url)
    except OperationalError as error:
        raise Unavailable(
            "database_unavailable", "the database does not answer; check DATABASE_URL and that Postgres runs"
        ) from error
    if objects is not None:
        objects.ensure_bucket()
    click.echo(f"database is up to date{'; bucket is there' if bucket else ''}")
