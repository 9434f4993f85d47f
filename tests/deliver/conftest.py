"""A journal and a file store on the real clock."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_node.files import FileStore
from pacs_node.journal.database import Database


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "storage")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/journal.sqlite")
    database.migrate()
    yield database
    database.close()
