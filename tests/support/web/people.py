"""The pages on a real journal, served in this process, and users who may log in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from starlette.applications import Starlette

from pacs_node.config import Settings, StorageSettings, WebSettings
from pacs_node.files import FileStore
from pacs_node.journal import audit
from pacs_node.journal.database import Database
from pacs_node.web import app
from pacs_node.web.access import Backend
from pacs_node.web.users import Role, Users
from support.web.site import ROLES, password

PROXY, STRANGER = "127.0.0.7", "127.0.0.9"
"""Addresses of this machine: a trusted proxy's, and another one than 127.0.0.1."""


def write_users(path: Path) -> None:
    """Write the users file for the people in `site.ROLES`."""
    users = Users(path)
    for name in ROLES:
        users.set(name, Role(name), password(name))


@dataclass
class Door:
    """The running application: its address, journal and files."""

    app: Starlette
    url: str
    database: Database
    settings: Settings
    clients: ExitStack

    def client(self, host: str = "127.0.0.1", **headers: str) -> httpx.Client:
        """A separate HTTP client from this address, which follows no redirects."""
        given = {"Accept": "text/html", **{name.replace("_", "-"): value for name, value in headers.items()}}
        transport = httpx.HTTPTransport(local_address=host)
        return self.clients.enter_context(
            httpx.Client(base_url=self.url, transport=transport, headers=given, timeout=30)
        )

    def enter(self, name: str, host: str = "127.0.0.1") -> httpx.Client:
        """Such a client, logged in as a user with this role."""
        client = self.client(host)
        answer = client.post("/login", data={"name": name, "password": password(name)})
        assert answer.status_code == 303, answer.text
        return client

    def events(self, name: str) -> list[dict[str, Any]]:
        """The details of the audit events of this name, oldest first."""
        return [event.details for event in audit.events(self.database) if event.event == name]


@contextmanager
def door(
    database: Database, folder: Path, users: Path, https: bool = False, **changes: Any
) -> Iterator[Door]:
    """Serve the application with these settings; a trusted proxy stands at PROXY."""
    web = WebSettings(port=0, tls=https, users=users, trusted_proxies=(f"{PROXY}/32",))
    settings = Settings(storage=StorageSettings(path=folder, min_free_gb=0), web=web, **changes)
    stop, ready, address = threading.Event(), threading.Event(), []
    made = app.create(
        Backend(
            settings,
            database,
            FileStore(folder),
            Users(users),
            display=lambda _: np.zeros((2, 2), np.float32),
            stop=stop,
        )
    )

    def answers(url: str) -> None:
        address.append(url)
        ready.set()

    thread = threading.Thread(target=app.serve, args=(made, settings, answers, stop))
    thread.start()
    assert ready.wait(30)
    try:
        with ExitStack() as clients:
            yield Door(made, address[0], database, settings, clients)
    finally:
        stop.set()
        thread.join()
