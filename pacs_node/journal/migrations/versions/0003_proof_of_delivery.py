"""What the PACS says of a study's images and of our results, and the head of the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Forward only."""
    op.add_column("studies", sa.Column("counted_revision", sa.Integer(), nullable=True))
    op.add_column("studies", sa.Column("expected", sa.Integer(), nullable=True))
    op.add_column("studies", sa.Column("missing", sa.Text(), server_default="[]", nullable=False))
    op.add_column("studies", sa.Column("renewed_revision", sa.Integer(), server_default="0", nullable=False))
    op.add_column("deliveries", sa.Column("transaction_uid", sa.String(length=64), nullable=True))
    op.add_column("deliveries", sa.Column("committed_at", sa.Float(precision=53), nullable=True))
    op.create_index(op.f("ix_deliveries_transaction_uid"), "deliveries", ["transaction_uid"], unique=False)
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    # For a journal of many studies: claims in their order, what is held, the newest studies.
    op.drop_index(op.f("ix_instances_state_due_at"), table_name="instances")
    op.drop_index(op.f("ix_instances_study_id"), table_name="instances")
    op.create_index(
        op.f("ix_instances_state_attempts_id"), "instances", ["state", "attempts", "id"], unique=False
    )
    op.create_index(op.f("ix_instances_study_id_state"), "instances", ["study_id", "state"], unique=False)
    op.create_index(op.f("ix_studies_last_received_at"), "studies", ["last_received_at"], unique=False)
    # For retention: which rows name a file, or an image that is to be deleted.
    for table, column in (("instances", "sha256"), ("results", "sha256"), ("results", "instance_id")):
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column], unique=False)
    held = sa.text("lease_token IS NOT NULL")
    for table in ("studies", "instances", "deliveries"):
        op.create_index(
            op.f(f"ix_{table}_lease_token"),
            table,
            ["lease_token"],
            unique=False,
            sqlite_where=held,
            postgresql_where=held,
        )
    if op.get_bind().dialect.name == "postgresql":
        # SQLite's integers have 64 bits anyway.
        op.alter_column("instances", "size", type_=sa.BigInteger(), existing_nullable=False)
    # The head of what was written so far; of an empty log, number 0 and sixty-four zeros.
    op.execute(
        "INSERT INTO audit_head (id, seq, hash) SELECT 1, coalesce(max(seq), 0), "
        "coalesce((SELECT hash FROM audit ORDER BY seq DESC LIMIT 1), '" + "0" * 64 + "') FROM audit"
    )
