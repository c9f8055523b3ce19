"""A gate in front of a batch's last rows: whoever brings them waits there, and so can be killed in the middle for sure.

The gate is in the database: a chunk is stopped inside its transaction, by a lock that the test holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Engine, text

_KEY: Final = 7_001
_GATE: Final = """
    CREATE OR REPLACE FUNCTION wait_at_the_gate() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock({key}); RETURN NEW; END $$;
    CREATE OR REPLACE TRIGGER gate BEFORE UPDATE OF row_cursor ON batches
        FOR EACH ROW WHEN (NEW.row_cursor > {rows}) EXECUTE FUNCTION wait_at_the_gate();
"""


@contextmanager
def no_more_rows_than(engine: Engine, rows: int) -> Iterator[None]:
    """Let no batch of this database take in its rows beyond so many, until the block ends.

    Who waits gives up after the lock_timeout of every connection of ours: long enough to be found there.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as gate:
        gate.execute(text(_GATE.format(key=_KEY, rows=rows)))
        gate.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _KEY})
        try:
            yield
        finally:
            gate.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _KEY})
