"""What the shell offers on Tab: names of destinations, and studies."""

from __future__ import annotations

from pathlib import Path

import typer

from pacs_node.config import Settings, load
from pacs_node.errors import PacsNodeError

STUDIES = 30
"""So many of the studies that were last heard of are offered."""


def destinations(context: typer.Context, incomplete: str) -> list[str]:
    """The configured destinations."""
    settings = _settings(context)
    names = [destination.name for destination in settings.destinations] if settings else []
    return [name for name in names if name.startswith(incomplete)]


def studies(context: typer.Context, incomplete: str) -> list[str]:
    """Study Instance UIDs, the newest first."""
    from pacs_node.journal import views
    from pacs_node.journal.database import Database

    try:
        settings = _settings(context)
        database = Database(settings.database_url) if settings else None
        rows = views.studies(database, STUDIES) if database and database.is_current else []
    except PacsNodeError:
        return []
    uids = [row["study_instance_uid"] for row in rows]
    return [uid for uid in uids if uid.startswith(incomplete)]


def _settings(context: typer.Context) -> Settings | None:
    """As the root callback would read them, which does not run here; None where they are wrong."""
    default = Path("config.toml")
    given: Path | None = context.find_root().params.get("config")
    try:
        return load(given or (default if default.is_file() else None))
    except PacsNodeError:
        return None
