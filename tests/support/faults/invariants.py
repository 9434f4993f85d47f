"""The node's invariants, checked after a run of the fault harness."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from io import BytesIO
from typing import Any

import sqlalchemy as sa
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from pacs_node.files import FileStore
from pacs_node.journal import audit
from pacs_node.journal.database import Database
from pacs_node.journal.schema import AuditRow, DeliveryRow, InstanceRow, ReportRow, ResultRow, StudyRow
from pacs_node.records import DeliveryState, StudyState
from support.faults.pacs import OrthancPacs, ScriptedPacs
from support.faults.senders import Image, data_sha256


@dataclass
class Figures:
    """The figures of a run; `violations` is empty if all invariants held."""

    seed: str
    kills: int = 0
    by_point: dict[str, int] = field(default_factory=dict)
    stalls: dict[str, int] = field(default_factory=dict)
    """Processes that stood still for longer than their leases and went on, by the point before which."""
    studies: int = 0
    images: int = 0
    acknowledged: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    reports: int = 0
    amended: int = 0
    results: int = 0
    sendings: int = 0
    """C-STOREs that reached the PACS, of which so many were repeats."""
    repeats: int = 0
    moods: dict[str, int] = field(default_factory=dict)
    orphans: int = 0
    """Files that no row names: results that were made and not committed before the process died."""
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The figures as JSON types."""
        return asdict(self)


