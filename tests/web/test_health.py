"""/metrics and /health over a real server, on a real journal."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette

from pacs_node.config import Settings, StorageSettings
from pacs_node.files import FileStore
from pacs_node.journal import processes
from pacs_node.journal.database import Database, open_database
from pacs_node.records import AuditKind, RunningRole
from pacs_node.web import health
from pacs_node.web.access import Backend
from pacs_node.web.users import Users

Get = Callable[[str], tuple[int, str]]


@pytest.fixture
def database(journal_url: str) -> Iterator[Database]:
    database = open_database(journal_url)
    yield database
    database.close()


@pytest.fixture
def app(database: Database, tmp_path: Path) -> Starlette:
    app = Starlette(routes=health.routes)
    settings = Settings(storage=StorageSettings(path=tmp_path / "storage", min_free_gb=0))
    users = Users(settings.web.users)
    display = _no_display
    app.state.backend = Backend(settings, database, FileStore(settings.storage.path), users, display)
    return app


def _no_display(sha256: str) -> NDArray[np.float32]:
    raise AssertionError("no image is to be displayed")


@pytest.fixture
def get(app: Starlette, free_port: Callable[[], int], wait_until: Callable[..., None]) -> Iterator[Get]:
    """What a client gets: the status and the body."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", ws="none", lifespan="off")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, 30)

    def ask(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    yield ask
    server.should_exit = True
    thread.join()


def beat(database: Database, *names: str, ready: bool = True) -> None:
    for number, name in enumerate(names):
        processes.beat(database, RunningRole(name, "elsewhere", number, "", ready))


def test_ready_only_when_every_role_is(get: Get, database: Database) -> None:
    status, body = get("/health/ready")
    assert status == 503
    assert set(json.loads(body)["missing"]) == set(processes.ROLES)
    beat(database, *processes.ROLES)
    assert get("/health/ready") == (200, '{"ready":true,"missing":{}}')
    beat(database, processes.ROLES[0], ready=False)
    status, body = get("/health/ready")
    assert (status, json.loads(body)["missing"]) == (503, {processes.ROLES[0]: "not running or not ready"})


def test_not_ready_without_room(get: Get, app: Starlette, database: Database) -> None:
    beat(database, *processes.ROLES)
    settings = app.state.backend.settings
    storage = settings.storage.model_copy(update={"min_free_gb": 1e9})
    full = settings.model_copy(update={"storage": storage})
    app.state.backend = replace(app.state.backend, settings=full)
    status, body = get("/health/ready")
    assert (status, list(json.loads(body)["missing"])) == (503, ["disk"])
    assert get("/health/live")[0] == 200


def test_a_journal_of_another_version_is_told(
    get: Get, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat(database, *processes.ROLES)
    monkeypatch.setattr("pacs_node.journal.database.REVISION", "9999")
    for path in ("/health/live", "/health/ready"):
        status, body = get(path)
        assert (status, list(json.loads(body)["missing"])) == (503, ["journal"])


def test_metrics_are_counted_from_scrape_to_scrape(get: Get, database: Database) -> None:
    assert "pacsnode_ready 0.0\n" in get("/metrics")[1]
    beat(database, *processes.ROLES)
    database.audit(AuditKind.UNREADABLE)
    status, body = get("/metrics")
    assert status == 200
    assert "pacsnode_ready 1.0\n" in body
    assert 'pacsnode_audit_events_total{event="unreadable"} 1.0\n' in body


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=False)
def test_a_journal_that_cannot_be_read_is_told_without_details(
    get: Get, database: Database, app: Starlette
) -> None:
    assert database.path
    database.close()
    database.path.write_bytes(b"not a database" * 1000)
    for path in ("/health/live", "/health/ready"):
        status, body = get(path)
        assert (status, json.loads(body)["missing"]["journal"]) == (503, "cannot be read")
    assert get("/metrics") == (503, "the journal cannot be read\n")


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_journal_that_does_not_answer_in_time_is_told(
    get: Get, app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, end = threading.Event(), threading.Event()

    class Hanging:
        @property
        def is_current(self) -> bool:
            asked.set()
            return end.wait(60)

    app.state.backend = replace(app.state.backend, database=Hanging())
    monkeypatch.setattr(health, "ANSWER_SECONDS", 0.2)
    status, body = get("/health/live")
    assert asked.is_set()
    assert (status, json.loads(body)["missing"]) == (503, {"journal": "cannot be read"})
    end.set()
