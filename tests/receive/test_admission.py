"""Who may send, and what of it is to be analyzed."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)
from support import phantom

from pacs_node.config import AcceptSettings, Peer, StudySettings
from pacs_node.errors import AdmissionError
from pacs_node.receive import admission
from pacs_node.records import StoredFile

TODAY = date(2026, 1, 10)
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"


def reason(tmp_path: Path, rules: StudySettings | None = None, **attributes: object) -> str | None:
    dataset = phantom.dataset(1, rows=64, columns=64)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    path = tmp_path / "image.dcm"
    dataset.save_as(path, enforce_file_format=True)
    header = admission.read_header(path)
    return admission.skip_reason(header, rules or StudySettings(), "2.25.42", TODAY)


def species(code: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "SCT", "species"
    return [item]


def test_a_text_where_the_species_belong_names_no_animal(tmp_path: Path) -> None:
    dataset = phantom.dataset(1, rows=64, columns=64)
    dataset.add_new("PatientSpeciesCodeSequence", "LO", "dog")
    path = tmp_path / "image.dcm"
    dataset.save_as(path, enforce_file_format=True)
    assert admission.skip_reason(admission.read_header(path), StudySettings(), "", TODAY) is None


def test_a_header_that_nobody_thought_of_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("as told")

    path = tmp_path / "image.dcm"
    phantom.dataset(1, rows=64, columns=64).save_as(path, enforce_file_format=True)
    header = admission.read_header(path)
    monkeypatch.setattr(admission, "skip_reason", fail)
    with pytest.raises(AdmissionError, match=r"cannot be examined: KeyError$"):
        admission.examine(StoredFile("0" * 64, 1, path), header, 0.0, StudySettings(), "", TODAY)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, None),
        ({"ImageType": ["DERIVED", "PRIMARY"]}, None),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, "SECONDARY"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "Secondary Capture Image Storage is not accepted"),
        ({"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "OT"}, "not an X-ray image: Secondary"),
        ({"SOPClassUID": DigitalMammographyXRayImageStorageForPresentation}, "not an X-ray image"),
        ({"SOPClassUID": FOR_PROCESSING}, "for processing"),
        ({"Modality": "MG"}, "modality MG"),
        ({"Modality": ""}, "not stated"),
        ({"QualityControlImage": "YES"}, "quality control"),
        ({"PatientSpeciesCodeSequence": species("448771007")}, "not human"),
        ({"PatientSpeciesCodeSequence": species("337915000")}, None),
        ({"PatientSpeciesDescription": "Canis lupus familiaris"}, "not human"),
        ({"PatientSpeciesDescription": "Homo sapiens"}, None),
        ({"DeviceUID": "2.25.42"}, "own result"),
        ({"DeviceUID": "2.25.43"}, None),
    ],
)
def test_what_is_not_a_diagnostic_xray_is_skipped_with_the_reason(
    tmp_path: Path, attributes: dict[str, Any], expected: str | None
) -> None:
    found = reason(tmp_path, **attributes)
    assert found is None if expected is None else expected in (found or "")


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, True),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, True),
        ({"Modality": "RG"}, True),
        ({"Modality": ""}, True),
        ({"SOPClassUID": FOR_PROCESSING}, True),
        ({"SOPClassUID": XRayRadiofluoroscopicImageStorage, "Modality": "RF"}, True),
        ({"SOPClassUID": XRayAngiographicImageStorage, "Modality": "XA"}, True),
        ({"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "CR"}, True),
        ({"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "dx"}, True),
        ({"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "OT"}, False),
        ({"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "OT", "ConversionType": "DF"}, True),
        ({"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "XA", "ConversionType": "WSD"}, False),
        ({"SOPClassUID": DigitalMammographyXRayImageStorageForPresentation, "Modality": "MG"}, False),
        ({"SOPClassUID": ComputedRadiographyImageStorage, "Modality": "MG"}, False),
        ({"SOPClassUID": CTImageStorage, "Modality": "CT"}, False),
        ({"SOPClassUID": GrayscaleSoftcopyPresentationStateStorage, "Modality": "PR"}, False),
        ({"SOPClassUID": ComprehensiveSRStorage, "Modality": "SR"}, False),
        ({"StudyDate": "20251101"}, False),
        ({"PatientSpeciesDescription": "Canis lupus familiaris"}, False),
    ],
)
def test_what_may_be_an_xray_is_owed_an_account_unless_its_study_is_not_looked_at(
    tmp_path: Path, attributes: dict[str, object], expected: bool
) -> None:
    dataset = phantom.dataset(1, rows=64, columns=64)
    dataset.StudyDate = "20260109"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    path = tmp_path / "image.dcm"
    dataset.save_as(path, enforce_file_format=True)
    rules = StudySettings(max_study_age_days=30)
    header = admission.read_header(path)
    examined = admission.examine(StoredFile("0" * 64, 1, path), header, 0.0, rules, "2.25.42", TODAY)
    assert examined.may_be_xray is expected


def test_study_age_counts_only_where_it_is_set_and_stated(tmp_path: Path) -> None:
    rules = StudySettings(max_study_age_days=30)
    assert reason(tmp_path, rules, StudyDate="20260101") is None
    assert "older than 30 days" in (reason(tmp_path, rules, StudyDate="20251101") or "")
    assert reason(tmp_path, rules, StudyDate="") is None
    assert reason(tmp_path, StudySettings(), StudyDate="19990101") is None


def test_body_parts_are_accepted_by_the_list_or_where_none_is_stated(tmp_path: Path) -> None:
    rules = StudySettings(accept=AcceptSettings(body_parts=("HAND", "WRIST")))
    assert reason(tmp_path, rules, BodyPartExamined="WRIST") is None
    assert "CHEST" in (reason(tmp_path, rules, BodyPartExamined="CHEST") or "")
    assert reason(tmp_path, rules, BodyPartExamined="") is None


def test_what_cannot_be_identified_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00garbage")
    with pytest.raises(AdmissionError) as caught:
        admission.read_header(path)
    assert caught.value.status == admission.CANNOT_UNDERSTAND
    dataset = phantom.dataset(1, rows=64, columns=64)
    del dataset.StudyInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(AdmissionError, match="StudyInstanceUID"):
        admission.read_header(path)
    with pytest.warns(UserWarning, match="length"):
        dataset.StudyInstanceUID = "1." + "2" * admission.MAX_UID_LENGTH
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(AdmissionError, match="StudyInstanceUID is not one UID of at most 128"):
        admission.read_header(path)


@pytest.mark.parametrize(
    ("host", "address", "allowed"),
    [
        ("", "203.0.113.9", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("10.1.0.0/16", "10.1.2.3", True),
        ("10.1.0.0/16", "10.2.2.3", False),
        ("10.1.0.0/16", "::ffff:10.1.2.3", True),
        ("localhost", "127.0.0.1", True),
    ],
)
def test_peers_are_told_by_title_and_address(host: str, address: str, allowed: bool) -> None:
    peers = (Peer(name="pacs", ae_title="PACS", host=host),)
    assert admission.may_send(peers, "PACS", address) is allowed
    assert not admission.may_send(peers, "OTHER", address)
    assert admission.may_send((), "ANYONE", address)
