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
    # The head of what was written so far; of an empty log, number 0 and sixty-four zeros.
    op.execute(
        "INSERT INTO audit_head (id, seq, hash) SELECT 1, coalesce(max(seq), 0), "
        "coalesce((SELECT hash FROM audit ORDER BY seq DESC LIMIT 1), '" + "0" * 64 + "') FROM audit"
    )
