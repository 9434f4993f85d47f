"""Role `web`: the pages, /metrics and /health."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

from pacs_node.config import Settings
from pacs_node.files import FileStore
from pacs_node.journal.database import open_database
from pacs_node.roles.lifecycle import Heartbeat


def run(settings: Settings, stop: threading.Event, config: Path | None) -> None:
    """The role that serves the pages, /metrics and /health."""
    from pacs_node.analyze import decode, pixels
    from pacs_node.web import app, server

    database = open_database(settings.database_url)
    files = FileStore(settings.storage.path)
    services = app.Services(
        display=lambda sha256: pixels.prepare(decode.read(files.path(sha256))).display,
        try_out=partial(server.try_out, config),
    )
    with Heartbeat(database, "web") as heartbeat:
        pages = app.create(settings, database, files, services, stop)
        server.run(pages, settings, heartbeat.ready, stop)
