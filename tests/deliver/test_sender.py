"""Deliveries over real associations, to a PACS that answers on cue."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.transport import ThreadedAssociationServer

from pacs_node.config import Destination
from pacs_node.deliver import sender
from pacs_node.demo import phantom
from pacs_node.files import FileStore
from pacs_node.journal import audit, deliveries, queue, views
from pacs_node.journal.database import Database
from pacs_node.records import Delivery, DeliveryState


@dataclass
class Pacs:
    """A storage SCP that answers as it is told; `refuse` sends a rejection to every association."""

    answers: list[int] = field(default_factory=list)
    abort: bool = False
    received: list[str] = field(default_factory=list)
    associations: int = 0
    server: ThreadedAssociationServer | None = None

    def start(self, known_titles: list[str]) -> Destination:
        ae = AE(ae_title="PACS")
        ae.require_calling_aet = known_titles
        ae.supported_contexts = AllStoragePresentationContexts
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_ESTABLISHED, self._established),
        ]
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        return Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=self.server.server_address[1])

    def _established(self, event: evt.Event) -> None:
        self.associations += 1

    def _store(self, event: evt.Event) -> Dataset:
        if self.abort:
            event.assoc.abort()
        answer = Dataset()
        answer.Status = self.answers.pop(0) if self.answers else 0x0000
        if answer.Status:
            answer.ErrorComment = "as told"
        else:
            self.received.append(event.request.AffectedSOPInstanceUID)
        return answer


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    pacs = Pacs()
    yield pacs
    if pacs.server:
        pacs.server.shutdown()


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "storage")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/journal.sqlite")
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def claim(database: Database, files: FileStore, tmp_path: Path) -> Callable[[], queue.Claim[Delivery]]:
    """Two committed results of one study, due for `pacs`; each call claims what is due."""
    from result_rows import commit_results

    paths = []
    for number in (1, 2):
        path = tmp_path / f"{number}.dcm"
        phantom.dataset(number, rows=64, columns=64).save_as(path, enforce_file_format=True)
        paths.append(files.put(path.read_bytes()).path)
    commit_results(database, paths, "pacs")

    def due() -> queue.Claim[Delivery]:
        found = deliveries.claim_deliveries(database, "pacs", 10)
        assert found is not None
        return found

    return due


def states(database: Database) -> list[tuple[str, str]]:
    results = views.study(database, "1.2")["results"]  # type: ignore[index]
    return [(item["state"], item["last_comment"]) for item in results]


def events(database: Database) -> list[str]:
    return [event.event for event in audit.events(database) if event.sop_instance_uid]


def test_all_results_of_a_study_go_in_one_association(
    pacs: Pacs, database: Database, files: FileStore, claim: Callable[[], queue.Claim[Delivery]]
) -> None:
    destination = pacs.start(["NODE"])
    due = claim()
    sender.send(database, files, destination, "NODE", due)
    assert pacs.received == [dcmread(files.path(item.sha256)).SOPInstanceUID for item in due.items]
    assert pacs.associations == 1
    assert states(database) == [("SENT", ""), ("SENT", "")]
    assert events(database) == ["sent", "sent"]


def test_each_answer_counts_for_its_own_object(
    pacs: Pacs, database: Database, files: FileStore, claim: Callable[[], queue.Claim[Delivery]]
) -> None:
    pacs.answers = [0xA700, 0xC001]
    sender.send(database, files, pacs.start(["NODE"]), "NODE", claim())
    assert states(database) == [("PENDING", "as told"), ("QUARANTINED", "as told")]
    assert events(database) == ["delivery_failed", "delivery_quarantined"]


def test_an_association_lost_half_way_leaves_the_rest_to_be_sent_again(
    pacs: Pacs, database: Database, files: FileStore, claim: Callable[[], queue.Claim[Delivery]]
) -> None:
    pacs.abort = True
    sender.send(database, files, pacs.start(["NODE"]), "NODE", claim())
    assert [state for state, _ in states(database)] == ["PENDING", "PENDING"]


@pytest.mark.parametrize(
    ("titles", "words"),
    [(["SOMEBODY"], "does not know our calling AE title"), (None, "does it listen there?")],
)
def test_no_association_says_why_in_plain_words(
    pacs: Pacs,
    database: Database,
    files: FileStore,
    claim: Callable[[], queue.Claim[Delivery]],
    titles: list[str] | None,
    words: str,
) -> None:
    if titles is None:
        destination = pacs.start([])
        assert pacs.server
        pacs.server.shutdown()
        pacs.server = None
    else:
        destination = pacs.start(titles)
    sender.send(database, files, destination, "NODE", claim())
    for state, comment in states(database):
        assert state == "PENDING"
        assert words in comment


@pytest.mark.parametrize(
    ("status", "attempts", "state"),
    [
        (0x0000, 1, DeliveryState.SENT),
        (0xB000, 1, DeliveryState.SENT),
        (0xB006, 1, DeliveryState.SENT),
        (0xB007, 1, DeliveryState.SENT),
        (0x0111, 1, DeliveryState.QUARANTINED),
        (0x0111, 2, DeliveryState.SENT),
        (0xA700, 1, DeliveryState.PENDING),
        (0xA702, 9, DeliveryState.PENDING),
        (0xA900, 1, DeliveryState.QUARANTINED),
        (0xC123, 1, DeliveryState.QUARANTINED),
        (0x0122, 1, DeliveryState.QUARANTINED),
        (0x0110, 1, DeliveryState.PENDING),
        (None, 1, DeliveryState.PENDING),
        (0x9999, 1, DeliveryState.PENDING),
    ],
)
def test_what_a_status_means(status: int | None, attempts: int, state: DeliveryState) -> None:
    assert sender.judge(status, attempts) == state


def test_back_off_grows_to_its_cap() -> None:
    assert 2.5 <= sender.retry_seconds(1) <= 5
    assert 900 <= sender.retry_seconds(12) <= 1800
    assert 900 <= sender.retry_seconds(10_000) <= 1800
