"""The rules that every object of ours must keep before it may leave; what breaks one is quarantined.

They are those that a hospital would suffer from: an object filed with another patient, a report that opens as
a black page, a negative that reads as a positive. `check_sr` has those of reports, `check_sc` of captures.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from pacs_node.records import ReportRequest
from pacs_node.report import check_sc, check_sr, source
from pacs_node.report.rule import require

_TYPE_1 = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "SeriesNumber",
    "Manufacturer",
    "InstanceCreationDate",
    "ContentDate",
    "ContentTime",
)
_IDENTITY = (*source.TYPE_2, "IssuerOfPatientID", "StudyInstanceUID")


def verify(dataset: Dataset, request: ReportRequest) -> None:
    """Check a Structured Report or Secondary Capture made for `request`.

    Raises CheckError that names the object, the attribute and the rule, and no value of the patient's.
    """
    _check_identity(dataset, request)
    _check_uids(dataset, request)
    if dataset.SOPClassUID in (ComprehensiveSRStorage, Comprehensive3DSRStorage):
        check_sr.verify(dataset, request)
    elif dataset.SOPClassUID == SecondaryCaptureImageStorage:
        check_sc.verify(dataset, request)
    else:
        require(False, dataset, "SOPClassUID must be that of a Structured Report or a Secondary Capture")


def _check_identity(dataset: Dataset, request: ReportRequest) -> None:
    for keyword in _TYPE_1:
        require(dataset.get(keyword) not in (None, ""), dataset, f"{keyword} must have a value")
    for keyword in source.TYPE_2:
        require(keyword in dataset, dataset, f"{keyword} must be present, if only empty")
    header = source.newest(request)
    for keyword in _IDENTITY:
        ours, theirs = str(dataset.get(keyword) or ""), str(header.get(keyword) or "")
        require(ours == theirs, dataset, f"{keyword} must be that of the source image")
    require(
        dataset.StudyInstanceUID == request.study_instance_uid,
        dataset,
        "StudyInstanceUID must be that of the study",
    )
    require(dataset.get("DeviceUID") == request.node.device_uid, dataset, "DeviceUID must be the node's")
    description = str(dataset.get("SeriesDescription") or "")
    require(0 < len(description) <= 64, dataset, "SeriesDescription must have 1 to 64 characters")
    require("AI" in description, dataset, "SeriesDescription must say that an AI speaks")


def _check_uids(dataset: Dataset, request: ReportRequest) -> None:
    # A source may state UIDs that are not valid, and must be referred to by them all the same.
    theirs = {uid for image in request.images for _, uid in _uids(image.source)}
    for keyword, uid in _uids(dataset):
        valid = uid in theirs or UID(uid, validation_mode=config.IGNORE).is_valid
        require(valid, dataset, f"{keyword} must hold valid UIDs (PS3.5 9.1)")
    meta = dataset.file_meta
    require(
        meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        and meta.MediaStorageSOPClassUID == dataset.SOPClassUID,
        dataset,
        "the file meta information must name the same object",
    )
    require(
        meta.TransferSyntaxUID == ExplicitVRLittleEndian,
        dataset,
        "TransferSyntaxUID must be Explicit VR Little Endian",
    )
    instances = [image.instance for image in request.images]
    taken = {instance.sop_instance_uid for instance in instances}
    taken |= {instance.series_instance_uid for instance in instances}
    taken.add(request.study_instance_uid)
    if request.predecessor:
        taken |= {request.predecessor.sop_instance_uid, request.predecessor.series_instance_uid}
    ours = [dataset.SOPInstanceUID, dataset.SeriesInstanceUID]
    require(
        len(set(ours)) == 2 and not taken.intersection(ours),
        dataset,
        "SOPInstanceUID and SeriesInstanceUID must be new",
    )


def _uids(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Every UID in it, with the keyword of its attribute."""
    for element in dataset.iterall():
        if element.VR == "UI" and element.value:
            for uid in [element.value] if isinstance(element.value, str) else element.value:
                yield element.keyword, str(uid)
