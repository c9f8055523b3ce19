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
    SmallInteger,
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

PUBLISHED: Final = text("status = 'created' AND publish_seq IS NOT NULL")
RUNNING: Final = text("status = 'processing'")
COUNTED: Final = ("created", "processing", "completed", "failed", "cancelled")
"""The four states of a batch's jobs, and how many of the failed ones were cancelled."""


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

batches = Table(
    "batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("owner_id", Uuid, ForeignKey("owners.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="receiving"),
    Column("priority", SmallInteger, nullable=False, server_default="5", comment="among the owner's own batches"),
    Column("defaults", JSONB, nullable=False, server_default=text("'{}'"), comment="fields for rows that say nothing"),
    Column("strict", Boolean, nullable=False, server_default=text("false"), comment="any bad row stops the batch"),
    Column("row_cursor", BigInteger, nullable=False, server_default="0", comment="the manifest is read up to here"),
    Column(
        "digest", Text, nullable=False, server_default="", comment="of the rows up to the cursor, as the reader has it"
    ),
    Column("rejected", BigInteger, nullable=False, server_default="0", comment="bad rows"),
    Column("extra_columns", JSONB, nullable=False, server_default=text("'[]'"), comment="names, as they came first"),
    Column("manifest", JSONB, comment="what the server itself reads; null where rows are sent"),
    Column("intake_until", DateTime(timezone=True), comment="somebody reads the manifest, until then at least"),
    Column("error", Text, comment="why the manifest could not be read, or was refused"),
    Column("webhook_url", Text),
    _time("created_at", now=True),
    _time("opened_at"),
    _time("ended_at"),
    _time("discarded_at"),
    CheckConstraint("state IN ('receiving', 'open', 'paused', 'cancelled', 'done')", name="state"),
    CheckConstraint("priority BETWEEN 0 AND 9", name="priority"),
    CheckConstraint("(state IN ('cancelled', 'done')) OR ended_at IS NULL", name="ended_when_over"),
)
Index("uq_batches_name", batches.c.owner_id, batches.c.name, unique=True, postgresql_where=text("discarded_at IS NULL"))
Index("ix_batches_owner", batches.c.owner_id, batches.c.id)
Index("ix_batches_under_way", batches.c.state, postgresql_where=text("ended_at IS NULL"))

batch_counts = Table(
    "batch_counts",
    metadata,
    Column("batch_id", Uuid, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    *(Column(name, BigInteger, nullable=False, server_default="0") for name in COUNTED),
    comment="jobs by state: the sum of all shards counts, one alone may well be negative",
)

batch_rejects = Table(
    "batch_rejects",
    metadata,
    Column("batch_id", Uuid, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("row_no", BigInteger, primary_key=True, autoincrement=False),
    Column("custom_id", Text),
    Column("place", Text, nullable=False, comment="file and line, in words"),
    Column("field", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("reason", Text, nullable=False),
)

batch_adapters = Table(
    "batch_adapters",
    metadata,
    Column("batch_id", Uuid, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("path", Text, primary_key=True),
    Column("sha256", Text, nullable=False),
    Column("revision", Text),
)

source_hosts = Table(
    "source_hosts",
    metadata,
    Column("host", Text, primary_key=True),
    Column("not_before", DateTime(timezone=True), nullable=False, comment="it asked to be left alone until then"),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("owner_id", Uuid, ForeignKey("owners.id"), nullable=False),
    Column("batch_id", Uuid, ForeignKey("batches.id", ondelete="CASCADE"), index=True),
    Column("event", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("body", JSONB, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    _time("due_at", now=True),
    _time("delivered_at"),
    _time("failed_at"),
    Column("last_error", Text),
    _time("created_at", now=True),
)
Index("ix_webhooks_due", webhooks.c.due_at, postgresql_where=text("delivered_at IS NULL AND failed_at IS NULL"))

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
    Column("retryable", Boolean, comment="set where failed: whether the same again may work"),
    # A job of a batch. No foreign key: intake writes a million rows, and batches are never deleted below their jobs.
    Column("batch_id", Uuid),
    Column("row_no", BigInteger),
    Column("custom_id", Text),
    Column("row_hash", LargeBinary, comment="of the row as it was submitted"),
    Column("adapters", Text, nullable=False, server_default="", comment="names the set of LoRAs; empty: none"),
    Column("source_host", Text, nullable=False, server_default="", comment="empty: our own bucket"),
    Column("extra", JSONB, comment="columns that are passed through to the results"),
    CheckConstraint("(batch_id IS NULL) = (row_no IS NULL)", name="row_of_batch"),
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
Index(
    "ix_jobs_waiting",
    jobs.c.queue,
    jobs.c.owner_id,
    jobs.c.available_at,
    jobs.c.id,
    postgresql_where=text("status = 'created' AND publish_seq IS NULL AND batch_id IS NULL"),
)
Index(
    "ix_jobs_batch_waiting",
    jobs.c.batch_id,
    jobs.c.adapters,
    jobs.c.source_host,
    jobs.c.available_at,
    jobs.c.id,
    postgresql_where=text("status = 'created' AND publish_seq IS NULL AND batch_id IS NOT NULL"),
)
Index("ix_jobs_batch_rows", jobs.c.batch_id, jobs.c.row_no, postgresql_where=text("batch_id IS NOT NULL"))
# A row's identity: its custom_id, or its number where it has none.
Index(
    "uq_jobs_batch_custom_id",
    jobs.c.batch_id,
    jobs.c.custom_id,
    unique=True,
    postgresql_where=text("custom_id IS NOT NULL"),
)
Index(
    "uq_jobs_batch_row_no",
    jobs.c.batch_id,
    jobs.c.row_no,
    unique=True,
    postgresql_where=text("batch_id IS NOT NULL AND custom_id IS NULL"),
)
# What is left of a batch to cancel or to retry is found without reading the rest.
Index(
    "ix_jobs_batch_failed",
    jobs.c.batch_id,
    jobs.c.id,
    postgresql_where=text("status = 'failed' AND batch_id IS NOT NULL"),
)
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
