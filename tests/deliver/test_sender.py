"""Deliveries over real associations, to a PACS that answers on cue."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import _config, build_context
from support import phantom
from support.scripted_pacs import Pacs

from pacs_node.deliver import answers, sender
from pacs_node.errors import JournalError
from pacs_node.files import FileStore
from pacs_node.journal import audit, deliveries, queue, studies, views
from pacs_node.journal.database import Database
from pacs_node.journal.schema import DeliveryRow
from pacs_node.records import Delivery, DeliveryState, SendOutcome

Claims = Callable[[], queue.Claim[Delivery]]
DX = "1.2.840.10008.5.1.4.1.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def pacs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pacs]:
    # The node's own SCP sets this for its whole process; a PACS takes what it says it takes.
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)
    pacs = Pacs()
    yield pacs
    pacs.stop()


@pytest.fixture
def claim(database: Database, files: FileStore, tmp_path: Path) -> Claims:
    """Two committed results of one study, due for `pacs`; each call claims them, due or not."""
    from support.journal import commit_results

    paths = []
    for number in (1, 2):
        path = tmp_path / f"{number}.dcm"
        phantom.dataset(number, rows=64, columns=64).save_as(path, enforce_file_format=True)
        # A group length: allowed, retired, and left out where a data set is encoded anew (PS3.5 7.2).
        data = path.read_bytes()
        start = data.index(b"\x08\x00\x05\x00CS")
        data = data[:start] + b"\x08\x00\x00\x00UL\x04\x00\x00\x01\x00\x00" + data[start:]
        paths.append(files.put(data).path)
    commit_results(database, paths, "pacs")

    def due() -> queue.Claim[Delivery]:
        with database.write() as t:
            t.execute(sa.update(DeliveryRow).values(due_at=0.0))
        found = deliveries.claim_deliveries(database, "pacs", 10)
        assert found is not None
        return found

    return due


def states(database: Database) -> list[tuple[str, str]]:
    results = views.study(database, "1.2")["results"]  # type: ignore[index]
    return [(item["state"], item["last_comment"]) for item in results]


def events(database: Database) -> list[str]:
    return [event.event for event in audit.events(database) if event.sop_instance_uid]


def encoded(path: Path) -> bytes:
    """The data set of a file, as it lies there."""
    with path.open("rb") as file:
        file.seek(132 + 12 + dcmread(path, stop_before_pixels=True).file_meta.FileMetaInformationGroupLength)
        return file.read()


def test_all_results_of_a_study_go_in_one_association_byte_for_byte(
    pacs: Pacs, database: Database, files: FileStore, claim: Claims
) -> None:
    due = claim()
    paths = [files.path(item.sha256) for item in due.items]
    assert sender.send(database, files, pacs.start(["NODE"]), "NODE", due)
    assert pacs.received == [item.sop_instance_uid for item in due.items]
    assert pacs.data == [encoded(path) for path in paths]
    assert pacs.associations == 1
    assert states(database) == [("SENT", ""), ("SENT", "")]
    assert events(database) == ["sent", "sent"]


def test_a_pacs_without_explicit_vr_gets_the_same_data_set(
    pacs: Pacs, database: Database, files: FileStore, claim: Claims
) -> None:
    pacs.contexts = [build_context(DX, ImplicitVRLittleEndian)]
    due = claim()
    sender.send(database, files, pacs.start(), "NODE", due)
    assert states(database) == [("SENT", ""), ("SENT", "")]
    for data, item in zip(pacs.data, due.items, strict=True):
        assert dcmread(files.path(item.sha256)).PixelData in data
        assert not data.startswith(b"\x08\x00\x05\x00CS")


def test_each_answer_counts_for_its_own_object(
    pacs: Pacs, database: Database, files: FileStore, claim: Claims
) -> None:
    pacs.answers = [0xA700, 0xC001]
    sender.send(database, files, pacs.start(["NODE"]), "NODE", claim())
    assert states(database) == [
        ("PENDING", f"{answers.OUT_OF_RESOURCES}; as told"),
        ("QUARANTINED", f"{answers.NOT_UNDERSTOOD}; as told"),
    ]
    assert events(database) == ["delivery_failed", "delivery_quarantined"]


def test_an_association_lost_half_way_leaves_the_rest_to_be_sent_again(
    pacs: Pacs, database: Database, files: FileStore, claim: Claims
) -> None:
    pacs.abort = True
    sender.send(database, files, pacs.start(["NODE"]), "NODE", claim())
    assert [state for state, _ in states(database)] == ["PENDING", "PENDING"]


@pytest.mark.parametrize(
    ("titles", "words"),
    [(["SOMEBODY"], "not recognized, or not from this address"), (None, "is closed")],
)
def test_no_association_says_why_in_plain_words(
    pacs: Pacs,
    database: Database,
    files: FileStore,
    claim: Claims,
    titles: list[str] | None,
    words: str,
) -> None:
    destination = pacs.start(titles or [])
    if titles is None:
        pacs.stop()
    assert not sender.send(database, files, destination, "NODE", claim())
    for state, comment in states(database):
        assert state == "PENDING"
        assert words in comment


def test_a_journal_that_fails_leaves_no_association_behind(
    pacs: Pacs,
    database: Database,
    files: FileStore,
    claim: Claims,
    wait_until: Callable[[Callable[[], object], float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise JournalError("the disk is full")

    destination, due = pacs.start(), claim()
    monkeypatch.setattr(deliveries, "finish_delivery", fail)
    # While the error is held, what it was raised in is not collected.
    with pytest.raises(JournalError) as error:
        sender.send(database, files, destination, "NODE", due)
    assert pacs.server
    wait_until(lambda: not pacs.server.active_associations, 10)  # type: ignore[union-attr]
    assert "disk" in str(error.value)


@pytest.mark.parametrize("sop_class", [CT, "1.2.840.10008.1.1"])
def test_a_pacs_that_takes_no_such_object_is_asked_again_for_it_may_learn(
    pacs: Pacs, database: Database, files: FileStore, claim: Claims, sop_class: str
) -> None:
    pacs.contexts = [build_context(sop_class), build_context("1.2.840.10008.1.1")]
    destination = pacs.start()
    # It was reached: other studies need not wait.
    assert sender.send(database, files, destination, "NODE", claim())
    for state, comment in states(database):
        assert state == "PENDING"
        assert comment.startswith("not accepted: No presentation context for 'Digital X-Ray")


def test_what_is_tried_in_vain_again_and_again_raises_the_alarm_and_is_tried_on(
    pacs: Pacs, database: Database, files: FileStore, claim: Claims
) -> None:
    destination = pacs.start()
    for _ in range(2 * deliveries.STALLED_ATTEMPTS):
        pacs.answers = [0xA700, 0x0000]
        sender.send(database, files, destination, "NODE", claim())
    told = [event for event in events(database) if event != "sent"]
    assert told == ([*["delivery_failed"] * 9, "delivery_stalled"]) * 2
    assert states(database)[0] == ("PENDING", f"{answers.OUT_OF_RESOURCES}; as told")


def test_a_limit_of_attempts_quarantines_and_each_retry_grants_as_many_again(
    pacs: Pacs, database: Database, files: FileStore, claim: Claims
) -> None:
    destination = pacs.start(max_attempts=2)
    pacs.answers = [0xA700] * 20
    for attempt in (1, 2, 3, 4):
        sender.send(database, files, destination, "NODE", claim())
        if attempt % 2:
            assert states(database)[0] == ("PENDING", f"{answers.OUT_OF_RESOURCES}; as told")
            continue
        words = f"given up after {attempt} attempts: {answers.OUT_OF_RESOURCES}; as told"
        assert states(database)[0] == ("QUARANTINED", words)
        assert deliveries.retry(database, ["pacs"], "all", "me") == 2


def test_after_a_retry_a_duplicate_still_is_our_own(
    pacs: Pacs, database: Database, files: FileStore, claim: Claims
) -> None:
    destination = pacs.start()
    pacs.answers = [0x0110, 0xC000]
    sender.send(database, files, destination, "NODE", claim())
    assert studies.retry_study(database, "1.2", "me")
    pacs.answers = [0x0111, 0x0111]
    sender.send(database, files, destination, "NODE", claim())
    assert states(database) == [("SENT", f"{answers.DUPLICATE}; as told")] * 2


@pytest.mark.parametrize(
    ("harm", "state", "words"),
    [
        (lambda path: path.unlink(), "QUARANTINED", "the file is gone"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "QUARANTINED", "is not what was stored"),
        (lambda path: (path.unlink(), path.mkdir()), "PENDING", "cannot be read: EISDIR"),
    ],
    ids=["gone", "altered", "unreadable"],
)
def test_a_file_that_is_not_what_was_committed_never_leaves(
    pacs: Pacs,
    database: Database,
    files: FileStore,
    claim: Claims,
    harm: Callable[[Path], object],
    state: str,
    words: str,
) -> None:
    due = claim()
    harm(files.path(due.items[0].sha256))
    sender.send(database, files, pacs.start(), "NODE", due)
    (broken, other) = states(database)
    assert broken[0] == state
    assert words in broken[1]
    assert other == ("SENT", "")
    assert pacs.received == [due.items[1].sop_instance_uid]


@pytest.mark.parametrize(
    ("status", "attempts", "state"),
    [
        (0x0000, 1, DeliveryState.SENT),
        (0x0107, 1, DeliveryState.SENT),
        (0xB000, 1, DeliveryState.SENT),
        (0xB006, 1, DeliveryState.SENT),
        (0xB007, 1, DeliveryState.SENT),
        (0xB123, 1, DeliveryState.SENT),
        (0x0111, 1, DeliveryState.QUARANTINED),
        (0x0111, 2, DeliveryState.SENT),
        (0xA700, 1, DeliveryState.PENDING),
        (0xA702, 9, DeliveryState.PENDING),
        (0xA900, 1, DeliveryState.QUARANTINED),
        (0xC123, 1, DeliveryState.QUARANTINED),
        (0xCFFF, 1, DeliveryState.QUARANTINED),
        (0x0117, 1, DeliveryState.QUARANTINED),
        (0x0122, 1, DeliveryState.QUARANTINED),
        (0x0110, 1, DeliveryState.PENDING),
        (0x0124, 1, DeliveryState.PENDING),
        (0x0211, 1, DeliveryState.PENDING),
        (None, 1, DeliveryState.PENDING),
        (0x9999, 1, DeliveryState.PENDING),
    ],
)
def test_what_a_status_means(status: int | None, attempts: int, state: DeliveryState) -> None:
    outcome = SendOutcome(None, "") if status is None else answers.c_store(status)
    assert sender.judge(outcome, attempts) == state


def test_back_off_grows_to_its_cap() -> None:
    assert 2.5 <= sender.retry_seconds(1) <= 5
    assert 900 <= sender.retry_seconds(12) <= 1800
    assert 900 <= sender.retry_seconds(10_000) <= 1800
    assert sender.pause_seconds(10_000) == 60


def test_files_are_sent_as_they_are_and_every_one_has_an_answer(pacs: Pacs, tmp_path: Path) -> None:
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.dcm")
        phantom.dataset(number, rows=64, columns=64).save_as(paths[-1], enforce_file_format=True)
    paths[1].write_text("notes")
    pacs.contexts = [build_context(DX, ExplicitVRLittleEndian)]
    pacs.answers = [0x0000, 0xA700]
    destination = pacs.start()
    told = dict(sender.send_files(destination, "NODE", paths))
    assert [told[path].status for path in paths] == [0x0000, None, 0xA700]
    assert "not a DICOM file" in told[paths[1]].comment
    assert pacs.data == [encoded(paths[0]), encoded(paths[2])]
    pacs.stop()
    assert len(dict(sender.send_files(destination, "NODE", paths))) == 3
