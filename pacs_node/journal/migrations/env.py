"""Alembic's environment: runs on the connection that `Database.migrate` hands over."""

from alembic import context

from pacs_node.journal.schema import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
context.run_migrations()
