"""Admission rules: permitted senders, storable objects, and images to analyze."""

from __future__ import annotations

import socket
import zlib
from datetime import date, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalIntraOralXRayImageStorageForPresentation,
    DigitalIntraOralXRayImageStorageForProcessing,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EnhancedXAImageStorage,
    EnhancedXRFImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)
from pynetdicom.dimse_primitives import C_STORE

from pacs_node.config import Peer, StudySettings
from pacs_node.dicom.reading import drop_odd_character_set, parsing
from pacs_node.errors import AdmissionError
from pacs_node.records import Arrival, StoredFile

CANNOT_UNDERSTAND = 0xC000
DOES_NOT_MATCH_SOP_CLASS = 0xA900

_IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
HEADER = (
    *_IDENTITY,
    "BodyPartExamined",
    "ConversionType",
    "DeviceUID",
    "ImageType",
    "Modality",
    "PatientID",
    "PatientName",
    "PatientSpeciesCodeSequence",
    "PatientSpeciesDescription",
    "QualityControlImage",
    "SpecificCharacterSet",
    "StudyDate",
)
_PIECE = 1 << 20
MAX_UID_LENGTH = 128
"""Twice the standard's limit (PS3.5 9.1), since longer ones occur; also the limit of the journal."""
_CAPTURES = {
    SecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
}
XRAY_CLASSES = _CAPTURES | {
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    DigitalIntraOralXRayImageStorageForPresentation,
    DigitalIntraOralXRayImageStorageForProcessing,
    XRayRadiofluoroscopicImageStorage,
    EnhancedXRFImageStorage,
    XRayAngiographicImageStorage,
    EnhancedXAImageStorage,
}
"""SOP classes in which an X-ray may come; mammography, of which no bone is expected, is none of them."""
_HUMAN_CODES = {"337915000", "L-85B00"}
MAX_INFLATED = 512 << 20
"""Limit of a deflated data set (PS3.5 A.5), inflated: readers inflate it whole, and 1 MB may become 1 GB."""


def may_send(peers: tuple[Peer, ...], calling_ae_title: str, address: str) -> bool:
    """Whether a peer with this calling AE title and address is on the list; an empty list admits any AE."""
    return not peers or any(
        peer.ae_title == calling_ae_title.strip() and _is_from(peer, address) for peer in peers
    )


def _is_from(peer: Peer, address: str) -> bool:
    if not peer.host:
        return True
    if peer.network is not None:
        ip = ip_address(address)
        mapped = getattr(ip, "ipv4_mapped", None)
        return (mapped or ip) in peer.network
    try:
        known = {info[4][0] for info in socket.getaddrinfo(peer.host, None)}
    except OSError:
        return False
    return address in known


def read_header(path: Path, request: C_STORE | None = None) -> FileDataset:
    """The attributes that identify and admit an object, read without its pixel data.

    Raises AdmissionError: 0xC000 if the file cannot be parsed, inflates to more than MAX_INFLATED bytes or
    lacks an identifying UID, 0xA900 if it differs from the C-STORE request (PS3.7 9.1.1).
    """
    with parsing(lambda e: AdmissionError(CANNOT_UNDERSTAND, f"not a readable data set: {type(e).__name__}")):
        _check_inflated(path)
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER))
        drop_odd_character_set(header)
        # pydicom converts a value on access: errors must show here.
        for _ in (*header.file_meta.iterall(), *header.iterall()):
            pass
        missing = [keyword for keyword in _IDENTITY if not header.get(keyword)]
    if missing:
        raise AdmissionError(CANNOT_UNDERSTAND, f"{', '.join(missing)} absent or empty")
    for keyword in _IDENTITY:
        uid = header[keyword].value
        if not isinstance(uid, UID) or len(uid) > MAX_UID_LENGTH or not uid.isprintable():
            why = f"{keyword} is not one UID of at most {MAX_UID_LENGTH} printable characters"
            raise AdmissionError(CANNOT_UNDERSTAND, why)
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if request is not None and header[keyword].value != getattr(request, f"Affected{keyword}"):
            raise AdmissionError(DOES_NOT_MATCH_SOP_CLASS, f"{keyword} differs from the request's")
    return header


def _check_inflated(path: Path) -> None:
    """Refuse a deflated data set that inflates to too much; inflates it in pieces, keeping none."""
    with path.open("rb") as file:
        read_preamble(file, force=False)
        meta = _read_file_meta_info(file)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while data := inflater.unconsumed_tail or file.read(_PIECE):
            size += len(inflater.decompress(data, _PIECE))
            if size > MAX_INFLATED:
                limit = f"{MAX_INFLATED >> 20} MiB"
                raise AdmissionError(CANNOT_UNDERSTAND, f"the deflated data set is larger than {limit}")


