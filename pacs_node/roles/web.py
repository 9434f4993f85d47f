"""Role `web`: the pages, /metrics and /health."""

from __future__ import annotations

import threading
from pathlib import Path

from pacs_node.config import Settings
from pacs_node.node import Node
from pacs_node.roles.lifecycle import Heartbeat


def run(settings: Settings, stop: threading.Event, config: Path | None) -> None:
    """Serve the pages, /metrics and /health until `stop` is set; `config` is the configuration file."""
    from pacs_node.analyze import decode, pixels
    from pacs_node.web import app
    from pacs_node.web.access import Backend
    from pacs_node.web.users import Users

    node = Node.open(settings)
    backend = Backend(
        settings,
        node.database,
        node.files,
        Users(settings.web.users),
        display=lambda sha256: pixels.prepare(decode.read(node.files.path(sha256))).display,
        config=config,
        stop=stop,
    )
    with Heartbeat(node.database, "web") as heartbeat:
        app.serve(app.create(backend), settings, heartbeat.ready, stop)
