"""An image that ends or hangs the worker is given up; it takes no other with it, and the node goes on."""

import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import phantom, poison_node

from pacs_node.config import load
from pacs_node.files import FileStore
from pacs_node.journal import audit, views
from pacs_node.journal.database import open_database
from pacs_node.node import Node
from pacs_node.records import StudyState
from pacs_node.roles import supervisor
from pacs_node.roles.receive import take_in

WaitUntil = Callable[[Callable[[], object], float], None]

CONFIG = """
[study]
quiet_seconds = 0
[report]
secondary_capture = false
"""


@pytest.fixture
def supervised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The configuration of a node whose one worker a real supervisor keeps running; its log lies beside."""
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    open_database(load(config).database_url).close()
    stop = threading.Event()

    def start(_role: str, _config: Path | None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", poison_node.__name__, str(config)]
        with (tmp_path / "node.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, start_new_session=True)

    monkeypatch.setattr(supervisor, "_start", start)
    monkeypatch.setattr(supervisor, "FIRST_RESTART_SECONDS", 0.01)
    thread = threading.Thread(target=supervisor.supervise, args=(config, ["worker"], stop))
    thread.start()
    yield config
    stop.set()
    thread.join()


@pytest.mark.slow
def test_poison_takes_nobody_with_it(supervised: Path, wait_until: WaitUntil) -> None:
    settings = load(supervised)
    database, files = open_database(settings.database_url), FileStore(settings.storage.path)
    comments = ["", "segfault", "hang", "memory", ""]
    images = [phantom.dataset(seed, rows=64, columns=64) for seed in range(len(comments))]
    for image, comment in zip(images, comments, strict=True):
        image.ImageComments = comment
        buffer = io.BytesIO()
        image.save_as(buffer, enforce_file_format=True)
        files.spool([buffer.getvalue()], str)
    take_in(Node(settings, database, files, database.identity("NODE")), {})

    def is_settled() -> bool:
        return {study["state"] for study in views.studies(database, 9)} == {StudyState.REPORTED}

    wait_until(is_settled, 200)
    told = [views.study(database, image.StudyInstanceUID) for image in images]
    assert [study and study["reports"][0]["outcome"] == "FAILED" for study in told] == [
        bool(comment) for comment in comments
    ]
    reasons = [study and study["instances"][0]["reason"] for study in told]
    died = "given up after 3 attempts: the worker died"
    memory = "given up after 3 attempts: unexpected MemoryError"
    assert reasons == [None, died, died, memory, None]
    log = (supervised.parent / "node.log").read_text()
    assert "Timeout (0:00:05)!" in log
    assert "poison_node.py" in log
    assert audit.verify(database)[1] is None
    database.close()


@pytest.mark.parametrize(("status", "longest"), [(-11, 4.0), (-9, 4.0), (1, 60.0)])
def test_who_fell_at_its_work_is_soon_back(
    monkeypatch: pytest.MonkeyPatch, status: int, longest: float
) -> None:
    class Dead:
        stdin = None

        def poll(self) -> int:
            return status

    monkeypatch.setattr(supervisor, "_start", lambda *_: Dead())
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    child = supervisor._Child("worker")
    pauses = []
    for _ in range(10):
        supervisor._tend(child, None)
        supervisor._tend(child, None)
        pauses.append(child.start_at - now)
        now = child.start_at
    assert pauses[0] == 2.0
    assert max(pauses) == longest


@pytest.mark.parametrize(("role", "code"), [("receive", 2), ("worker", 2), ("web", 0)])
def test_only_the_pages_may_be_wrongly_configured(
    monkeypatch: pytest.MonkeyPatch, role: str, code: int
) -> None:
    class Refused:
        stdin = None

        def poll(self) -> int:
            return 2

    monkeypatch.setattr(supervisor, "_start", lambda *_: Refused())
    child = supervisor._Child(role)
    assert supervisor._tend(child, None) == 0
    assert supervisor._tend(child, None) == code
