"""Batches, their counts, bad rows and pinned adapters; the rows among the jobs; hosts that asked for rest; webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go one step up."""
    op.create_table(
        "source_hosts",
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column(
            "not_before", sa.DateTime(timezone=True), nullable=False, comment="it asked to be left alone until then"
        ),
        sa.PrimaryKeyConstraint("host", name=op.f("pk_source_hosts")),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="receiving", nullable=False),
        sa.Column(
            "priority", sa.SmallInteger(), server_default="5", nullable=False, comment="among the owner's own batches"
        ),
        sa.Column(
            "defaults",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="fields for rows that say nothing",
        ),
        sa.Column(
            "strict",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="any bad row stops the batch",
        ),
        sa.Column(
            "row_cursor", sa.BigInteger(), server_default="0", nullable=False, comment="the manifest is read up to here"
        ),
        sa.Column(
            "digest",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="of the rows up to the cursor, as the reader has it",
        ),
        sa.Column("rejected", sa.BigInteger(), server_default="0", nullable=False, comment="bad rows"),
        sa.Column(
            "extra_columns",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'"),
            nullable=False,
            comment="names, as they came first",
        ),
        sa.Column(
            "manifest",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="what the server itself reads; null where rows are sent",
        ),
        sa.Column(
            "intake_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="somebody reads the manifest, until then at least",
        ),
        sa.Column("error", sa.Text(), nullable=True, comment="why the manifest could not be read, or was refused"),
        sa.Column("webhook_url", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("discarded_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state IN ('cancelled', 'done')) OR ended_at IS NULL", name=op.f("ck_batches_ended_when_over")
        ),
        sa.CheckConstraint(
            "state IN ('receiving', 'open', 'paused', 'cancelled', 'done')", name=op.f("ck_batches_state")
        ),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name=op.f("ck_batches_priority")),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name=op.f("fk_batches_owner_id_owners")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index("ix_batches_owner", "batches", ["owner_id", "id"], unique=False)
    op.create_index(
        "ix_batches_under_way", "batches", ["state"], unique=False, postgresql_where=sa.text("ended_at IS NULL")
    )
    op.create_index(
        "uq_batches_name",
        "batches",
        ["owner_id", "name"],
        unique=True,
        postgresql_where=sa.text("discarded_at IS NULL"),
    )
    op.create_table(
        "batch_adapters",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_batch_adapters_batch_id_batches"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_id", "path", name=op.f("pk_batch_adapters")),
    )
    op.create_table(
        "batch_counts",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("created", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("processing", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("completed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cancelled", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_batch_counts_batch_id_batches"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_id", "shard", name=op.f("pk_batch_counts")),
        comment="jobs by state: the sum of all shards counts, one alone may well be negative",
    )
    op.create_table(
        "batch_rejects",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("row_no", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("custom_id", sa.Text(), nullable=True),
        sa.Column("place", sa.Text(), nullable=False, comment="file and line, in words"),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_batch_rejects_batch_id_batches"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_id", "row_no", name=op.f("pk_batch_rejects")),
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_webhooks_batch_id_batches"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name=op.f("fk_webhooks_owner_id_owners")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(op.f("ix_webhooks_batch_id"), "webhooks", ["batch_id"], unique=False)
    op.create_index(
        "ix_webhooks_due",
        "webhooks",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("delivered_at IS NULL AND failed_at IS NULL"),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "retryable", sa.Boolean(), nullable=True, comment="set where failed: whether the same again may work"
        ),
    )
    op.add_column("jobs", sa.Column("batch_id", sa.Uuid(), nullable=True))
    op.add_column("jobs", sa.Column("row_no", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("custom_id", sa.Text(), nullable=True))
    op.add_column(
        "jobs", sa.Column("row_hash", sa.LargeBinary(), nullable=True, comment="of the row as it was submitted")
    )
    op.add_column(
        "jobs",
        sa.Column(
            "adapters", sa.Text(), server_default="", nullable=False, comment="names the set of LoRAs; empty: none"
        ),
    )
    op.add_column(
        "jobs", sa.Column("source_host", sa.Text(), server_default="", nullable=False, comment="empty: our own bucket")
    )
    op.add_column(
        "jobs",
        sa.Column(
            "extra",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="columns that are passed through to the results",
        ),
    )
    op.create_index(
        "ix_jobs_batch_failed",
        "jobs",
        ["batch_id", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'failed' AND batch_id IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_batch_rows",
        "jobs",
        ["batch_id", "row_no"],
        unique=False,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_batch_waiting",
        "jobs",
        ["batch_id", "adapters", "source_host", "available_at", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'created' AND publish_seq IS NULL AND batch_id IS NOT NULL"),
    )
    op.create_index(
        "uq_jobs_batch_custom_id",
        "jobs",
        ["batch_id", "custom_id"],
        unique=True,
        postgresql_where=sa.text("custom_id IS NOT NULL"),
    )
    op.create_index(
        "uq_jobs_batch_row_no",
        "jobs",
        ["batch_id", "row_no"],
        unique=True,
        postgresql_where=sa.text("batch_id IS NOT NULL AND custom_id IS NULL"),
    )
    op.create_check_constraint("row_of_batch", "jobs", "(batch_id IS NULL) = (row_no IS NULL)")
    op.drop_index("ix_jobs_waiting", table_name="jobs")
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["queue", "owner_id", "available_at", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'created' AND publish_seq IS NULL AND batch_id IS NULL"),
    )


def downgrade() -> None:
    """Go one step down. Jobs of batches stay, as single jobs of the bulk queue."""
    op.drop_constraint("row_of_batch", "jobs", type_="check")
    op.drop_index("ix_jobs_waiting", table_name="jobs")
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["queue", "owner_id", "available_at", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'created' AND publish_seq IS NULL"),
    )
    op.drop_index(
        "uq_jobs_batch_row_no",
        table_name="jobs",
        postgresql_where=sa.text("batch_id IS NOT NULL AND custom_id IS NULL"),
    )
    op.drop_index("uq_jobs_batch_custom_id", table_name="jobs", postgresql_where=sa.text("custom_id IS NOT NULL"))
    op.drop_index(
        "ix_jobs_batch_waiting",
        table_name="jobs",
        postgresql_where=sa.text("status = 'created' AND publish_seq IS NULL AND batch_id IS NOT NULL"),
    )
    op.drop_index("ix_jobs_batch_rows", table_name="jobs", postgresql_where=sa.text("batch_id IS NOT NULL"))
    op.drop_index(
        "ix_jobs_batch_failed",
        table_name="jobs",
        postgresql_where=sa.text("status = 'failed' AND batch_id IS NOT NULL"),
    )
    op.drop_column("jobs", "extra")
    op.drop_column("jobs", "source_host")
    op.drop_column("jobs", "adapters")
    op.drop_column("jobs", "row_hash")
    op.drop_column("jobs", "custom_id")
    op.drop_column("jobs", "row_no")
    op.drop_column("jobs", "batch_id")
    op.drop_column("jobs", "retryable")
    op.drop_index(
        "ix_webhooks_due", table_name="webhooks", postgresql_where=sa.text("delivered_at IS NULL AND failed_at IS NULL")
    )
    op.drop_index(op.f("ix_webhooks_batch_id"), table_name="webhooks")
    op.drop_table("webhooks")
    op.drop_table("batch_rejects")
    op.drop_table("batch_counts")
    op.drop_table("batch_adapters")
    op.drop_index("uq_batches_name", table_name="batches", postgresql_where=sa.text("discarded_at IS NULL"))
    op.drop_index("ix_batches_under_way", table_name="batches", postgresql_where=sa.text("ended_at IS NULL"))
    op.drop_index("ix_batches_owner", table_name="batches")
    op.drop_table("batches")
    op.drop_table("source_hosts")
