"""The first schema.

Nothing to do: a new database is made from `schema` as it is and marked as being at the newest migration.
Only databases of a released version pass through the migrations that follow this one.
"""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Forward only."""
