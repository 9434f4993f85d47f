"""One odd study run through the node's pipeline in one process: the outcome of each file, and the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

import support.report_studies as studies
from pacs_node import config, pipeline
from pacs_node.dicom import reading
from pacs_node.errors import AdmissionError
from pacs_node.files import FileStore
from pacs_node.receive import admission
from pacs_node.records import Analysis, ImageResult, Instance, InstanceState, Prediction, ReportRequest
from pacs_node.report.source import in_order
from support.brightness import Brightness
from support.odd_inputs.corpus import Case

TODAY = date(2026, 1, 10)
RECEIVED_AT = 1_799_999_000.0


@dataclass
class Watched(Brightness):
    """A classifier that keeps the images that it is given."""

    shown: list[NDArray[np.float32]] = field(default_factory=list)

    def predict(self, images: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """As `Brightness.predict`."""
        self.shown += images
        return super().predict(images)


@dataclass
class Run:
    """The outcome of a case."""

    outcomes: tuple[str, ...]
    """Of each file, in the words of `Case.does`."""
    shown: list[NDArray[np.float32]]
    """What the classifier was given of each analyzed file."""
    request: ReportRequest | None = None
    """None where nothing is to be reported."""
    results: dict[str, Path] = field(default_factory=dict)
    """The results' files by role: "SR", and "SC" with the number of their image."""
    sources: dict[int, Path] = field(default_factory=dict)
    """The stored files by number."""
    summary: str = ""

    def result(self, role: str = "SR") -> Dataset:
        """A result, read back from its file."""
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
    analyses = pipeline.analyze_instances(instances, files.path, classifier)
    outcomes |= {analysis.instance.id: _said(analysis) for analysis in analyses}
    done = Run(tuple(outcomes[number] for number in sorted(outcomes)), classifier.shown)
    if not analyses:
        return done
    done.sources = {analysis.instance.id: files.path(analysis.instance.sha256) for analysis in analyses}
    images = [
        ImageResult(a.instance, reading.header(done.sources[a.instance.id]), a.finding, a.failure)
        for a in analyses
    ]
    done.request = studies.request(*in_order(images), model=classifier.identity)
    made = pipeline.report_study(done.request, files, config.ReportSettings(iod=iod))
    for result in made.results:
        image = "" if result.source_instance_id is None else str(result.source_instance_id)
        done.results[result.role + image] = files.path(result.sha256)
    done.summary = made.summary
    return done


def _admit(content: bytes, number: int, files: FileStore, rules: config.StudySettings) -> Instance | str:
    """The instance to analyze, or the outcome of a file that is not analyzed."""
    try:
        spooled, header = files.spool([content], admission.read_header)
        (stored,) = files.keep([spooled])
        files.forget([spooled])
        arrival = admission.examine(
            stored, header, RECEIVED_AT + number, rules, studies.NODE.device_uid, TODAY
        )
    except AdmissionError as error:
        return f"refused: 0x{error.status:04X} {error}"
    if arrival.skip_reason:
        return f"skipped: {arrival.skip_reason}"
    return Instance(
        **arrival.received(), id=number, study_id=1, state=InstanceState.RECEIVED, reason=None, attempts=1
    )


def _said(analysis: Analysis) -> str:
    if analysis.finding is None:
        return f"failed: {analysis.failure}"
    return "; ".join(["analyzed", *analysis.finding.notes])
