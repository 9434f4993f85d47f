"""One node: what its processes share."""

from __future__ import annotations

from dataclasses import dataclass

from pacs_node.config import Settings
from pacs_node.files import FileStore
from pacs_node.journal.database import Database, open_database
from pacs_node.records import NodeIdentity


@dataclass(frozen=True, slots=True)
class Node:
    """A node's settings, journal, files and identity."""

    settings: Settings
    database: Database
    files: FileStore
    identity: NodeIdentity

    @classmethod
    def open(cls, settings: Settings) -> Node:
        """Open the journal and the files that the settings name."""
        database = open_database(settings.database_url)
        identity = database.identity(settings.node.ae_title)
        return cls(settings, database, FileStore(settings.storage.path), identity)
