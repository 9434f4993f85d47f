"""One odd study through the node's own chain, in one process: what came of each file, and the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

import support.report_studies as studies
from pacs_node import config, pipeline
from pacs_node.errors import AdmissionError
from pacs_node.files import FileStore
from pacs_node.receive import admission
from pacs_node.records import Analysis, Instance, InstanceState, Prediction, ReportRequest
from support.brightness import Brightness
from support.odd_inputs.corpus import Case

TODAY = date(2026, 1, 10)
RECEIVED_AT = 1_799_999_000.0


@dataclass
class Watched(Brightness):
    """A classifier that keeps what it was shown."""

    shown: list[NDArray[np.float32]] = field(default_factory=list)

    def predict(self, images: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """As `Brightness.predict`."""
        self.shown += images
        return super().predict(images)


@dataclass
class Run:
    """What came of a case."""

    outcomes: tuple[str, ...]
    """Of each file, in the words of `Case.does`."""
    shown: list[NDArray[np.float32]]
    """What the classifier was given of each analyzed file."""
    request: ReportRequest | None = None
    """None where nothing is to be reported."""
    results: dict[str, Path] = field(default_factory=dict)
    """The results' files by role: "SR", and "SC" with the number of their image."""
    sources: dict[int, Path] = field(default_factory=dict)
    """The stored files of the images that were not skipped, by number, in the order of their arrival."""
    summary: str = ""

    def result(self, role: str = "SR") -> Dataset:
        """A result as it is read back."""
        return dcmread(self.results[role])


def run(case: Case, folder: Path, iod: str = "comprehensive") -> Run:
    """Admit, analyze, report and check, as the roles `receive` and `worker` do. No error may escape."""
    files = FileStore(folder)
    outcomes: dict[int, str] = {}
    instances: list[Instance] = []
    for number, content in enumerate(case.contents()):
        taken = _admit(content, number, files, case.rules)
        if isinstance(taken, Instance):
            instances.append(taken)
        else:
            outcomes[number] = taken
    classifier = Watched(threshold=0.2)
    skipped = [instance for instance in instances if instance.state == InstanceState.SKIPPED]
    outcomes |= {instance.id: f"skipped: {instance.reason}" for instance in skipped}
    received = [instance for instance in instances if instance.state == InstanceState.RECEIVED]
    analyses = pipeline.analyze_instances(received, files.path, classifier)
    outcomes |= {analysis.instance.id: _said(analysis) for analysis in analyses}
    done = Run(tuple(outcomes[number] for number in sorted(outcomes)), classifier.shown)
    if not analyses:
        return done
    done.sources = {analysis.instance.id: files.path(analysis.instance.sha256) for analysis in analyses}
    ended = [replace(a.instance, state=a.state, reason=a.failure) for a in analyses]
    findings = {a.instance.id: a.finding for a in analyses if a.finding}
    images = pipeline.report_basis([*ended, *skipped], findings, files.path).images
    done.request = studies.request(*images, model=classifier.identity)
    made = pipeline.report_study(done.request, files, config.ReportSettings(iod=iod))
    for result in made.results:
        image = "" if result.source_instance_id is None else str(result.source_instance_id)
        done.results[result.role + image] = files.path(result.sha256)
    done.summary = made.summary
    return done


def _admit(content: bytes, number: int, files: FileStore, rules: config.StudySettings) -> Instance | str:
    """An instance to be analyzed or skipped, or why the file is refused."""
    try:
        spooled, header = files.spool([content], admission.read_header)
        (stored,) = files.keep([spooled])
        files.forget([spooled])
        arrival = admission.examine(
            stored, header, RECEIVED_AT + number, rules, studies.NODE.device_uid, TODAY
        )
    except AdmissionError as error:
        return f"refused: 0x{error.status:04X} {error}"
    state = InstanceState.SKIPPED if arrival.skip_reason else InstanceState.RECEIVED
    return Instance(
        **arrival.received(), id=number, study_id=1, state=state, reason=arrival.skip_reason, attempts=1
    )


def _said(analysis: Analysis) -> str:
    if analysis.finding is None:
        return f"failed: {analysis.failure}"
    return "; ".join(["analyzed", *analysis.finding.notes])
