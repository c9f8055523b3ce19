"""What `fillfleet doctor` asks of PostgreSQL: does it answer, and has it the schema that this version needs?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from common.checkup import Check, Finding, Verdict
from common.database import make_engine, transaction
from common.errors import Unavailable
from common.settings import Settings
from common.telemetry import cut_secrets
from common.urls import place_of
from migrations.run import alembic_config

_NAME: Final = "postgres"


def check_database(settings: Settings) -> Sequence[Finding]:
    """Ask for the server's version and the schema's revision."""
    place = place_of(settings.sqlalchemy_url)
    engine = make_engine(settings, pool_size=1, application="fillfleet doctor")
    try:
        with transaction(engine) as connection:
            version = str(connection.execute(text("SHOW server_version")).scalar_one()).split()[0]
            have = frozenset(MigrationContext.configure(connection).get_current_heads())
    except Unavailable as error:
        found = f"does not answer at {place}{_reason(error)}"
        return [Finding(_NAME, Verdict.MISSING, found, "start PostgreSQL, or correct DATABASE_URL")]
    finally:
        engine.dispose()
    return [_judge_schema(f"{version} at {place}", version, have)]


def _judge_schema(server: str, version: str, have: frozenset[str]) -> Finding:
    scripts = ScriptDirectory.from_config(alembic_config())
    need = frozenset(scripts.get_heads())
    facts = {"version": version, "schema": sorted(have), "newest_schema": sorted(need)}
    if have == need:
        return Finding(_NAME, Verdict.OK, f"{server}, schema {_names(have)}", facts=facts)
    if have - {script.revision for script in scripts.walk_revisions()}:
        found = f"{server}, whose schema {_names(have)} is newer than this version knows"
        return Finding(_NAME, Verdict.WARNING, found, "install the Fillfleet that migrated it", facts)
    found = f"{server} has {f'schema {_names(have)}' if have else 'no tables yet'}, and {_names(need)} is needed"
    return Finding(_NAME, Verdict.MISSING, found, "run: fillfleet migrate", facts)


def _names(revisions: frozenset[str]) -> str:
    return ", ".join(sorted(revisions))


def _reason(error: Unavailable) -> str:
    """Return what the driver says: its FATAL line, which the server wrote, or else its first."""
    said = str(getattr(error.__cause__, "orig", "") or "").strip().splitlines()
    lines = [line for line in said if "FATAL" in line] or said[:1]
    return f": {cut_secrets(lines[0].rpartition('failed: ')[2].strip())}" if lines else ""


CHECKS: Final[Sequence[Check]] = (check_database,)
