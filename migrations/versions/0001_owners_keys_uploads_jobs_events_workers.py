"""Owners, keys, uploads, jobs, events, workers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateSequence, DropSequence

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go one step up."""
    op.execute(CreateSequence(sa.Sequence("publish_seq")))
    op.create_table(
        "owners",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_owners"),
        sa.UniqueConstraint("name", name="uq_owners_name"),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column(
            "version",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="the model version",
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('loading', 'ready', 'draining', 'stopped')", name=op.f("ck_workers_state")),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False, comment="the first characters, to tell keys apart in a list"),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False, comment="HMAC-SHA256 under API_KEY_SECRET"),
        sa.Column(
            "secret_fingerprint", sa.LargeBinary(), nullable=False, comment="tells which API_KEY_SECRET that was"
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name="fk_api_keys_owner_id_owners"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("key_hash", name="uq_api_keys_key_hash"),
    )
    op.create_index("ix_api_keys_owner_id", "api_keys", ["owner_id"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False, comment="the name that the client used"),
        sa.Column(
            "request",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="the validated FillRequest, seed drawn",
        ),
        sa.Column("status", sa.Text(), server_default="created", nullable=False),
        sa.Column(
            "attempt", sa.Integer(), server_default="0", nullable=False, comment="raised at every claim; fences writes"
        ),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False, comment="tries that count; capped"),
        sa.Column("available_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "publish_no", sa.Integer(), server_default="0", nullable=False, comment="messages sent for this job so far"
        ),
        sa.Column(
            "publish_seq",
            sa.BigInteger(),
            nullable=True,
            comment="place of the message that is out; null where none is",
        ),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("on_device", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "pins",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="sha256 of inputs, first fetch",
        ),
        sa.Column(
            "result", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="outputs, model version, timings"
        ),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name=op.f("ck_jobs_error_when_failed")),
        sa.CheckConstraint(
            "(status = 'processing') = (lease_until IS NOT NULL AND worker_id IS NOT NULL)",
            name=op.f("ck_jobs_lease_while_processing"),
        ),
        sa.CheckConstraint(
            "(status IN ('completed', 'failed')) = (ended_at IS NOT NULL)", name=op.f("ck_jobs_ended_when_terminal")
        ),
        sa.CheckConstraint("queue IN ('interactive', 'bulk')", name=op.f("ck_jobs_queue")),
        sa.CheckConstraint("status <> 'completed' OR result IS NOT NULL", name=op.f("ck_jobs_result_when_completed")),
        sa.CheckConstraint("status IN ('created', 'processing', 'completed', 'failed')", name=op.f("ck_jobs_status")),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name="fk_jobs_owner_id_owners"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index(
        "ix_jobs_lease", "jobs", ["lease_until"], unique=False, postgresql_where=sa.text("status = 'processing'")
    )
    op.create_index("ix_jobs_owner", "jobs", ["owner_id", "id"], unique=False)
    op.create_index(
        "ix_jobs_published",
        "jobs",
        ["queue", "publish_seq"],
        unique=False,
        postgresql_where=sa.text("status = 'created' AND publish_seq IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_running",
        "jobs",
        ["queue", "publish_seq"],
        unique=False,
        postgresql_where=sa.text("status = 'processing'"),
    )
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["queue", "owner_id", "available_at", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'created' AND publish_seq IS NULL"),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name="fk_uploads_owner_id_owners"),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_owner_id", "uploads", ["owner_id"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_hash", sa.LargeBinary(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_idempotency_keys_job_id_jobs", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name="fk_idempotency_keys_owner_id_owners"),
        sa.PrimaryKeyConstraint("owner_id", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_job_id", "idempotency_keys", ["job_id"], unique=False)
    op.create_table(
        "job_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_events_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_job_events"),
    )
    op.create_index("ix_job_events_job_id", "job_events", ["job_id"], unique=False)


def downgrade() -> None:
    """Go back."""
    op.drop_index("ix_job_events_job_id", table_name="job_events")
    op.drop_table("job_events")
    op.drop_index("ix_idempotency_keys_job_id", table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_index("ix_uploads_owner_id", table_name="uploads")
    op.drop_table("uploads")
    op.drop_index(
        "ix_jobs_waiting", table_name="jobs", postgresql_where=sa.text("status = 'created' AND publish_seq IS NULL")
    )
    op.drop_index("ix_jobs_running", table_name="jobs", postgresql_where=sa.text("status = 'processing'"))
    op.drop_index(
        "ix_jobs_published",
        table_name="jobs",
        postgresql_where=sa.text("status = 'created' AND publish_seq IS NOT NULL"),
    )
    op.drop_index("ix_jobs_owner", table_name="jobs")
    op.drop_index("ix_jobs_lease", table_name="jobs", postgresql_where=sa.text("status = 'processing'"))
    op.drop_table("jobs")
    op.drop_index("ix_api_keys_owner_id", table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_table("workers")
    op.drop_table("owners")
    op.execute(DropSequence(sa.Sequence("publish_seq")))