@parsing(lambda error: AdmissionError(CANNOT_UNDERSTAND, f"cannot be examined: {type(error).__name__}"))
def examine(
    stored: StoredFile,
    header: FileDataset,
    received_at: float,
    rules: StudySettings,
    device_uid: str,
    today: date,
) -> Arrival:
    """The journal's record of a stored file, with the reason why it is skipped, if it is.

    Raises AdmissionError for a header that cannot be examined, so that it does not block the others.
    """
    meta = header.file_meta
    information = bytes(meta.get("PrivateInformation", b""))
    return Arrival(
        sha256=stored.sha256,
        size=stored.size,
        received_at=received_at,
        calling_ae_title=str(meta.get("SourceApplicationEntityTitle", "")),
        called_ae_title=str(meta.get("ReceivingApplicationEntityTitle", "")),
        address=information.decode("ascii", "replace").rstrip("\0 "),
        study_instance_uid=str(header.StudyInstanceUID),
        series_instance_uid=str(header.SeriesInstanceUID),
        sop_instance_uid=str(header.SOPInstanceUID),
        sop_class_uid=str(header.SOPClassUID),
        transfer_syntax_uid=str(meta.get("TransferSyntaxUID") or ""),
        modality=_text(header, "Modality"),
        patient_id=_text(header, "PatientID"),
        patient_name=_text(header, "PatientName"),
        body_part=_text(header, "BodyPartExamined").upper(),
        skip_reason=skip_reason(header, rules, device_uid, today),
        may_be_xray=may_be_xray(header) and not _study_excluded(header, rules, today),
    )


def skip_reason(header: FileDataset, rules: StudySettings, device_uid: str, today: date) -> str | None:
    """Why an object is stored but not analyzed; None for an X-ray to be analyzed.

    ImageType DERIVED alone is no reason: DX for presentation is commonly DERIVED\\PRIMARY, the processed form
    of the detector's data (PS3.3 C.8.11.3.1.1). DERIVED\\SECONDARY is a reworked or captured image.
    """
    if device_uid and _text(header, "DeviceUID") == device_uid:
        return "own result"
    sop_class = header.SOPClassUID
    if sop_class == DigitalXRayImageStorageForProcessing:
        return "DX for processing: it has no defined windowing"
    if sop_class not in (ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation):
        name = sop_class.name
        return f"{name} is not accepted" if may_be_xray(header) else f"not an X-ray image: {name}"
    modality = _text(header, "Modality")
    if modality not in rules.accept.modalities:
        return f"modality {modality or 'not stated'} is not accepted"
    image_type = [str(value).upper() for value in _values(header, "ImageType")]
    if image_type[:2] == ["DERIVED", "SECONDARY"]:
        return "ImageType DERIVED\\SECONDARY"
    if _text(header, "QualityControlImage").upper() == "YES":
        return "quality control image"
    if excluded := _study_excluded(header, rules, today):
        return excluded
    body_part = _text(header, "BodyPartExamined").upper()
    if body_part and rules.accept.body_parts and body_part not in rules.accept.body_parts:
        return f"body part {body_part} is not accepted"
    return None


def may_be_xray(header: Dataset) -> bool:
    """Whether an object is or may be an X-ray, for which its study's report accounts even if it was skipped.

    A Secondary Capture is taken for one by its modality, or where it was digitized from film (PS3.3 C.8.6.1);
    others are screenshots, dose pages and results such as our own.
    """
    modality = _text(header, "Modality").upper()
    if header.get("SOPClassUID") in _CAPTURES:
        return modality in ("CR", "DX", "RG") or _text(header, "ConversionType").upper() == "DF"
    return header.get("SOPClassUID") in XRAY_CLASSES and modality != "MG"


def _study_excluded(header: FileDataset, rules: StudySettings, today: date) -> str | None:
    """Why nothing of the object's study is to be analyzed."""
    if _is_animal(header):
        return "patient species is not human"
    if rules.max_study_age_days and _older_than(header, today - timedelta(days=rules.max_study_age_days)):
        return f"study is older than {rules.max_study_age_days} days"
    return None


def _text(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").strip()


def _values(header: FileDataset, keyword: str) -> list[object]:
    """The values of an attribute, whatever its VR."""
    value = header.get(keyword)
    return list(value) if isinstance(value, (MultiValue, Sequence)) else [value]


def _is_animal(header: FileDataset) -> bool:
    items = [item for item in _values(header, "PatientSpeciesCodeSequence") if isinstance(item, Dataset)]
    codes = [str(item.get("CodeValue", "")) for item in items]
    described = _text(header, "PatientSpeciesDescription").lower()
    if codes:
        return not _HUMAN_CODES.intersection(codes)
    return bool(described) and "homo sapiens" not in described and "human" not in described


def _older_than(header: FileDataset, limit: date) -> bool:
    try:
        return datetime.strptime(_text(header, "StudyDate"), "%Y%m%d").date() < limit  # noqa: DTZ007
    except ValueError:
        return False
