"""Free space, destinations and the clock: told once when it changes, and back."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from support.journal import Clock
from support.scripted_pacs import listen

from pacs_node.config import Destination
from pacs_node.files import FileStore
from pacs_node.journal import audit, instances, studies
from pacs_node.journal.database import Database
from pacs_node.operate import checks, housekeeping
from pacs_node.records import Arrival


def events(database: Database, *names: str) -> list[str]:
    return [event.event for event in audit.events(database) if event.event in names]


def test_low_space_is_told_once_and_so_is_its_end(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = FileStore(tmp_path)
    for free in (10.0, 1.9, 1.5, 2.0, 3.0):
        monkeypatch.setattr(files, "free_gb", lambda free=free: free)
        housekeeping.run(database, "disk", lambda: checks.disk(database, files, 1.0))
    assert events(database, "disk_low", "disk_ok") == ["disk_low", "disk_ok"]
    assert housekeeping.last(database, "disk")["low"] is False


@pytest.fixture
def pacs(free_port: Callable[[], int]) -> Iterator[tuple[Destination, Callable[[], None]]]:
    """A PACS that is down, and how to start it."""
    port = free_port()
    ae = AE("PACS")
    ae.add_supported_context(Verification)

    def start() -> None:
        listen(ae, (evt.EVT_C_ECHO, lambda _: 0x0000), port=port)

    yield Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=port), start
    ae.shutdown()


def test_a_destination_that_does_not_answer_is_told_once_and_so_is_its_return(
    database: Database, pacs: tuple[Destination, Callable[[], None]]
) -> None:
    destination, start = pacs

    def ask() -> None:
        housekeeping.run(database, "echo", lambda: checks.destinations(database, [destination], "NODE"))

    ask()
    ask()
    assert "pacs" in housekeeping.last(database, "echo")["unreachable"]["pacs"]
    start()
    ask()
    ask()
    assert housekeeping.last(database, "echo")["unreachable"] == {}
    told = events(database, "destination_unreachable", "destination_reachable")
    assert told == ["destination_unreachable", "destination_reachable"]


@pytest.mark.parametrize(
    ("status", "is_there"), [(200, True), (204, True), (501, True), (401, False), (404, False), (503, False)]
)
def test_a_web_service_is_there_when_it_answers_a_search(
    database: Database, status: int, is_there: bool
) -> None:
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/dicom-web"
        destination = Destination(name="web", kind="stow", url=url)
        found = checks.destinations(database, [destination], "NODE")
        server.shutdown()
        thread.join()
    assert (found["unreachable"] == {}) == is_there
    assert asked == ["/dicom-web/studies?limit=1"]


@pytest.mark.parametrize("is_running", [True, False])
def test_after_the_clock_went_back_nothing_waits_for_the_time_to_come_again(
    database: Database, clock: Clock, arrival: Callable[..., Arrival], is_running: bool
) -> None:
    instances.register(database, [arrival(skip_reason="not an X-ray")], 60)
    watch = checks.ClockWatch(database)
    watch.check(is_leading=True)
    clock.now -= 3600
    if not is_running:
        watch = checks.ClockWatch(database)
    watch.check(is_leading=True)
    watch.check(is_leading=True)
    assert events(database, "clock_jumped") == ["clock_jumped"]
    clock.now += 59
    assert studies.claim_study(database) is None
    clock.now += 2
    assert studies.claim_study(database) is not None


def test_only_the_leader_acts_and_a_small_step_is_none(database: Database, clock: Clock) -> None:
    clock.now = time.time()
    watch = checks.ClockWatch(database)
    clock.now -= 4
    watch.check(is_leading=True)
    clock.now -= 3600
    watch.check(is_leading=False)
    watch.check(is_leading=True)
    assert events(database, "clock_jumped") == []
