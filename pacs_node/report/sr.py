"""The Structured Report of a study: content, document, identity, and the times of the request."""

from __future__ import annotations

from highdicom.sr import CodedConcept, Comprehensive3DSR, ComprehensiveSR
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from pacs_node import __version__, config
from pacs_node.records import Outcome, Predecessor, ReportRequest
from pacs_node.report import content, source, uids, wording

SERIES_NUMBER = 9901


def build(request: ReportRequest, settings: config.ReportSettings) -> Dataset:
    """The report of a study, with file meta information, ready to be written in Explicit VR Little Endian.

    Comprehensive SR (88.33; 88.34 by setting): TID 1500, or TID 2000 where no image could be analyzed.
    The same request gives the same UIDs and bytes. Raises InputError where a source lacks a UID.
    """
    outcome = wording.outcome(request)
    newest = source.newest(request)
    others = [image.source for image in request.images if image.source is not newest]
    tree = content.failure_report if outcome is Outcome.FAILED else content.measurement_report
    document = (ComprehensiveSR if settings.iod == "comprehensive" else Comprehensive3DSR)(
        evidence=[source.normalize(header) for header in (newest, *others)],
        content=tree(request, settings),
        series_instance_uid=uids.sr_series(request, settings, outcome),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids.sr(request, settings, outcome),
        instance_number=1,
        is_complete=True,
        is_final=False,
        series_description=wording.series_description(request),
        manufacturer=content.MANUFACTURER,
        manufacturer_model_name="pacs-node",
        device_serial_number=request.node.device_uid,
        software_versions=__version__,
    )
    _complete(document, request, source.decoded(newest))
    source.inherit(document, newest, request.created_at)
    return document


def _complete(document: Dataset, request: ReportRequest, header: Dataset) -> None:
    """What highdicom leaves out: equipment, procedures, requests, predecessor, and how much was analyzed."""
    document.DeviceUID = request.node.device_uid
    document.ContributingEquipmentSequence = [processing_equipment(request, header)]
    document.PerformedProcedureCodeSequence = source.codes(header, "ProcedureCodeSequence")
    if header.get("RequestAttributesSequence"):
        document.ReferencedRequestSequence = _requests(header)
    if gaps := wording.gaps(request):
        document.CompletionFlag = "PARTIAL"
        document.CompletionFlagDescription = ", ".join(gaps)
    if request.predecessor:
        document.PredecessorDocumentsSequence = [_reference(request.predecessor, request.study_instance_uid)]


def processing_equipment(request: ReportRequest, header: Dataset) -> Dataset:
    """Which program made an object, with which model, and when (PS3.3 C.12.1.1.5)."""
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.ProcessingEquipment)]
    equipment.Manufacturer = content.MANUFACTURER
    equipment.ManufacturerModelName = "pacs-node"
    equipment.SoftwareVersions = [__version__, wording.version(request)]
    equipment.DeviceUID = request.node.device_uid
    equipment.ContributionDateTime = f"{source.local_time(header, request.created_at):%Y%m%d%H%M%S.%f}"
    equipment.ContributionDescription = f"Analysis by {request.model.name}"
    return equipment


def _requests(header: Dataset) -> list[Dataset]:
    """Which requests the report answers (PS3.3 C.17.2), from what the source says of them; all Type 2."""
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
