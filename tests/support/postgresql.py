"""Fixtures with a real PostgreSQL, started once for each test process; each test has databases of its own.

`database_url("sqlite")` and `database_url("postgresql")` give URLs of empty journals; a test that asks for
`journal_url` runs once on each.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest

from pacs_node.journal.database import open_database

DatabaseUrl = Callable[[str], str]

USER, PASSWORD = "pacs", "secret-of-the-tests"


class Server:
    """A PostgreSQL server in a folder of its own, on 127.0.0.1, without protection against power failures."""

    def __init__(self, programs: Path, folder: Path, port: int) -> None:
        self.port = port
        self.template = "template"
        self._programs = programs
        self._folder = folder
        self._data = folder / "data"
        # It refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make the folder, start the server in it, and make a journal that `database` copies."""
        password = self._folder / "password"
        password.write_text(PASSWORD)
        if self._user:
            for path in (self._folder, password):
                shutil.chown(path, self._user)
        subprocess.run(
            [
                *(self._program("initdb"), "--pgdata", str(self._data), "--username", USER),
                *("--pwfile", str(password), "--encoding", "UTF8", "--locale", "C", "--no-sync"),
                *("--auth-local", "trust", "--auth-host", "scram-sha-256"),
            ],
            user=self._user,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        self.start()
        self.execute(f'CREATE DATABASE "{self.template}"')
        open_database(self.url(self.template)).close()

    def start(self) -> None:
        """Start it and return once it answers."""
        where = ("-p", str(self.port), "-k", str(self._folder))
        options = ("-h", "127.0.0.1", "-F", "-c", "max_connections=200")
        # A test process that is killed leaves no server behind.
        command = ["setpriv", "--pdeathsig", "INT", self._program("postgres"), "-D", str(self._data)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *where, *options],
                user=self._user,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it at once, and with it all connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(60)

    def database(self) -> str:
        """A new empty journal; returns its URL."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{self.template}"')
        return self.url(name)

    def drop(self, url: str) -> None:
        """Drop a database, even one with open connections."""
        name = url.rpartition("/")[2]
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def url(self, name: str) -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: str) -> None:
        """Run one statement outside of any transaction."""
        where: dict[str, Any] = {"host": str(self._folder), "port": self.port, "user": USER}
        with psycopg.connect(dbname="postgres", autocommit=True, **where) as connection:
            connection.execute(statement)

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _program(self, name: str) -> str:
        return str(self._programs / name)


@pytest.fixture(scope="session")
def postgresql(missing: Callable[[object], NoReturn], free_port: Callable[[], int]) -> Iterator[Server]:
    """A running PostgreSQL."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: path.parts[-3])
    initdb = shutil.which("initdb") or next(reversed(installed), None)
    if initdb is None:
        missing("PostgreSQL")
    # Not under pytest's own folder, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(initdb).resolve().parent, Path(folder), free_port())
        server.create()
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """The kind of database; a test runs once on each."""
    return str(request.param)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseUrl]:
    """Make an empty journal on a kind of database; it is dropped after the test."""
    made: list[str] = []

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/journal.sqlite"
        made.append(request.getfixturevalue("postgresql").database())
        return made[-1]

    yield make
    for url in made:
        request.getfixturevalue("postgresql").drop(url)


@pytest.fixture
def journal_url(database_url: DatabaseUrl, database_kind: str) -> str:
    """The URL of the test's journal."""
    return database_url(database_kind)
