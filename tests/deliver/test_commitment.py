"""Storage commitment over real associations: with Orthanc, and with an archive that answers as it is told."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import N_ACTION_RSP
from pynetdicom.transport import ThreadedAssociationServer
from support import phantom
from support.journal import commit_results
from support.scripted_pacs import listen

from pacs_node.config import ApplicationEntity as Ae
from pacs_node.config import Destination, NodeSettings, Peer
from pacs_node.deliver import commitment, query, sender
from pacs_node.demo.pacs import Orthanc
from pacs_node.dicom.event_report import PUSH_MODEL, PUSH_MODEL_INSTANCE
from pacs_node.files import FileStore
from pacs_node.journal import audit, commitments, deliveries, views
from pacs_node.journal.database import Database
from pacs_node.receive.scp import StorageScp
from pacs_node.records import CommitmentReport, DeliveryState

CALLING = "COMMITNODE"
WaitUntil = Callable[..., None]


@pytest.fixture
def uids(database: Database, files: FileStore, tmp_path: Path) -> list[str]:
    """Two results of study 1.2, due for the destination "pacs"."""
    results = phantom.two_views(815, rows=64, columns=64)
    paths = []
    for result in results:
        result.save_as(tmp_path / "result.dcm", enforce_file_format=True)
        paths.append(files.put((tmp_path / "result.dcm").read_bytes()).path)
    commit_results(database, paths, "pacs")
    return [str(result.SOPInstanceUID) for result in results]


@pytest.fixture
def sent(database: Database, uids: list[str]) -> None:
    claim = deliveries.claim_deliveries(database, "pacs", 10)
    assert claim is not None
    for item in claim.items:
        deliveries.finish_delivery(database, claim.token, item, DeliveryState.SENT, 0, "", commitment=True)


def settle_in(database: Database) -> Callable[[CommitmentReport], bool]:
    return lambda report: commitments.settle(database, report, lambda _: 0.0)


def states(database: Database) -> list[str]:
    return [item["state"] for item in views.study(database, "1.2")["results"]]  # type: ignore[index]


def events(database: Database) -> list[str]:
    return [event.event for event in audit.events(database) if event.event.startswith("commit")]


@dataclass
class Archive:
    """A storage commitment SCP, with a C-FIND SCP beside it for whoever doubts it."""

    answers: bool = True
    status: int = 0x0000
    failed: list[str] = field(default_factory=list)
    has: list[str] = field(default_factory=list)
    asked: list[list[str]] = field(default_factory=list)
    confirmed: list[int | None] = field(default_factory=list)
    server: ThreadedAssociationServer | None = None
    _request: Dataset = field(default_factory=Dataset)

    def start(self) -> Destination:
        ae = AE(ae_title="ARCHIVE")
        ae.supported_contexts = [build_context(PUSH_MODEL), build_context(query.FIND)]
        self.server = server = listen(
            ae,
            (evt.EVT_N_ACTION, self._action),
            (evt.EVT_DIMSE_SENT, self._report),
            (evt.EVT_C_FIND, self._find),
        )
        port = server.server_address[1]
        return Destination(
            name="pacs",
            ae_title="ARCHIVE",
            host="127.0.0.1",
            port=port,
            commitment=Ae(ae_title="ARCHIVE", host="127.0.0.1", port=port),
        )

    def _action(self, event: evt.Event) -> tuple[int, None]:
        self._request = event.action_information
        self.asked.append([item.ReferencedSOPInstanceUID for item in self._request.ReferencedSOPSequence])
        return self.status, None

    def _report(self, event: evt.Event) -> None:
        if isinstance(event.message, N_ACTION_RSP) and self.answers and not self.status:
            # Not from the thread that serves the association.
            threading.Thread(target=self._send_report, args=(event.assoc,)).start()

    def _send_report(self, association: Association) -> None:
        report = report_of(self._request, self.failed)
        kind = 2 if self.failed else 1
        status, _ = association.send_n_event_report(report, kind, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        self.confirmed.append(status.get("Status"))

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset]]:
        for uid in self.has:
            found = Dataset()
            found.SOPInstanceUID = uid
            yield 0xFF00, found


def report_of(request: Dataset, failed: list[str]) -> Dataset:
    """Event Information for a request (PS3.4 tables J.3-2 and J.3-3)."""
    report = Dataset()
    report.TransactionUID = request.TransactionUID
    report.ReferencedSOPSequence, report.FailedSOPSequence = [], []
    for item in request.ReferencedSOPSequence:
        if item.ReferencedSOPInstanceUID in failed:
            item.FailureReason = 0x0112
            report.FailedSOPSequence.append(item)
        else:
            report.ReferencedSOPSequence.append(item)
    return report


@pytest.fixture
def archive() -> Iterator[Archive]:
    archive = Archive()
    yield archive
    if archive.server:
        archive.server.shutdown()


def step(database: Database, destination: Destination, **options: float) -> bool:
    return commitment.step(database, destination, CALLING, threading.Event(), **options)


@pytest.mark.usefixtures("sent")
def test_the_answer_may_come_on_the_same_association(
    archive: Archive, database: Database, uids: list[str], wait_until: WaitUntil
) -> None:
    destination = archive.start()
    assert step(database, destination, wait_seconds=30)
    assert archive.asked == [uids]
    assert states(database) == ["COMMITTED", "COMMITTED"]
    wait_until(lambda: archive.confirmed == [0x0000])
    assert not step(database, destination)
    assert events(database) == ["commitment_requested", "committed", "committed"]


@pytest.mark.usefixtures("sent")
def test_what_failed_is_to_be_sent_again(archive: Archive, database: Database, uids: list[str]) -> None:
    archive.failed = uids[1:]
    step(database, archive.start(), wait_seconds=30)
    assert states(database) == ["COMMITTED", "PENDING"]
    (failed,) = [event for event in audit.events(database) if event.event == "commitment_failed"]
    assert failed.sop_instance_uid == uids[1]
    assert failed.details["why"] == "0x0112 no such object"


@pytest.mark.usefixtures("sent")
@pytest.mark.parametrize(("has", "state"), [(2, "COMMITTED"), (0, "PENDING")])
def test_an_archive_that_says_nothing_is_looked_into(
    archive: Archive, database: Database, uids: list[str], has: int, state: str
) -> None:
    archive.answers, archive.has = False, uids[:has]
    destination = archive.start()
    step(database, destination, answer_seconds=0, wait_seconds=0)
    assert states(database) == ["SENT", "SENT"]
    step(database, destination)
    assert states(database) == [state, state]
    assert events(database)[1] == ("commitment_assumed_by_query" if has else "commitment_failed")


@pytest.mark.usefixtures("sent")
def test_a_request_that_a_crash_kept_from_being_sent_is_found_out(
    archive: Archive, database: Database, uids: list[str]
) -> None:
    archive.has = uids
    destination = archive.start()
    commitments.begin(database, "pacs", "1.9", answer_seconds=0)
    step(database, destination)
    assert archive.asked == []
    assert states(database) == ["COMMITTED", "COMMITTED"]


@pytest.mark.usefixtures("sent")
def test_an_archive_that_is_not_there_is_asked_again_later(archive: Archive, database: Database) -> None:
    destination = archive.start()
    assert archive.server
    archive.server.shutdown()
    archive.server = None
    assert step(database, destination)
    assert states(database) == ["SENT", "SENT"]
    assert not step(database, destination), "it must not be asked again at once"
    (postponed,) = [event for event in audit.events(database) if event.event == "commitment_postponed"]
    assert "is closed" in postponed.details["why"]


@pytest.mark.usefixtures("sent")
def test_an_archive_that_refuses_for_long_is_looked_into(
    archive: Archive, database: Database, uids: list[str]
) -> None:
    archive.status, archive.has = 0x0213, uids
    destination = archive.start()
    step(database, destination)
    assert "refused the N-ACTION: status 0x0213" in str(list(audit.events(database))[-1].details["why"])
    (transaction,) = [e.details["transaction_uid"] for e in audit.events(database) if "results" in e.details]
    assert not settle_in(database)(CommitmentReport(transaction, frozenset(uids), {}))
    with database.write() as t:
        t.connection.exec_driver_sql("UPDATE deliveries SET due_at = 0")
    step(database, destination, answer_seconds=0)
    assert states(database) == ["COMMITTED", "COMMITTED"]
    assert events(database)[-1] == "commitment_assumed_by_query"


@pytest.fixture
def scp(database: Database, files: FileStore) -> Iterator[StorageScp]:
    peers = (Peer(name="archive", ae_title="ARCHIVE", host="127.0.0.1"),)
    node = NodeSettings(ae_title=CALLING, host="127.0.0.1", port=0)
    scp = StorageScp(node, peers, files, 0.0, lambda *_: None, settle_in(database))
    scp.start()
    yield scp
    scp.stop()


def report(scp: StorageScp, information: Dataset, kind: int = 1, calling: str = "ARCHIVE") -> int | None:
    """Report as an archive does, on an association of its own; the status, or None without an association."""
    ae = AE(ae_title=calling)
    association = ae.associate(
        "127.0.0.1",
        scp.port,
        contexts=[build_context(PUSH_MODEL)],
        ae_title=CALLING,
        ext_neg=[build_role(PUSH_MODEL, scu_role=False, scp_role=True)],
    )
    if not association.is_established:
        return None
    status, _ = association.send_n_event_report(information, kind, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    association.release()
    code: int | None = status.get("Status")
    return code


def information(transaction_uid: str, uids: list[str]) -> Dataset:
    request = Dataset()
    request.TransactionUID = transaction_uid
    request.ReferencedSOPSequence = []
    for uid in uids:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", uid
        request.ReferencedSOPSequence.append(item)
    return report_of(request, [])


@pytest.mark.usefixtures("sent")
def test_the_answer_may_come_on_an_association_of_the_archives(
    scp: StorageScp, database: Database, uids: list[str]
) -> None:
    commitments.begin(database, "pacs", "1.9", 60)
    assert report(scp, information("1.9", uids), calling="STRANGER") is None
    assert report(scp, information("1.9", uids), kind=3) == 0x0113
    assert states(database) == ["SENT", "SENT"]
    assert report(scp, information("1.9", uids)) == 0x0000
    assert states(database) == ["COMMITTED", "COMMITTED"]


def test_unknown_transactions_and_broken_reports_are_answered_with_a_failure(
    scp: StorageScp, uids: list[str]
) -> None:
    assert report(scp, information("9.9", uids)) == 0x0115
    broken = information("9.9", uids)
    del broken.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert report(scp, broken) == 0x0110
    assert report(scp, information("9.9", uids)) == 0x0115


def test_nothing_is_promised_to_us_that_is_not_recorded(
    files: FileStore, uids: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_: CommitmentReport) -> bool:
        raise OSError("the journal is gone")

    node = NodeSettings(ae_title=CALLING, host="127.0.0.1", port=0)
    scp = StorageScp(node, (), files, 0.0, lambda *_: None, broken)
    scp.start()
    assert report(scp, information("1.9", uids)) == 0x0110
    scp.stop()
    captured = capfd.readouterr()
    assert "commitment_report_error" in captured.out + captured.err


@pytest.mark.usefixtures("uids")
def test_orthanc_promises_what_it_has_and_is_sent_again_what_it_lost(
    orthanc: Orthanc, database: Database, files: FileStore, tmp_path: Path, uids: list[str]
) -> None:
    peers = (Peer(name="orthanc", ae_title=orthanc.address.ae_title, host="127.0.0.1"),)
    node = NodeSettings(ae_title=CALLING, host="127.0.0.1", port=0)
    scp = StorageScp(node, peers, files, 0.0, lambda *_: None, settle_in(database))
    scp.start()
    orthanc.rest.put("/modalities/commitment-test", {"AET": CALLING, "Host": "127.0.0.1", "Port": scp.port})
    there = {"ae_title": orthanc.address.ae_title, "host": "127.0.0.1", "port": orthanc.address.port}
    destination = Destination(name="pacs", commitment=Ae(**there), **there)

    def send() -> None:
        claim = deliveries.claim_deliveries(database, "pacs", 10)
        assert claim is not None
        sender.send(database, files, destination, CALLING, claim)

    try:
        send()
        study = phantom.phantom_study(815).study_instance_uid
        (lost,) = (
            instance
            for instance in orthanc.rest.instances(study)
            if orthanc.rest.dataset(instance).SOPInstanceUID == uids[0]
        )
        orthanc.rest.call("DELETE", f"/instances/{lost}")
        step(database, destination, wait_seconds=30)
        assert states(database) == ["PENDING", "COMMITTED"]
        send()
        step(database, destination, wait_seconds=30)
        assert states(database) == ["COMMITTED", "COMMITTED"]
        assert len(orthanc.rest.instances(study)) == 2
    finally:
        scp.stop()
