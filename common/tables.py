"""The tables, as SQLAlchemy sees them; migrations/ makes the same ones, and a test compares the two.

Only common/lifecycle/ writes jobs and job_events. Every time here is the database's, never a worker's clock.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

WAITING: Final = text("status = 'created' AND publish_seq IS NULL")
PUBLISHED: Final = text("status = 'created' AND publish_seq IS NOT NULL")
RUNNING: Final = text("status = 'processing'")


def _time(name: str, *, now: bool = False, nullable: bool = True) -> Column[object]:
    default = func.now() if now else None
    return Column(name, DateTime(timezone=True), server_default=default, nullable=nullable and not now)


owners = Table(
    "owners",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    _time("created_at", now=True),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("owner_id", Uuid, ForeignKey("owners.id"), nullable=False, index=True),
    Column("hint", Text, nullable=False, comment="the first characters, to tell keys apart in a list"),
    Column("key_hash", LargeBinary, nullable=False, unique=True, comment="HMAC-SHA256 under API_KEY_SECRET"),
    Column("secret_fingerprint", LargeBinary, nullable=False, comment="tells which API_KEY_SECRET that was"),
    _time("created_at", now=True),
    _time("revoked_at"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("owner_id", Uuid, ForeignKey("owners.id"), nullable=False, index=True),
    Column("filename", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("object_key", Text, nullable=False),
    _time("created_at", now=True),
)

publish_seq = Sequence("publish_seq", metadata=metadata)
"""Orders publishes over all jobs, so that a later one's claim tells that an earlier message was lost."""

jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("owner_id", Uuid, ForeignKey("owners.id"), nullable=False),
    Column("queue", Text, nullable=False),
    Column("model", Text, nullable=False, comment="the name that the client used"),
    Column("request", JSONB, nullable=False, comment="the validated FillRequest, seed drawn"),
    Column("status", Text, nullable=False, server_default="created"),
    Column("attempt", Integer, nullable=False, server_default="0", comment="raised at every claim; fences writes"),
    Column("failures", Integer, nullable=False, server_default="0", comment="tries that count; capped"),
    _time("available_at", now=True),
    Column("publish_no", Integer, nullable=False, server_default="0", comment="messages sent for this job so far"),
    Column("publish_seq", BigInteger, comment="place of the message that is out; null where none is"),
    _time("published_at"),
    Column("worker_id", Text),
    _time("lease_until"),
    Column("on_device", Boolean, nullable=False, server_default=text("false")),
    _time("cancel_requested_at"),
    Column("pins", JSONB, nullable=False, server_default=text("'{}'"), comment="sha256 of inputs, first fetch"),
    Column("result", JSONB, comment="outputs, model version, timings"),
    Column("error_code", Text),
    Column("error", Text),
    _time("created_at", now=True),
    _time("started_at"),
    _time("ended_at"),
    _time("deleted_at"),
    CheckConstraint("status IN ('created', 'processing', 'completed', 'failed')", name="status"),
    CheckConstraint("queue IN ('interactive', 'bulk')", name="queue"),
    CheckConstraint(
        "(status = 'processing') = (lease_until IS NOT NULL AND worker_id IS NOT NULL)", name="lease_while_processing"
    ),
    CheckConstraint("(status IN ('completed', 'failed')) = (ended_at IS NOT NULL)", name="ended_when_terminal"),
    CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error_when_failed"),
    CheckConstraint("status <> 'completed' OR result IS NOT NULL", name="result_when_completed"),
)
# Each loop of the system reads a handful of rows through a partial index that holds only the rows in question.
Index("ix_jobs_waiting", jobs.c.queue, jobs.c.owner_id, jobs.c.available_at, jobs.c.id, postgresql_where=WAITING)
Index("ix_jobs_published", jobs.c.queue, jobs.c.publish_seq, postgresql_where=PUBLISHED)
Index("ix_jobs_running", jobs.c.queue, jobs.c.publish_seq, postgresql_where=RUNNING)
Index("ix_jobs_lease", jobs.c.lease_until, postgresql_where=RUNNING)
Index("ix_jobs_owner", jobs.c.owner_id, jobs.c.id)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner_id", Uuid, ForeignKey("owners.id"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("body_hash", LargeBinary, nullable=False),
    Column("job_id", Uuid, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    _time("created_at", now=True),
)

job_events = Table(
    "job_events",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("job_id", Uuid, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("event", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'")),
    _time("at", now=True),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("hostname", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("version", JSONB, nullable=False, server_default=text("'{}'"), comment="the model version"),
    _time("started_at", now=True),
    _time("last_seen_at", now=True),
    CheckConstraint("state IN ('loading', 'ready', 'draining', 'stopped')", name="state"),
)
