"""The steps of the work, in order, nothing else. The first file to read.

`analyze_instances`: decode -> prepare the pixels -> classify and explain -> find the regions.
`report_study`: build -> check -> store, each Secondary Capture, then the Structured Report.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from pacs_node.analyze import decode, pixels, regions
from pacs_node.config import Report
from pacs_node.errors import InputError
from pacs_node.files import FileStore
from pacs_node.records import (
    Analysis,
    Finding,
    Instance,
    ModelIdentity,
    Outcome,
    Prediction,
    ReportRequest,
    Result,
)
from pacs_node.report import check, sc, source, sr, uids, wording


class Classifier(Protocol):
    """What the pipeline needs of a model."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model it is."""
        ...

    def predict(self, images: Sequence[NDArray[np.float32]]) -> Sequence[Prediction]:
        """One prediction for each image; images are (rows, columns), 0..1, as displayed."""
        ...


@dataclass(frozen=True, slots=True)
class StudyResults:
    """What came of reporting a study."""

    outcome: Outcome
    summary: str
    results: tuple[Result, ...]
    mismatches: tuple[str, ...]
    """Patient and study attributes in which the images differ; the newest image's were taken."""


def analyze_instances(
    instances: Sequence[Instance], path: Callable[[str], Path], classifier: Classifier
) -> list[Analysis]:
    """Analyze images in one batch; one that cannot be used fails alone, with the reason. `path` finds a file
    by its sha256."""
    failures: dict[int, str] = {}
    readable: list[tuple[Instance, decode.Decoded, pixels.Prepared]] = []
    for instance in instances:
        try:
            decoded = decode.read(path(instance.sha256))
            readable.append((instance, decoded, pixels.prepare(decoded)))
        except InputError as error:
            failures[instance.id] = str(error)
    displays = [prepared.display for _, _, prepared in readable]
    predictions = classifier.predict(displays) if displays else ()
    model = classifier.identity
    found = {
        instance.id: _finding(decoded, prepared, prediction, model)
        for (instance, decoded, prepared), prediction in zip(readable, predictions, strict=True)
    }
    return [Analysis(instance, found.get(instance.id), failures.get(instance.id)) for instance in instances]


def _finding(
    decoded: decode.Decoded, prepared: pixels.Prepared, prediction: Prediction, model: ModelIdentity
) -> Finding:
    positive = prediction.probability >= model.threshold
    rows, columns = prepared.display.shape
    header = decoded.header
    return Finding(
        content_key=decoded.content_key,
        probability=prediction.probability,
        positive=positive,
        heat_map=prediction.heat_map,
        regions=regions.find(prediction.heat_map, rows, columns) if positive else (),
        notes=prepared.notes,
        station=str(header.get("StationName") or header.get("ManufacturerModelName") or "")[:64],
        brightness=round(float(prepared.display.mean()), 4),
    )


def report_study(
    request: ReportRequest, files: FileStore, settings: Report, known: Collection[str] = ()
) -> StudyResults:
    """Make and durably store the results of a study; those whose UID is in `known` exist and are left alone.

    Raises CheckError where a result breaks one of our own rules; then nothing of the study must leave.
    """
    results = []
    for image in request.images:
        if image.finding is None or not settings.secondary_capture:
            continue
        if uids.sc(request, image, settings) in known:
            continue
        display = pixels.prepare(decode.read(files.path(image.instance.sha256))).display
        capture = sc.build(request, image, display, settings)
        results.append(_store("SC", capture, request, files, image.instance.id))
    document = sr.build(request, settings)
    results.append(_store("SR", document, request, files, None))
    return StudyResults(
        outcome=wording.outcome(request),
        summary=wording.summary(request, settings),
        results=tuple(results),
        mismatches=source.mismatches(request),
    )


def _store(
    role: str, dataset: Dataset, request: ReportRequest, files: FileStore, source: int | None
) -> Result:
    check.verify(dataset, request)
    stored = files.put(encoded(dataset))
    return Result(
        role=role,
        sop_instance_uid=dataset.SOPInstanceUID,
        sop_class_uid=dataset.SOPClassUID,
        series_instance_uid=dataset.SeriesInstanceUID,
        sha256=stored.sha256,
        size=stored.size,
        source_instance_id=source,
    )


def encoded(dataset: Dataset) -> bytes:
    """A data set with its file meta information as the bytes of a file (PS3.10)."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
