"""A real journal, on SQLite and on PostgreSQL, with a clock that the test sets, and steps to fill it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from pydicom import dcmread
from pydicom.sr.coding import Code

from pacs_node.heatmap import HeatMap
from pacs_node.journal import instances, queue, studies
from pacs_node.journal.database import Database
from pacs_node.journal.schema import DeliveryRow, ReportRow, ResultRow, StudyRow
from pacs_node.records import (
    Analysis,
    Arrival,
    Finding,
    Instance,
    ModelIdentity,
    Outcome,
    Result,
    ResultRole,
    Study,
)


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(journal_url: str, clock: Clock) -> Iterator[Database]:
    database = Database(journal_url, clock)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def model() -> ModelIdentity:
    return ModelIdentity(
        id="test-model",
        name="test",
        version="1",
        sha256="ab" * 32,
        threshold=0.5,
        finding=Code("125605004", "SCT", "Fracture of bone"),
        positive_phrase="Fracture suspected",
        negative_phrase="no fracture suspected",
        negative_caveat="This does not exclude a fracture.",
    )


@pytest.fixture
def finding() -> Finding:
    heat_map = HeatMap(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4), (8.0, 9.0), (16.0, 17.0))
    return Finding("cd" * 32, 0.1234, False, heat_map, (), ("a note",))


@pytest.fixture
def arrival(clock: Clock) -> Callable[..., Arrival]:
    def make(image: str = "1.2.3", sha256: str = "a" * 64, **changes: object) -> Arrival:
        values: dict[str, object] = {
            "sha256": sha256,
            "size": 10,
            "received_at": clock.now,
            "calling_ae_title": "PACS",
            "called_ae_title": "NODE",
            "address": "127.0.0.1",
            "study_instance_uid": "1.2",
            "series_instance_uid": "1.2.1",
            "sop_instance_uid": image,
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "modality": "DX",
            "patient_id": "P1",
            "skip_reason": None,
        }
        return Arrival(**(values | changes))  # type: ignore[arg-type]

    return make


@dataclass(frozen=True)
class Steps:
    """Drives the queues of one journal."""

    database: Database
    model: ModelIdentity
    finding: Finding

    def analyze(self) -> None:
        """Analyze all that is due."""
        while claim := instances.claim_instances(self.database, 8):
            self.finish(claim)

    def finish(self, claim: queue.Claim[Instance]) -> int:
        """Give every image of a claim the same finding."""
        analyses = [Analysis(instance, self.finding) for instance in claim.items]
        return instances.finish_instances(self.database, claim.token, self.model, analyses)

    def report(self, destinations: tuple[str, ...] = ()) -> None:
        """Analyze what is due and report the study."""
        self.analyze()
        claim = studies.claim_study(self.database)
        assert claim is not None
        assert self.finish_report(claim, destinations)

    def finish_report(self, claim: queue.Claim[Study], destinations: tuple[str, ...] = ()) -> bool:
        """Commit a report with one SC and one SR."""
        (study,) = claim.items
        results = tuple(
            Result(role, f"2.25.{study.id}{study.revision}{number}", "1.2.840", "2.25.7", "f" * 64, 9, None)
            for number, role in enumerate((ResultRole.SC, ResultRole.SR))
        )
        report = studies.StudyReport(
            study.revision, "e" * 64, self.model, Outcome.NEGATIVE, "summary", self.database.clock(), results
        )
        routes = dict.fromkeys(("SC", "SR"), destinations)
        return studies.finish_report(self.database, claim.token, study, report, routes)


def commit_results(database: Database, paths: Sequence[Path], destination: str) -> None:
    """Insert a reported study 1.2 with these files as its results, all due for one destination."""
    study = {"id": 1, "study_instance_uid": "1.2", "state": "REPORTED", "revision": 1, "due_at": 0.0}
    times = {"first_received_at": 0.0, "last_received_at": 0.0}
    report = {"id": 1, "study_id": 1, "revision": 1, "inputs_key": "k", "outcome": "NEGATIVE", "summary": ""}
    model = {"model_id": "m", "model_sha256": "m", "created_at": 0.0}
    with database.write() as t:
        t.execute(sa.insert(StudyRow).values(**study, **times))
        t.execute(sa.insert(ReportRow).values(**report, **model))
        for number, path in enumerate(paths, 1):
            dataset = dcmread(path)
            t.execute(
                sa.insert(ResultRow).values(
                    id=number,
                    report_id=1,
                    study_id=1,
                    role="SC",
                    sop_instance_uid=dataset.SOPInstanceUID,
                    sop_class_uid=dataset.SOPClassUID,
                    series_instance_uid=dataset.SeriesInstanceUID,
                    sha256=path.stem,
                    size=path.stat().st_size,
                    created_at=0.0,
                )
            )
            t.execute(
                sa.insert(DeliveryRow).values(
                    result_id=number, destination=destination, state="PENDING", due_at=0.0
                )
            )