class Invariants:
    """The invariants; each one that does not hold becomes a violation in the figures."""

    def __init__(
        self,
        figures: Figures,
        journal: Database,
        files: FileStore,
        images: list[Image],
        pacs: ScriptedPacs | OrthancPacs,
    ) -> None:
        self._figures, self._journal, self._files = figures, journal, files
        self._images, self._pacs, self._stored = images, pacs, pacs.stored()
        with journal.read() as connection:
            self._instances = connection.execute(sa.select(InstanceRow.__table__)).all()
            self._studies = connection.execute(sa.select(StudyRow.__table__)).all()
            self._results = connection.execute(sa.select(ResultRow.__table__)).all()
            self._deliveries = connection.execute(sa.select(DeliveryRow.__table__)).all()
            self._reports = connection.execute(sa.select(ReportRow.__table__)).all()

    def all(self) -> None:
        """Check every invariant."""
        figures = self._figures
        figures.studies, figures.images = len(self._studies), len(self._instances)
        figures.acknowledged = sum(image.acknowledged for image in self._images)
        figures.reports, figures.results = len(self._reports), len(self._results)
        figures.amended = figures.reports - len({row.study_id for row in self._reports})
        figures.sendings = sum(counts.total() for counts in self._pacs.sent.values())
        figures.repeats = figures.sendings - len(self._pacs.sent)
        for check in (
            self._every_acknowledged_image_is_stored,
            self._every_study_has_one_answer,
            self._sent_objects_are_the_stored_files,
            self._every_file_has_a_row,
            self._the_audit_log_is_complete,
            self._no_revision_is_reported_twice,
        ):
            figures.violations += [f"{check.__name__[1:]}: {what}" for what in check()]

    def _every_acknowledged_image_is_stored(self) -> Iterator[str]:
        rows: dict[str, list[Any]] = {}
        for row in self._instances:
            rows.setdefault(row.sop_instance_uid, []).append(row)
            path = self._files.path(row.sha256)
            if not path.is_file():
                yield f"{row.sop_instance_uid}: no file {row.sha256}"
            elif hashlib.sha256(path.read_bytes()).hexdigest() != row.sha256:
                yield f"{row.sop_instance_uid}: the file's bytes are not {row.sha256}"
        for image in self._images:
            if not image.acknowledged:
                yield f"{image.uid}: never acknowledged"
                continue
            kept = rows.get(image.uid, [])
            if len(kept) != 1:
                yield f"{image.uid}: {len(kept)} rows"
            elif data_sha256(self._files.path(kept[0].sha256)) != image.sha256:
                yield f"{image.uid}: what is kept is not what was sent"

    def _every_study_has_one_answer(self) -> Iterator[str]:
        reports: dict[str, list[Dataset]] = {}
        captures: Counter[str] = Counter()
        for data in self._stored.values():
            item = read_dataset(BytesIO(data), is_implicit_VR=False, is_little_endian=True)
            if item.Modality == "SR":
                reports.setdefault(item.StudyInstanceUID, []).append(item)
            else:
                captures[str(item.SourceImageSequence[0].ReferencedSOPInstanceUID)] += 1
        sent: dict[str, set[str]] = {}
        for image in self._images:
            sent.setdefault(image.study, set()).add(image.uid)
            if captures[image.uid] != 1:
                yield f"image {image.uid}: {captures[image.uid]} SCs in the PACS"
        for study in self._studies:
            if study.state != StudyState.REPORTED:
                yield f"study {study.study_instance_uid}: {study.state} ({study.reason})"
        for study_uid, images in sent.items():
            replaced = {uid for report in reports.get(study_uid, []) for uid in _predecessors(report)}
            last = [item for item in reports.get(study_uid, []) if item.SOPInstanceUID not in replaced]
            if len(last) != 1:
                yield f"study {study_uid}: {len(last)} SRs that no other replaces"
            elif _evidence(last[0]) != images:
                yield f"study {study_uid}: its last SR is not of all of its images"

    def _sent_objects_are_the_stored_files(self) -> Iterator[str]:
        results = {row.sop_instance_uid: row for row in self._results}
        delivered = {row.result_id for row in self._deliveries if row.state == DeliveryState.SENT}
        for row in self._results:
            if row.id not in delivered:
                yield f"result {row.sop_instance_uid}: not delivered"
            if row.sop_instance_uid not in self._stored:
                yield f"result {row.sop_instance_uid}: not in the PACS"
        for uid, shas in self._pacs.sent.items():
            if uid not in results:
                yield f"{uid}: sent, but no result of the journal"
            elif set(shas) != {data_sha256(self._files.path(results[uid].sha256))}:
                yield f"{uid}: what was sent is not the stored file"

    def _every_file_has_a_row(self) -> Iterator[str]:
        named = {row.sha256 for row in self._instances} | {row.sha256 for row in self._results}
        kept = {path.stem for path in (self._files.root / "files").rglob("*.dcm")}
        self._figures.orphans = len(kept - named)
        # A killed worker may leave a result's file that it could not commit; a received one is never lost.
        for sha256 in kept - named:
            header = dcmread(self._files.path(sha256), stop_before_pixels=True)
            if header.Modality not in ("SR", "OT"):
                yield f"file {sha256}: an image that no row names"
        unreadable = self._files.root / "spool" / "unreadable"
        if unreadable.exists():
            yield f"set aside: {[path.name for path in unreadable.iterdir()]}"

    def _the_audit_log_is_complete(self) -> Iterator[str]:
        count, wrong = audit.verify(self._journal)
        if wrong:
            yield f"{wrong} (of {count})"
        with self._journal.read() as connection:
            rows = connection.execute(sa.select(AuditRow.event, AuditRow.sop_instance_uid, AuditRow.details))
            entries = [(row.event, row.sop_instance_uid, json.loads(row.details)) for row in rows]
        events = Counter((event, uid) for event, uid, _ in entries)
        for row in self._instances:
            for event in ("received", "analyzed"):
                if (times := events[event, row.sop_instance_uid]) != 1:
                    yield f"{row.sop_instance_uid}: recorded {times} times as {event}"
        for row in self._results:
            if (times := events["sent", row.sop_instance_uid]) != 1:
                yield f"{row.sop_instance_uid}: its delivery is recorded {times} times"
        reported = sum(event == "reported" for event, _, _ in entries)
        if reported != len(self._reports):
            yield f"{reported} times reported, {len(self._reports)} reports"

    def _no_revision_is_reported_twice(self) -> Iterator[str]:
        documents = Counter(row.report_id for row in self._results if row.role == "SR")
        revisions = Counter((row.study_id, row.revision) for row in self._reports)
        for row in self._reports:
            if documents[row.id] != 1 or revisions[row.study_id, row.revision] != 1:
                yield f"study {row.study_id}: revision {row.revision} was reported more than once"


def _predecessors(report: Dataset) -> set[str]:
    return set(_references(report.get("PredecessorDocumentsSequence") or ()))


def _evidence(report: Dataset) -> set[str]:
    return set(_references(report.get("CurrentRequestedProcedureEvidenceSequence") or ()))


def _references(studies: Any) -> Iterator[str]:
    for study in studies:
        for series in study.ReferencedSeriesSequence:
            yield from (str(item.ReferencedSOPInstanceUID) for item in series.ReferencedSOPSequence)
