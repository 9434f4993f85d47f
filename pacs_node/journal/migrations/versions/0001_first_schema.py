"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables in an empty database."""
    op.create_table(
        "node",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("namespace", sa.String(36), nullable=False),
        sa.Column("device_uid", sa.String(64), nullable=False),
    )
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study_instance_uid", sa.String(128), nullable=False, unique=True),
        sa.Column("reason", sa.Text),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("first_received_at", sa.Float(53), nullable=False),
        sa.Column("last_received_at", sa.Float(53), nullable=False, index=True),
        sa.Column("counted_revision", sa.Integer),
        sa.Column("expected", sa.Integer),
        sa.Column("missing", sa.Text, nullable=False, server_default="[]"),
        sa.Column("renewed_revision", sa.Integer, nullable=False, server_default="0"),
        *_leased("studies"),
        sa.Index(None, "state", "due_at"),
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("series_instance_uid", sa.String(128), nullable=False),
        sa.Column("sop_instance_uid", sa.String(128), nullable=False),
        sa.Column("sop_class_uid", sa.String(128), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(128), nullable=False),
        sa.Column("modality", sa.String(16), nullable=False),
        sa.Column("patient_id", sa.Text, nullable=False),
        sa.Column("patient_name", sa.Text, nullable=False, server_default=""),
        sa.Column("body_part", sa.String(64), nullable=False, server_default=""),
        sa.Column("sha256", sa.String(64), nullable=False, index=True),
        sa.Column("size", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("received_at", sa.Float(53), nullable=False),
        sa.Column("calling_ae_title", sa.String(16), nullable=False),
        sa.Column("called_ae_title", sa.String(16), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text),
        *_leased("instances"),
        sa.UniqueConstraint("sop_instance_uid", "sha256"),
        sa.Index(None, "state", "attempts", "id"),
        sa.Index(None, "study_id", "state"),
    )
    op.create_table(
        "findings",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("instance_id", sa.Integer, sa.ForeignKey("instances.id"), nullable=False),
        sa.Column("model_id", sa.String(128), nullable=False),
        sa.Column("model_key", sa.String(64), nullable=False),
        sa.Column("content_key", sa.String(64), nullable=False),
        sa.Column("probability", sa.Float(53), nullable=False),
        sa.Column("positive", sa.Boolean, nullable=False),
        sa.Column("heat_map", sa.LargeBinary, nullable=False),
        sa.Column("regions", sa.Text, nullable=False),
        sa.Column("notes", sa.Text, nullable=False),
        sa.Column("station", sa.String(64)),
        sa.Column("brightness", sa.Float(53)),
        sa.Column("created_at", sa.Float(53), nullable=False, index=True),
        sa.UniqueConstraint("instance_id", "model_key"),
    )
    op.create_table(
        "feedback",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("recorded_at", sa.Float(53), nullable=False),
        sa.Column("study_instance_uid", sa.String(128), nullable=False, index=True),
        sa.Column("sop_instance_uid", sa.String(128)),
        sa.Column("label", sa.String(16), nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.Column("region", sa.Text),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("model_id", sa.String(128)),
        sa.Column("model_key", sa.String(64)),
        sa.Column("probability", sa.Float(53)),
        sa.Column("positive", sa.Boolean),
    )
    op.create_table(
        "reports",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("studies.id"), nullable=False, index=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("inputs_key", sa.String(64), nullable=False),
        sa.Column("model_id", sa.String(128), nullable=False),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
    )
    op.create_table(
        "results",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("report_id", sa.Integer, sa.ForeignKey("reports.id"), nullable=False, index=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("studies.id"), nullable=False, index=True),
        sa.Column("instance_id", sa.Integer, sa.ForeignKey("instances.id"), index=True),
        sa.Column("role", sa.String(2), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False, unique=True),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False, index=True),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("result_id", sa.Integer, sa.ForeignKey("results.id"), nullable=False),
        sa.Column("destination", sa.String(128), nullable=False),
        sa.Column("last_status", sa.Integer),
        sa.Column("last_comment", sa.Text, nullable=False),
        sa.Column("sent_at", sa.Float(53)),
        sa.Column("transaction_uid", sa.String(64), index=True),
        sa.Column("committed_at", sa.Float(53)),
        *_leased("deliveries"),
        sa.UniqueConstraint("result_id", "destination"),
        sa.Index(None, "destination", "state", "due_at"),
    )
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("study_instance_uid", sa.String(128), index=True),
        sa.Column("sop_instance_uid", sa.String(128)),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("prev_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.bulk_insert(head, [{"id": 1, "seq": 0, "hash": "0" * 64}])
    op.create_table(
        "roles",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("address", sa.String(255), nullable=False),
        sa.Column("ready", sa.Boolean, nullable=False),
        sa.Column("seen_at", sa.Float(53), nullable=False),
        sa.Column("stats", sa.Text, nullable=False, server_default="{}"),
        sa.UniqueConstraint("role", "host", "pid"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("token", sa.String(36), nullable=False),
        sa.Column("lease_until", sa.Float(53), nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("token_sha256", sa.String(64), primary_key=True),
        sa.Column("who", sa.String(128), nullable=False, index=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("seen_at", sa.Float(53), nullable=False),
    )


def _leased(table: str) -> tuple[sa.schema.SchemaItem, ...]:
    """The columns of a queue, and an index of the few rows that are under a lease."""
    leased = sa.text("lease_token IS NOT NULL")
    return (
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("due_at", sa.Float(53), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("lease_token", sa.String(36)),
        sa.Column("lease_until", sa.Float(53), nullable=False),
        sa.Index(f"ix_{table}_lease_token", "lease_token", sqlite_where=leased, postgresql_where=leased),
    )
