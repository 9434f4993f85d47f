"""What is taken over from a source: nothing is invented, and what contradicts itself is not repeated."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pydicom.sr._concepts_dict as pydicom_concepts
import pytest
import support.report_studies as studies
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from pacs_node import config
from pacs_node.dicom import anatomy
from pacs_node.errors import InputError
from pacs_node.report import source, sr
from pacs_node.report.facts import ReportFacts

SETTINGS = config.ReportSettings()


def test_normalize_leaves_the_source_alone_and_carries_no_patient_data() -> None:
    header = studies.header()
    before = header.to_json()
    normal = source.normalize(header)
    assert header.to_json() == before
    assert normal.SOPInstanceUID == header.SOPInstanceUID
    assert not normal.PatientName
    assert "StudyDescription" not in normal


def test_a_missing_uid_is_named() -> None:
    with pytest.raises(InputError, match="SeriesInstanceUID is missing"):
        source.normalize(studies.header(SeriesInstanceUID=None))


def test_patient_and_study_come_from_the_image_received_last() -> None:
    older = studies.image(studies.header(2, PatientName="Old^Name"), 0.9, 1)
    newer = studies.image(studies.header(1, PatientName="New^Name", StudyDescription="corrected"), 0.1, 2)
    report = sr.build(ReportFacts.of(studies.request(older, newer), SETTINGS))
    assert str(report.PatientName) == "New^Name"
    assert report.StudyDescription == "corrected"


def test_odd_values_of_the_patient_are_taken_over_as_they_are() -> None:
    header = studies.header(PatientSex="U", IssuerOfPatientID="HOSPITAL", PatientComments="none")
    report = sr.build(ReportFacts.of(studies.request(studies.image(header, 0.9)), SETTINGS))
    assert report.PatientSex == "U"
    assert report.IssuerOfPatientID == "HOSPITAL"
    assert "Manufacturer" in report
    assert report.Manufacturer == "pacs-node"


def test_what_the_source_does_not_state_is_not_invented() -> None:
    header = studies.header(StudyID=None, IssuerOfPatientID=None, StudyDescription=None)
    report = sr.build(ReportFacts.of(studies.request(studies.image(header, 0.9)), SETTINGS))
    assert not report.StudyID
    assert "IssuerOfPatientID" not in report
    assert "StudyDescription" not in report
    assert "TimezoneOffsetFromUTC" not in report


@pytest.mark.parametrize(("stated", "hours"), [("+0930", 9.5), ("-0500", -5), ("+0000", 0)])
def test_times_are_in_the_zone_of_the_source(stated: str, hours: float) -> None:
    header = studies.header(TimezoneOffsetFromUTC=stated)
    request = studies.request(studies.image(header, 0.9))
    report = sr.build(ReportFacts.of(request, SETTINGS))
    local = datetime.fromtimestamp(request.created_at, tz=UTC) + timedelta(hours=hours)
    assert report.ContentDate == local.strftime("%Y%m%d")
    assert report.ContentTime.startswith(local.strftime("%H%M%S"))
    assert report.TimezoneOffsetFromUTC == stated


@pytest.mark.parametrize("stated", ["9", "UTC", "+2500", "+09:00"])
def test_a_malformed_zone_is_not_repeated(stated: str) -> None:
    header = Dataset()
    header.TimezoneOffsetFromUTC = stated
    assert source.timezone_of(header) is None


def test_procedures_and_requests_of_the_source_are_named() -> None:
    header = studies.header()
    procedure, wanted = Dataset(), Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = (
        "WR2",
        "99LOCAL",
        "Wrist 2 views",
    )
    wanted.RequestedProcedureID, wanted.AccessionNumber = "RP1", "A1"
    header.ProcedureCodeSequence, header.RequestAttributesSequence = [procedure], [wanted]
    report = sr.build(ReportFacts.of(studies.request(studies.image(header, 0.9)), SETTINGS))
    assert report.PerformedProcedureCodeSequence[0].CodeValue == "WR2"
    assert report.ReferencedRequestSequence[0].RequestedProcedureID == "RP1"
    assert report.ReferencedRequestSequence[0].StudyInstanceUID == header.StudyInstanceUID


def dataset(**attributes: Any) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def frame_side(side: str) -> Dataset:
    return dataset(
        SharedFunctionalGroupsSequence=[dataset(FrameAnatomySequence=[dataset(FrameLaterality=side)])]
    )


@pytest.mark.parametrize(
    ("header", "side"),
    [
        (dataset(ImageLaterality="L"), "L"),
        (dataset(Laterality="R"), "R"),
        (frame_side("R"), "R"),
        (dataset(ImageLaterality="L", Laterality="L"), "L"),
        (dataset(ImageLaterality="B"), "B"),
        (dataset(ImageLaterality="U"), None),
        (dataset(ImageLaterality="L", Laterality="R"), None),
        (dataset(), None),
        (dataset(ImageLaterality=""), None),
    ],
)
def test_the_side_of_an_image(header: Dataset, side: str | None) -> None:
    assert anatomy.laterality(header) == side


def test_a_series_that_contradicts_itself_has_no_side() -> None:
    left = dataset(SeriesInstanceUID="1.2", Laterality="L")
    right = dataset(SeriesInstanceUID="1.2", Laterality="R")
    elsewhere = dataset(SeriesInstanceUID="1.3", Laterality="R")
    precise = dataset(SeriesInstanceUID="1.2", Laterality="L", ImageLaterality="L")
    assert anatomy.laterality(left, [left, right]) is None
    assert anatomy.laterality(left, [left, elsewhere]) == "L"
    assert anatomy.laterality(precise, [precise, right]) == "L"


@pytest.mark.parametrize(
    ("header", "words", "code"),
    [
        (dataset(BodyPartExamined="WRIST", ImageLaterality="L"), "left wrist", "74670003"),
        (dataset(BodyPartExamined="Hand"), "hand", "85562004"),
        (dataset(BodyPartExamined="C SPINE"), "cervical spine", "122494005"),
        (dataset(BodyPartExamined="LEFT_THING"), "left thing", None),
        (dataset(BodyPartExamined="ANKLE", ImageLaterality="B"), "bilateral ankle", "70258002"),
        (dataset(), "body part not stated", None),
        (dataset(ImageLaterality="R"), "right, body part not stated", None),
        (
            dataset(
                AnatomicRegionSequence=[
                    dataset(CodeValue="70258002", CodingSchemeDesignator="SCT", CodeMeaning="Ankle joint")
                ]
            ),
            "ankle",
            "70258002",
        ),
    ],
)
def test_the_place_in_words_and_codes(header: Dataset, words: str, code: str | None) -> None:
    assert anatomy.place(header, anatomy.laterality(header)) == words
    site = anatomy.site(header)
    assert (site.value if site else None) == code


def test_every_site_is_a_concept_of_snomed_ct() -> None:
    concepts: dict[str, Any] = pydicom_concepts.concepts["SCT"]
    known = {value for values in concepts.values() for value in values}
    sites = [anatomy.site(dataset(BodyPartExamined=term)) for term in anatomy._SITES]
    assert all(isinstance(site, Code) and site.value in known for site in sites)
    assert set(anatomy._SITES) >= anatomy._UNPAIRED


def test_a_skipped_image_says_nothing_of_patient_and_study() -> None:
    request = studies.shapes()["skipped"]
    assert request.images[-1].instance.received_at > request.images[0].instance.received_at
    assert ReportFacts.of(request, SETTINGS).newest is request.images[0].source
