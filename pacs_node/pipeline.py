"""The steps of the work, in order, nothing else. The first file to read.

`analyze_instances`: decode -> prepare the pixels -> classify and explain -> in scope? -> find the regions.
`images_to_report`: which images a study's report accounts for.
`report_study`: build -> check -> store, each Secondary Capture, then the Structured Report.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from pacs_node.analyze import decode, pixels, regions
from pacs_node.config import ReportSettings
from pacs_node.dicom import anatomy, reading
from pacs_node.errors import DecodeError, InputError
from pacs_node.files import FileStore
from pacs_node.receive import admission
from pacs_node.records import (
    Analysis,
    Finding,
    ImageResult,
    Instance,
    InstanceState,
    ModelIdentity,
    Outcome,
    Prediction,
    ReportRequest,
    Result,
    ResultRole,
)
from pacs_node.report import check, sc, source, sr, uids, wording

OUTSIDE = "outside the model's scope"
"""How the reason begins why an image that could be analyzed was not."""


class Classifier(Protocol):
    """What the pipeline needs of a model."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model it is."""
        ...

    def predict(self, images: Sequence[NDArray[np.float32]]) -> Sequence[Prediction]:
        """One prediction for each image; images are (rows, columns), 0..1, as displayed."""
        ...

    def stats(self) -> Mapping[str, float]:
        """What it can tell of its work so far, for /metrics: its images, its seconds, its GPU's memory."""
        ...


@dataclass(frozen=True, slots=True)
class StudyResults:
    """What came of reporting a study."""

    outcome: Outcome
    summary: str
    results: tuple[Result, ...]
    mismatches: tuple[str, ...]
    """Patient and study attributes in which the images differ; the newest image's were taken."""
    kept: tuple[str, ...]
    """SOP Instance UIDs of the Secondary Captures that were made before and are this report's too."""


def analyze_instances(
    instances: Sequence[Instance],
    path: Callable[[str], Path],
    classifier: Classifier,
    known: Mapping[str, Mapping[str, Finding]] = MappingProxyType({}),
) -> list[Analysis]:
    """Analyze images in one batch; one that cannot be used fails alone, with the reason.

    One of a body part that the model does not know is skipped; one that is unlike those that it knows fails.

    `path` finds a file by its sha256. `known` has what the model said before, by SOPInstanceUID and content
    key: the same content is not given to the model again.
    """
    model = classifier.identity
    analyses: dict[int, Analysis] = {}
    readable: list[tuple[Instance, decode.Decoded, pixels.Prepared]] = []
    for instance in instances:
        try:
            decoded = decode.read(path(instance.sha256))
            part = anatomy.defined_term(decoded.header)
            if part and model.scope_limit and model.body_parts and part not in model.body_parts:
                reason = f"{OUTSIDE}: body part {part}"
                analyses[instance.id] = Analysis(instance, None, reason, skipped=True)
            elif same := known.get(instance.sop_instance_uid, {}).get(decoded.content_key):
                analyses[instance.id] = Analysis(instance, same, copied=True)
            else:
                prepared = pixels.prepare(decoded)
                if prepared.is_blank:
                    raise InputError("nothing to see: the image has no contrast")
                readable.append((instance, decoded, prepared))
        except InputError as error:
            analyses[instance.id] = Analysis(instance, None, str(error))
    displays = [prepared.display for _, _, prepared in readable]
    predictions = classifier.predict(displays) if displays else ()
    for (instance, decoded, prepared), prediction in zip(readable, predictions, strict=True):
        unlike = model.scope_limit and prediction.scope is not None and prediction.scope > model.scope_limit
        analyses[instance.id] = Analysis(
            instance,
            None if unlike else _finding(decoded, prepared, prediction, model),
            f"{OUTSIDE}: the image is unlike those that it knows" if unlike else None,
            scope=prediction.scope,
        )
    return [analyses[instance.id] for instance in instances]


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


def images_to_report(
    instances: Iterable[Instance], findings: Mapping[int, Finding], path: Callable[[str], Path]
) -> tuple[ImageResult, ...]:
    """The images of a study for which its report accounts, in order: analyzed, failed, and skipped X-rays.

    None where every image was skipped: such a study gets no report. Raises DecodeError where the header of an
    image that was not skipped cannot be read.
    """
    return source.accounted(
        ImageResult(one, _header(one, path), finding, None if finding else one.reason)
        for one in instances
        if one.state != InstanceState.SKIPPED or one.sop_class_uid in admission.XRAY_CLASSES
        for finding in [findings.get(one.id)]
    )


def _header(instance: Instance, path: Callable[[str], Path]) -> Dataset:
    try:
        return reading.header(path(instance.sha256))
    except DecodeError:
        if instance.state != InstanceState.SKIPPED:
            raise
    # An object that was never going to be read must not stop the report of the others.
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = instance.sop_class_uid, instance.sop_instance_uid
    header.StudyInstanceUID = instance.study_instance_uid
    header.SeriesInstanceUID, header.Modality = instance.series_instance_uid, instance.modality
    return header


def report_study(
    request: ReportRequest, files: FileStore, settings: ReportSettings, known: Collection[str] = ()
) -> StudyResults:
    """Make and durably store the results of a study; those whose UID is in `known` exist and are left alone.

    Raises CheckError where a result breaks one of our own rules; then nothing of the study must leave.
    """
    results, kept = [], []
    for image in request.images:
        if image.finding is None or not settings.secondary_capture:
            continue
        if (uid := uids.sc(request, image, settings)) in known:
            kept.append(str(uid))
            continue
        display = pixels.prepare(decode.read(files.path(image.instance.sha256))).display
        capture = sc.build(request, image, display, settings)
        results.append(_store(ResultRole.SC, capture, request, files, image.instance.id))
    document = sr.build(request, settings)
    results.append(_store(ResultRole.SR, document, request, files, None))
    return StudyResults(
        outcome=wording.outcome(request),
        summary=wording.summary(request, settings),
        results=tuple(results),
        mismatches=source.mismatches(image.source for image in request.images),
        kept=tuple(kept),
    )


def _store(
    role: ResultRole, dataset: Dataset, request: ReportRequest, files: FileStore, source: int | None
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
