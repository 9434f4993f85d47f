"""The role deliver with several destinations: none holds up another; one that is down is not worn out."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from support import phantom
from support.journal import commit_results
from support.scripted_pacs import Pacs

from pacs_node.config import Settings
from pacs_node.deliver import sender
from pacs_node.files import FileStore
from pacs_node.journal import views
from pacs_node.journal.database import Database, open_database
from pacs_node.journal.schema import DeliveryRow
from pacs_node.records import DeliveryState
from pacs_node.roles import deliver

WaitUntil = Callable[[Callable[[], object], float], None]


@pytest.fixture
def new_pacs() -> Iterator[Callable[..., Pacs]]:
    made: list[Pacs] = []

    def make(**script: object) -> Pacs:
        made.append(Pacs(**script))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for pacs in made:
        pacs.stop()


@pytest.fixture
def results(tmp_path: Path) -> Callable[..., Database]:
    """A journal with two results of one study, both due for each of these destinations."""

    def make(*destinations: str) -> Database:
        database, files = open_database(f"sqlite:///{tmp_path}/journal.sqlite"), FileStore(tmp_path)
        paths = []
        for number in (1, 2):
            path = tmp_path / "made.dcm"
            phantom.dataset(number, rows=64, columns=64).save_as(path, enforce_file_format=True)
            paths.append(files.put(path.read_bytes()).path)
        commit_results(database, paths, destinations[0])
        with database.write() as t:
            rows = [
                {"result_id": number, "destination": name, "state": "PENDING", "due_at": 0.0}
                for name in destinations[1:]
                for number in (1, 2)
            ]
            if rows:
                t.execute(sa.insert(DeliveryRow), rows)
        return database

    return make


def states(database: Database, destination: str) -> set[str]:
    found = views.study(database, "1.2")
    assert found
    return {result["state"] for result in found["results"] if result["destination"] == destination}


def test_one_that_never_answers_and_one_that_is_down_hold_up_nobody(
    new_pacs: Callable[..., Pacs],
    results: Callable[..., Database],
    tmp_path: Path,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender, "FIRST_RETRY_SECONDS", 0.0)
    mute, dead, quick = new_pacs(mute=threading.Event()), new_pacs(), new_pacs()
    destinations = [mute.start(name="mute"), dead.start(name="dead"), quick.start(name="quick")]
    dead.stop()
    database = results("mute", "dead", "quick")
    settings = Settings.model_validate({"storage": {"path": tmp_path}, "destinations": destinations})
    stop = threading.Event()
    role = threading.Thread(target=deliver.run, args=(settings, stop))
    role.start()
    try:
        wait_until(lambda: states(database, "quick") == {"SENT"}, 20)
        wait_until(
            lambda: sum(group.results for group in views.stuck_groups(database, ["mute", "dead"])) == 2, 20
        )
        assert states(database, "mute") == {"PENDING"}
        assert mute.associations == 1
        assert mute.mute
        mute.mute.set()
        wait_until(lambda: states(database, "mute") == {"SENT"}, 20)
        assert states(database, "dead") == {"PENDING"}
    finally:
        assert mute.mute
        mute.mute.set()
        stop.set()
        role.join(30)
    assert not role.is_alive()
    database.close()


def test_a_destination_that_is_down_is_left_alone_for_longer_and_longer(
    results: Callable[..., Database],
    new_pacs: Callable[..., Pacs],
    tmp_path: Path,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[int] = []

    def pause(unreached: int) -> float:
        pauses.append(unreached)
        return 0.0

    monkeypatch.setattr(sender, "FIRST_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(sender, "pause_seconds", pause)
    pacs = new_pacs()
    destination = pacs.start()
    pacs.stop()
    database = results("pacs")
    settings = Settings.model_validate({"storage": {"path": tmp_path}, "destinations": [destination]})
    stop = threading.Event()
    role = threading.Thread(target=deliver.run, args=(settings, stop))
    role.start()
    try:
        wait_until(lambda: len(pauses) >= 5, 20)
    finally:
        stop.set()
        role.join(30)
    assert pauses[:5] == [1, 2, 3, 4, 5]
    assert states(database, "pacs") == {DeliveryState.PENDING}
    database.close()
