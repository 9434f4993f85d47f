"""The Structured Report of a study as a document, and any Structured Report as plain text."""

from __future__ import annotations

from collections.abc import Iterator

from highdicom.sr import CodedConcept, Comprehensive3DSR, ComprehensiveSR
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from pacs_node import __version__
from pacs_node.records import Outcome, Predecessor, ReportRequest
from pacs_node.report import content, source, uids
from pacs_node.report.facts import ReportFacts

SERIES_NUMBER = 9901
_FLAGS = ("CompletionFlag", "PreliminaryFlag", "VerificationFlag")


def build(facts: ReportFacts) -> Dataset:
    """The report of a study, with file meta information, ready to be written in Explicit VR Little Endian.

    Comprehensive SR (88.33; 88.34 by setting): TID 1500, or TID 2000 where no image could be analyzed.
    The same request gives the same UIDs and bytes. Raises InputError where a source lacks a UID.
    """
    request, newest = facts.request, facts.newest
    others = [image.source for image in facts.images if image.source is not newest]
    tree = content.failure_report if facts.outcome is Outcome.FAILED else content.measurement_report
    document = (ComprehensiveSR if facts.settings.iod == "comprehensive" else Comprehensive3DSR)(
        evidence=[source.normalize(header) for header in (newest, *others)],
        content=tree(facts),
        series_instance_uid=uids.sr_series(facts),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids.sr(facts),
        instance_number=1,
        is_complete=True,
        is_final=False,
        series_description=facts.description,
        manufacturer=content.MANUFACTURER,
        manufacturer_model_name="pacs-node",
        device_serial_number=request.node.device_uid,
        software_versions=__version__,
    )
    _complete(document, facts, source.decoded(newest))
    source.inherit(document, newest, request.created_at)
    return document


def _complete(document: Dataset, facts: ReportFacts, header: Dataset) -> None:
    """Add what highdicom leaves out: equipment, procedures, requests, predecessor, and the gaps."""
    request = facts.request
    document.DeviceUID = request.node.device_uid
    document.ContributingEquipmentSequence = [processing_equipment(request, header)]
    document.PerformedProcedureCodeSequence = source.codes(header, "ProcedureCodeSequence")
    if header.get("RequestAttributesSequence"):
        document.ReferencedRequestSequence = _requests(header)
    if facts.gaps:
        document.CompletionFlag = "PARTIAL"
        document.CompletionFlagDescription = ", ".join(facts.gaps)
    if request.predecessor:
        document.PredecessorDocumentsSequence = [_reference(request.predecessor, request.study_instance_uid)]


def processing_equipment(request: ReportRequest, header: Dataset) -> Dataset:
    """The program and the model that made an object, and the time (PS3.3 C.12.1.1.5)."""
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.ProcessingEquipment)]
    equipment.Manufacturer = content.MANUFACTURER
    equipment.ManufacturerModelName = "pacs-node"
    equipment.SoftwareVersions = [__version__, request.model.full_version]
    equipment.DeviceUID = request.node.device_uid
    equipment.ContributionDateTime = f"{source.local_time(header, request.created_at):%Y%m%d%H%M%S.%f}"
    equipment.ContributionDescription = f"Analysis by {request.model.name}"
    return equipment


def _requests(header: Dataset) -> list[Dataset]:
    """The requests that the report answers (PS3.3 C.17.2), as the source states them; all Type 2."""
    requests = []
    for attributes in header.RequestAttributesSequence:
        item = Dataset()
        item.StudyInstanceUID = attributes.get("StudyInstanceUID") or header.StudyInstanceUID
        item.AccessionNumber = attributes.get("AccessionNumber") or header.get("AccessionNumber")
        item.ReferencedStudySequence = [
            study
            for study in attributes.get("ReferencedStudySequence") or []
            if study.get("ReferencedSOPClassUID") and study.get("ReferencedSOPInstanceUID")
        ]
        for keyword in ("RequestedProcedureID", "RequestedProcedureDescription"):
            setattr(item, keyword, attributes.get(keyword))
        item.RequestedProcedureCodeSequence = source.codes(attributes, "RequestedProcedureCodeSequence")
        item.PlacerOrderNumberImagingServiceRequest = None
        item.FillerOrderNumberImagingServiceRequest = None
        requests.append(item)
    return requests


def _reference(predecessor: Predecessor, study_instance_uid: str) -> Dataset:
    document, series, study = Dataset(), Dataset(), Dataset()
    document.ReferencedSOPClassUID = predecessor.sop_class_uid
    document.ReferencedSOPInstanceUID = predecessor.sop_instance_uid
    series.SeriesInstanceUID = predecessor.series_instance_uid
    series.ReferencedSOPSequence = [document]
    study.StudyInstanceUID = study_instance_uid
    study.ReferencedSeriesSequence = [series]
    return study


def as_text(dataset: Dataset) -> str:
    """A report in plain lines: title and flags, then its content, a line for each item, indented by depth.

    Images are called by their SOP Instance UID. Works for any Structured Report.
    """
    flags = ", ".join(str(dataset.get(keyword) or "").lower() for keyword in _FLAGS if dataset.get(keyword))
    lines = [str(dataset.get("SeriesDescription") or "Structured Report"), f"{_name(dataset)} ({flags})"]
    if dataset.get("CompletionFlagDescription"):
        lines.append(str(dataset.CompletionFlagDescription))
    for study in dataset.get("PredecessorDocumentsSequence") or []:
        for series in study.ReferencedSeriesSequence:
            lines += [
                f"replaces {reference.ReferencedSOPInstanceUID}" for reference in series.ReferencedSOPSequence
            ]
    lines += _lines(dataset, 1)
    return "\n".join(lines)


def _lines(item: Dataset, depth: int) -> Iterator[str]:
    for child in item.get("ContentSequence") or []:
        value = _value(child)
        yield "  " * depth + (f"{_name(child)}: {value}" if value else _name(child))
        yield from _lines(child, depth + 1)


def _name(item: Dataset) -> str:
    return _meaning(item, "ConceptNameCodeSequence") or "(no name)"


def _meaning(item: Dataset, keyword: str) -> str:
    sequence = item.get(keyword) or [Dataset()]
    return str(sequence[0].get("CodeMeaning") or sequence[0].get("CodeValue") or "")


def _value(item: Dataset) -> str:
    """A content item's value (PS3.3 C.17.3): text, code, number with unit, UID, coordinates or image."""
    kind = item.get("ValueType")
    if kind == "CODE":
        return _meaning(item, "ConceptCodeSequence")
    if kind == "NUM":
        measured = (item.get("MeasuredValueSequence") or [Dataset()])[0]
        units = (measured.get("MeasurementUnitsCodeSequence") or [Dataset()])[0]
        unit = str(units.get("CodeValue") or "").strip("{}")
        return f"{float(measured.NumericValue):g} {unit}" if measured.get("NumericValue") is not None else ""
    if kind == "SCOORD":
        points = [f"{float(value):g}" for value in item.get("GraphicData") or []]
        pairs = " ".join(f"({x}, {y})" for x, y in zip(points[::2], points[1::2], strict=False))
        return f"{str(item.get('GraphicType')).lower()} {pairs}"
    if kind in ("IMAGE", "COMPOSITE", "WAVEFORM"):
        reference = (item.get("ReferencedSOPSequence") or [Dataset()])[0]
        return str(reference.get("ReferencedSOPInstanceUID") or "")
    for keyword in ("TextValue", "UID", "PersonName", "DateTime", "Date", "Time"):
        if item.get(keyword):
            return str(item[keyword].value)
    return ""
