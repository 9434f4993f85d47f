"""What is delivered and old enough goes, with its files; nothing else ever does, whatever is killed when."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import UID, SecondaryCaptureImageStorage
from support import phantom
from support.bench import Bench
from support.journal import Clock
from support.scripted_pacs import Pacs

from pacs_node import pipeline
from pacs_node.deliver import sender
from pacs_node.journal import audit, deliveries, feedback, instances, views
from pacs_node.journal import retention as rows
from pacs_node.journal.database import Database
from pacs_node.journal.processes import lead
from pacs_node.operate import purge
from pacs_node.records import DeliveryState

DAYS = 30


class RetentionBench(Bench):
    """A node whose only destination takes everything, and time that passes in days."""

    def run(self, days: int = DAYS, committing: tuple[str, ...] = ()) -> dict[str, Any]:
        return purge.run(self.database, self.files, days, committing)

    def pass_days(self, days: float) -> None:
        self.clock.now += days * purge.DAY

    @property
    def stored(self) -> set[str]:
        return {path.stem for folder in self.files.stored() for path in folder}

    @property
    def studies(self) -> list[str]:
        return [study["study_instance_uid"] for study in views.studies(self.database, 100)]


@pytest.fixture
def bench(tmp_path: Path, database: Database, clock: Clock) -> RetentionBench:
    clock.now = time.time()
    return RetentionBench(tmp_path / "storage", clock=clock, database=database, study={"quiet_seconds": 0})


@pytest.fixture
def image() -> Callable[..., FileDataset]:
    def make(seed: int = 1) -> FileDataset:
        image = phantom.dataset(seed, rows=64, columns=64)
        image.file_meta.SourceApplicationEntityTitle = "PACS"
        return image

    return make


def delivered(bench: RetentionBench, image: FileDataset) -> str:
    bench.receive(image)
    bench.work(minutes=0)
    bench.deliver()
    return str(image.StudyInstanceUID)


def test_what_was_delivered_long_ago_goes_with_its_files_and_the_audit_stays(
    bench: RetentionBench, image: Callable[..., FileDataset]
) -> None:
    old = delivered(bench, image(1))
    label = feedback.Feedback(label=feedback.Label.POSITIVE, who="li", study_instance_uid=old)
    feedback.add(bench.database, [label])
    gone = bench.stored
    bench.pass_days(20)
    young = delivered(bench, image(2))
    bench.pass_days(11)
    did = bench.run()
    assert (did["studies"], did["orphans"], did["registered_again"]) == (1, 0, 0)
    assert bench.studies == [young]
    assert not gone & bench.stored
    assert len(bench.stored) == 3
    assert bench.files.withdrawn() == []
    (purged,) = bench.events("purged")
    assert purged.study_instance_uid == old
    named = [line.split()[1] for line in (*purged.details["instances"], *purged.details["results"])]
    assert set(named) == gone
    assert next(event.event for event in audit.events(bench.database, old)) == "received"
    assert len(feedback.current(bench.database, 0)) == 1
    assert audit.verify(bench.database)[1] is None


def test_what_comes_again_after_that_is_a_new_study(
    bench: RetentionBench, image: Callable[..., FileDataset]
) -> None:
    uid = delivered(bench, image())
    bench.pass_days(31)
    assert bench.run()["studies"] == 1
    assert delivered(bench, image()) == uid
    assert bench.studies == [uid]
    assert len(bench.stored) == 3


@pytest.mark.parametrize(("purged", "state"), [(True, "SENT"), (False, "QUARANTINED")])
def test_a_duplicate_counts_as_delivered_where_it_was_sent_before_the_purge(
    bench: RetentionBench, image: Callable[..., FileDataset], purged: bool, state: str
) -> None:
    if purged:
        delivered(bench, image())
        bench.pass_days(31)
        assert bench.run()["studies"] == 1
    bench.receive(image())
    bench.work(minutes=0)
    claim = deliveries.claim_deliveries(bench.database, "pacs", 50)
    assert claim is not None
    pacs = Pacs(answers=[0x0111] * 2)
    try:
        assert sender.send(bench.database, bench.files, pacs.start(), "NODE", claim)
    finally:
        pacs.stop()
    study = views.study(bench.database, image().StudyInstanceUID)
    assert study is not None
    assert [result["state"] for result in study["results"]] == [state] * 2
    assert not deliveries.was_sent(bench.database, replace(claim.items[0], destination="another"))


@pytest.mark.parametrize("state", ["pending", "quarantined", "uncommitted", "open", "failed", "recent"])
def test_what_is_not_done_never_goes(
    bench: RetentionBench, image: Callable[..., FileDataset], state: str
) -> None:
    one = image()
    if state == "failed":
        other = image()
        other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
        other.PatientID = "SOMEBODY ELSE"
        bench.receive(other)
    bench.receive(one)
    if state != "open":
        bench.work(minutes=0)
    if state == "quarantined":
        bench.deliver(DeliveryState.QUARANTINED)
    if state == "uncommitted":
        bench.deliver(commitment=True)
    bench.pass_days(1000)
    if state == "recent":
        bench.deliver()
    before = bench.stored
    assert bench.run(committing=("pacs",) if state == "uncommitted" else ())["studies"] == 0
    assert (bench.studies, bench.stored) == ([one.StudyInstanceUID], before)


def test_a_skipped_study_goes_too_and_with_0_days_nothing_does(
    bench: RetentionBench, image: Callable[..., FileDataset]
) -> None:
    capture = image()
    capture.SOPClassUID = capture.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    bench.receive(capture)
    bench.work(minutes=0)
    bench.pass_days(1000)
    assert bench.run(days=0)["studies"] == 0
    assert bench.run()["studies"] == 1
    assert (bench.studies, bench.stored) == ([], set())


def test_only_one_process_is_at_it(bench: RetentionBench, image: Callable[..., FileDataset]) -> None:
    delivered(bench, image())
    bench.pass_days(31)
    assert lead(bench.database, purge.LEASE, "another")
    assert "studies" not in bench.run()
    assert len(bench.studies) == 1


@pytest.mark.parametrize("moment", ["before the rows go", "after the rows went"])
def test_a_purge_that_is_killed_is_completed_or_undone(
    bench: RetentionBench, image: Callable[..., FileDataset], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    delivered(bench, image())
    bench.pass_days(31)
    before = bench.stored
    purge_rows = rows.purge

    def die(*arguments: Any) -> bool:
        if moment == "after the rows went":
            purge_rows(*arguments)
        # Nothing of what follows is done by a process that is killed.
        monkeypatch.setattr(purge, "settle", lambda *_: None)
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "purge", die)
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert set(bench.files.withdrawn()) == before
    monkeypatch.undo()
    assert bench.run(days=0)["registered_again"] == 0
    assert bench.stored == (before if moment == "before the rows go" else set())
    assert bench.files.withdrawn() == []
    assert bench.files.spooled() == []


def test_an_image_that_arrives_while_its_study_goes_is_kept(
    bench: RetentionBench, image: Callable[..., FileDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = delivered(bench, image())
    bench.pass_days(31)
    register = instances.register

    def late(*arguments: Any) -> None:
        # The intake has found the file in the store, and is about to write the row that names it.
        assert bench.run()["studies"] == 1
        register(*arguments)

    monkeypatch.setattr(instances, "register", late)
    bench.receive(image())
    monkeypatch.undo()
    assert bench.studies == [uid]
    bench.work(minutes=0)
    assert len(views.study(bench.database, uid)["results"]) == 2  # type: ignore[index]


def test_files_without_rows_go_after_a_day_but_what_was_received_is_registered_again(
    bench: RetentionBench, image: Callable[..., FileDataset]
) -> None:
    left = bench.files.put(b"a result whose report was never committed")
    fresh = image(3)
    del fresh.file_meta.SourceApplicationEntityTitle
    ours = bench.files.put(pipeline.encoded(fresh))
    lost = bench.files.put(pipeline.encoded(image(2)))
    did = bench.run(days=0)
    assert (did["orphans"], did["registered_again"]) == (0, 2)
    bench.take_in()
    assert bench.studies == [image(2).StudyInstanceUID]
    # The other is no DICOM at all, so that nobody can tell who made it: it lies where an administrator looks.
    assert bench.files.refused() == {left.sha256}
    for path in (ours.path, left.path):
        os.utime(path, (time.time() - 2 * purge.DAY,) * 2)
    did = bench.run(days=0)
    assert (did["orphans"], did["registered_again"]) == (2, 0)
    assert bench.stored == {lost.sha256}
    assert bench.files.refused() == {left.sha256}
    removed = {event.details["sha256"] for event in bench.events("orphan_removed")}
    assert removed == {ours.sha256, left.sha256}
    again = {event.details["sha256"] for event in bench.events("orphan_registered_again")}
    assert again == {left.sha256, lost.sha256}


def test_after_the_restore_of_an_older_journal_what_was_acknowledged_since_is_registered_again(
    bench: RetentionBench, image: Callable[..., FileDataset], tmp_path: Path
) -> None:
    delivered(bench, image(1))
    restored = Database(f"sqlite:///{tmp_path}/restored.sqlite", bench.clock)
    restored.migrate()
    bench.database = restored
    assert bench.run(days=0)["registered_again"] == 1
    bench.take_in()
    bench.work(minutes=0)
    assert bench.studies == [image(1).StudyInstanceUID]
    assert bench.run(days=0)["registered_again"] == 0
    restored.close()
