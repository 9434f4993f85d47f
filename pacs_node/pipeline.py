"""The steps of the work, in order, nothing else. The first file to read.

`analyze_instances`: decode -> prepare the pixels -> classify and explain -> in scope? -> find the regions.
`report_basis`: the rules of reporting: which images count, and why a study gets no report or a silent one.
`report_study`: facts; build -> check -> store, each Secondary Capture, then the Structured Report.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    StudyState,
)
from pacs_node.report import check, facts, sc, source, sr, uids
from pacs_node.report.facts import ReportFacts

OUTSIDE = "outside the model's scope"
"""Beginning of the reason why an image that could be analyzed was not."""


class Predictor(Protocol):
    """A model as the pipeline needs it."""

    @property
    def identity(self) -> ModelIdentity:
        """Name, version, codes and phrases of the model."""
        ...

    def predict(self, images: Sequence[NDArray[np.float32]]) -> Sequence[Prediction]:
        """One prediction for each image; images are (rows, columns), 0..1, as displayed."""
        ...

    def stats(self) -> Mapping[str, float]:
        """Figures of its work so far, for /metrics: images, seconds, GPU memory."""
        ...


@dataclass(frozen=True, slots=True)
class StudyResults:
    """The stored results of a study, and what they state."""

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
    classifier: Predictor,
    known: Mapping[str, Mapping[str, Finding]] = MappingProxyType({}),
) -> list[Analysis]:
    """Analyze images in one batch; an image that cannot be used fails alone, with the reason.

    An image of a body part that the model does not know is skipped; one unlike the training images fails.

    `path` finds a file by its sha256. `known` has the model's earlier findings by SOPInstanceUID and content
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


@dataclass(frozen=True, slots=True)
class ReportBasis:
    """The images on which the report of a study rests, or why it gets none (yet)."""

    images: tuple[ImageResult, ...] = ()
    """In their order; empty where the study gets no report."""
    stale: tuple[Instance, ...] = ()
    """Images with findings of another model only: they are analyzed again before the study is reported."""
    refusal: str = ""
    """Why there is no report: nothing to analyze, or an identity conflict."""
    state: StudyState = StudyState.REPORTED
    """SKIPPED or FAILED where the report is refused."""

    @property
    def failure(self) -> str | None:
        """Why no image was analyzed; None where any was."""
        if any(image.finding for image in self.images):
            return None
        return "; ".join(sorted({str(image.failure) for image in self.images}))


def report_basis(
    instances: Iterable[Instance],
    findings: Mapping[int, Finding],
    path: Callable[[str], Path],
    failure: str | None = None,
) -> ReportBasis:
    """Apply the rules of reporting to a study's images and their findings, by instance id.

    Where the making of the report failed, `failure` is the reason of every image that was not skipped. Raises
    DecodeError where the header of an image that was not skipped cannot be read.
    """
    every = list(instances)
    attempted = {i.id for i in every if i.state != InstanceState.SKIPPED}
    findings = {id_: finding for id_, finding in findings.items() if id_ in attempted and not failure}
    if failure:
        failed = InstanceState.FAILED
        every = [replace(i, state=failed, reason=failure) if i.id in attempted else i for i in every]
    stale = tuple(i for i in every if i.state == InstanceState.ANALYZED and i.id not in findings)
    if stale:
        return ReportBasis(stale=stale)
    images = facts.images_to_report(
        ImageResult(i, _header(i, path), findings.get(i.id), None if i.id in findings else i.reason)
        for i in every
        if i.id in attempted or i.sop_class_uid in admission.XRAY_CLASSES
    )
    if not images:
        reasons = Counter(i.reason for i in every)
        listed = "; ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items(), key=str))
        return ReportBasis(refusal=f"nothing to analyze: {listed}", state=StudyState.SKIPPED)
    patients = {
        image.instance.patient_id
        for image in images
        # A digitized film often names no patient; that is no other patient.
        if image.instance.patient_id or image.instance.state != InstanceState.SKIPPED
    }
    if len(patients) > 1:
        refusal = "identity conflict: the study's images name more than one PatientID"
        return ReportBasis(refusal=refusal, state=StudyState.FAILED)
    return ReportBasis(images)


def inputs_key(request: ReportRequest) -> str:
    """Hash of all that decides what a report states: a study whose key is unchanged needs no new report."""
    model = request.model.key
    model += f" renewed {request.renewed}" if request.renewed else ""
    model += f" without {request.missing_images}" if request.missing_images else ""
    images = sorted(
        (image.instance.sop_instance_uid, image.finding.content_key if image.finding else image.failure)
        for image in request.images
    )
    return hashlib.sha256(json.dumps([model, images]).encode()).hexdigest()


def is_silent(
    making_failed: bool, earlier: Outcome | None, same_failures: int, settings: ReportSettings
) -> bool:
    """Whether a report without any finding is withheld.

    It is where only its making failed and an earlier report has findings, which it must not replace, and
    where `same_failures` other reports of the last hour gave the same reason already.
    """
    if making_failed and earlier in (Outcome.POSITIVE, Outcome.NEGATIVE):
        return True
    return same_failures >= settings.failures_per_hour


def _header(instance: Instance, path: Callable[[str], Path]) -> Dataset:
    try:
        return reading.header(path(instance.sha256))
    except DecodeError:
        if instance.state != InstanceState.SKIPPED:
            raise
    # An object that was never to be analyzed must not stop the report of the others.
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = instance.sop_class_uid, instance.sop_instance_uid
    header.StudyInstanceUID = instance.study_instance_uid
    header.SeriesInstanceUID, header.Modality = instance.series_instance_uid, instance.modality
    return header


def report_study(
    request: ReportRequest, files: FileStore, settings: ReportSettings, known: Collection[str] = ()
) -> StudyResults:
    """Make and durably store the results of a study; those whose UID is in `known` exist and are left alone.

    Raises CheckError where a result breaks a rule; then nothing of the study must leave.
    """
    report = ReportFacts.of(request, settings)
    results, kept = [], []
    for image in report.images:
        if image.finding is None or not settings.secondary_capture:
            continue
        if (uid := uids.sc(report, image)) in known:
            kept.append(str(uid))
            continue
        display = pixels.prepare(decode.read(files.path(image.instance.sha256))).display
        capture = sc.build(report, image, display)
        results.append(_store(ResultRole.SC, capture, report, files, image.instance.id))
    results.append(_store(ResultRole.SR, sr.build(report), report, files, None))
    return StudyResults(
        outcome=report.outcome,
        summary=report.summary,
        results=tuple(results),
        mismatches=source.mismatches(image.source for image in request.images),
        kept=tuple(kept),
    )


def _store(
    role: ResultRole, dataset: Dataset, report: ReportFacts, files: FileStore, source: int | None
) -> Result:
    check.verify(dataset, report)
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
