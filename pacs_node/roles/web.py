"""Role `web`: the pages, /metrics and /health."""

from __future__ import annotations

import threading
from pathlib import Path

from pacs_node.config import Settings
from pacs_node.files import FileStore
from pacs_node.journal.database import open_database
from pacs_node.roles.lifecycle import Heartbeat


def run(settings: Settings, stop: threading.Event, config: Path | None) -> None:
    """Serve the pages, /metrics and /health until `stop` is set; `config` is the configuration file."""
    from pacs_node.analyze import decode, pixels
    from pacs_node.web import app
    from pacs_node.web.access import Backend
    from pacs_node.web.users import Users

    database = open_database(settings.database_url)
    files = FileStore(settings.storage.path)
    backend = Backend(
        settings,
        database,
        files,
        Users(settings.web.users),
        display=lambda sha256: pixels.prepare(decode.read(files.path(sha256))).display,
        config=config,
        stop=stop,
    )
    with Heartbeat(database, "web") as heartbeat:
        app.serve(app.create(backend), settings, heartbeat.ready, stop)
