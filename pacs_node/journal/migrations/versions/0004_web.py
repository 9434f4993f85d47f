"""What the web page shows and who is logged in to it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Forward only; of what was received before, the name and the body part stay empty."""
    op.add_column("instances", sa.Column("patient_name", sa.Text(), server_default="", nullable=False))
    op.add_column(
        "instances", sa.Column("body_part", sa.String(length=64), server_default="", nullable=False)
    )
    op.add_column("roles", sa.Column("stats", sa.Text(), server_default="{}", nullable=False))
    op.create_table(
        "sessions",
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("who", sa.String(length=128), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("seen_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_who"), "sessions", ["who"], unique=False)
