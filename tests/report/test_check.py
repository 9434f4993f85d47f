"""Every rule is broken once, and caught; what keeps them all passes (see test_validity)."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import support.report_studies as studies
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian

from pacs_node import config
from pacs_node.errors import CheckError
from pacs_node.report import check, sc, sr
from pacs_node.report.facts import ReportFacts

SETTINGS = config.ReportSettings()
FACTS = ReportFacts.of(studies.request(), SETTINGS)
NEGATIVE = ReportFacts.of(studies.request(studies.image(studies.header(2), 0.12, 2)), SETTINGS)
FAILED = ReportFacts.of(studies.request(studies.image(studies.header(1), None)), SETTINGS)
SOURCE = FACTS.images[0].source
REPORT = sr.build(FACTS)
QUIET = sr.build(NEGATIVE)
FAILURE = sr.build(FAILED)
CAPTURE = sc.build(FACTS, FACTS.images[0], studies.display(SOURCE))

Break = Callable[[Dataset], Any]


def found(item: Dataset, code: str) -> list[Dataset]:
    """All content items of this concept name, depth first."""
    children = item.get("ContentSequence") or []
    here = [child for child in children if child.ConceptNameCodeSequence[0].CodeValue == code]
    return here + [deeper for child in children for deeper in found(child, code)]


def assign(**attributes: Any) -> Break:
    def change(dataset: Dataset) -> None:
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)

    return change


def without(keyword: str) -> Break:
    return lambda dataset: dataset.pop(keyword)


def in_item(code: str, change: Break, at: int = 0) -> Break:
    return lambda dataset: change(found(dataset, code)[at])


def drop_item(parent: str, code: str, at: int = 0) -> Break:
    """Take the first child named `code` out of the container `parent`."""

    def change(dataset: Dataset) -> None:
        container = found(dataset, parent)[at] if parent else dataset
        names = [child.ConceptNameCodeSequence[0].CodeValue for child in container.ContentSequence]
        del container.ContentSequence[names.index(code)]

    return change


def add_finding(dataset: Dataset) -> None:
    group = found(dataset, "125007")[0]
    group.ContentSequence.append(deepcopy(found(REPORT, "121071")[0]))


def swap_first_contents(dataset: Dataset) -> None:
    items = list(dataset.ContentSequence)
    at = [item.ConceptNameCodeSequence[0].CodeValue for item in items].index("121111")
    items[at], items[at + 1] = items[at + 1], items[at]
    Dataset.__setattr__(dataset, "ContentSequence", items)


def same_tracking_uid(dataset: Dataset) -> None:
    uids = found(dataset, "112040")
    uids[1].UID = uids[0].UID


def other_image(dataset: Dataset) -> None:
    found(dataset, "111040")[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "2.25.4711"


def bad_patient_orientation(dataset: Dataset) -> None:
    dataset.PatientOrientation = ["R", "F"]


EITHER: dict[str, tuple[Break, str]] = {
    "another patient": (assign(PatientID="P2"), "PatientID must be that of the source"),
    "another name": (assign(PatientName="Müller^Ava"), "PatientName must be that of the source"),
    "another study": (assign(StudyInstanceUID="2.25.4711"), "StudyInstanceUID must be that of"),
    "another accession": (assign(AccessionNumber=""), "AccessionNumber must be that of the source"),
    "no Type 2": (without("StudyID"), "StudyID must be present"),
    "no Type 1": (assign(Manufacturer=""), "Manufacturer must have a value"),
    "no time": (without("ContentTime"), "ContentTime must have a value"),
    "no series": (without("SeriesInstanceUID"), "SeriesInstanceUID must have a value"),
    "bad UID": (assign(FailedSOPInstanceUIDList=["2.25.01"]), "valid UIDs"),
    "the source's UID": (assign(SeriesInstanceUID=SOURCE.SeriesInstanceUID), "must be new"),
    "unknown device": (without("DeviceUID"), "DeviceUID must be the node's"),
    "silent": (assign(SeriesDescription="Wrist"), "must say that an AI speaks"),
    "no description": (assign(SeriesDescription=""), "1 to 64 characters"),
    "too long": (assign(SeriesDescription="AI" * 33), "1 to 64 characters"),
    "file meta": (lambda d: setattr(d.file_meta, "MediaStorageSOPInstanceUID", "2.25.1"), "same object"),
    "syntax": (
        lambda d: setattr(d.file_meta, "TransferSyntaxUID", ImplicitVRLittleEndian),
        "TransferSyntaxUID",
    ),
}
REPORTS: dict[str, tuple[Break, str]] = {
    "unverified": (assign(VerificationFlag="VERIFIED"), "VerificationFlag must be UNVERIFIED"),
    "final": (assign(PreliminaryFlag="FINAL"), "PreliminaryFlag must be PRELIMINARY"),
    "partial": (assign(CompletionFlag="PARTIAL"), "CompletionFlag must be COMPLETE"),
    "no MPPS": (without("ReferencedPerformedProcedureStepSequence"), "MPPS reference"),
    "predecessor": (
        assign(PredecessorDocumentsSequence=[Dataset()]),
        "PredecessorDocumentsSequence must be present in amended",
    ),
    "continuous root": (assign(ContinuityOfContent="CONTINUOUS"), "must be SEPARATE"),
    "continuous group": (in_item("125007", assign(ContinuityOfContent="CONTINUOUS")), "must be SEPARATE"),
    "no relationship": (in_item("121111", without("RelationshipType")), "must have a RelationshipType"),
    "no value": (in_item("121111", assign(TextValue="")), "must have a TextValue"),
    "unnamed": (in_item("121111", assign(ConceptNameCodeSequence=[])), "must have a ConceptNameCodeSequence"),
    "empty container": (in_item("126200", assign(ContentSequence=[])), "must not be empty"),
    "value type": (in_item("121111", assign(ValueType="PNAME")), "ValueType PNAME"),
    "foreign image": (other_image, "must name images of the study"),
    "evidence": (
        lambda d: (
            d.CurrentRequestedProcedureEvidenceSequence[0]
            .ReferencedSeriesSequence[0]
            .ReferencedSOPSequence.pop()
        ),
        "EvidenceSequence must list",
    ),
    "title": (
        lambda d: setattr(d.ConceptNameCodeSequence[0], "CodeValue", "126001"),
        "must be titled \\(126000",
    ),
    "no label": (drop_item("C0034375", "121106"), "the label must be in a Comment"),
    "summary second": (swap_first_contents, "Summary must be the first"),
    "summary silent": (in_item("121111", assign(TextValue="AI: all is well")), "the summary must say"),
    "same tracking UID": (same_tracking_uid, "its own tracking UID"),
    "no tracking UID": (drop_item("125007", "112040"), "its own tracking UID"),
    "no SCOORD": (drop_item("125007", "111030", 1), "OHIF opens a black page"),
    "SCOORD's name": (
        lambda d: setattr(found(d, "111030")[0].ConceptNameCodeSequence[0], "CodeValue", "111031"),
        "named \\(111030",
    ),
    "source concept": (
        lambda d: setattr(found(d, "111040")[-1].ConceptNameCodeSequence[0], "CodeValue", "260753009"),
        "Stone draws nothing",
    ),
    "outside": (
        lambda d: setattr(found(d, "111030")[0], "GraphicData", [1, 1, 401, 1, 401, 9, 1, 1]),
        "inside of the image",
    ),
    "open": (
        lambda d: setattr(found(d, "111030")[0], "GraphicData", [1, 1, 9, 1, 9, 9, 1, 9]),
        "must be closed",
    ),
    "no image group": (lambda d: found(d, "126010")[0].ContentSequence.pop(), "needs one TID 1501 group"),
    "no region": (lambda d: found(d, "126010")[0].ContentSequence.pop(0), "needs one TID 1410 group"),
    "finding gone": (drop_item("125007", "121071", 1), "Finding item must be in positive"),
    "number": (
        lambda d: setattr(found(d, "111012")[0].MeasuredValueSequence[0], "NumericValue", "88"),
        "must be the model's",
    ),
    "number's name": (
        lambda d: setattr(found(d, "111012")[0].ConceptNameCodeSequence[0], "CodeValue", "122157"),
        "number must be \\(111012",
    ),
    "absent": (
        lambda d: setattr(found(d, "125605004")[0].ConceptCodeSequence[0], "CodeValue", "272519000"),
        "a positive image must say so",
    ),
}
QUIETS: dict[str, tuple[Break, str]] = {
    "finding": (add_finding, "Finding item must be in positive groups"),
    "certainty": (
        lambda d: setattr(found(d, "122157")[0].ConceptNameCodeSequence[0], "CodeValue", "111012"),
        "number must be \\(122157",
    ),
    "present": (
        lambda d: setattr(found(d, "125605004")[0].ConceptCodeSequence[0], "CodeValue", "52101004"),
        "a negative image must say so",
    ),
}
FAILURES: dict[str, tuple[Break, str]] = {
    "complete": (assign(CompletionFlag="COMPLETE"), "CompletionFlag must be PARTIAL"),
    "title": (
        lambda d: setattr(d.ConceptNameCodeSequence[0], "CodeValue", "126000"),
        "must be titled \\(18748-4",
    ),
    "silent": (in_item("121073", assign(TextValue="normal")), "must say 'NOT ANALYZED'"),
}
CAPTURES: dict[str, tuple[Break, str]] = {
    "modality": (assign(Modality="DX"), "Modality must be OT"),
    "conversion": (assign(ConversionType="DI"), "ConversionType must be SYN"),
    "product": (assign(ContentQualification="PRODUCT"), "ContentQualification must be RESEARCH"),
    "spacing": (assign(PixelSpacing=[0.1, 0.1]), "PixelSpacing must be absent"),
    "aspect": (assign(Rows=400), "aspect of the source"),
    "pixels": (assign(PixelData=b"\0" * 6), "must fill Rows and Columns"),
    "orientation": (bad_patient_orientation, "PatientOrientation must be that"),
    "number": (assign(InstanceNumber=9), "InstanceNumber must be that"),
    "part": (without("BodyPartExamined"), "BodyPartExamined must be that"),
    "side": (assign(ImageLaterality="R"), "ImageLaterality must be that"),
    "series' side": (assign(Laterality="L"), "Laterality must not be stated for a whole series"),
    "burned in": (assign(BurnedInAnnotation="NO"), "BurnedInAnnotation must be"),
    "original": (assign(ImageType=["ORIGINAL", "PRIMARY"]), "ImageType must be DERIVED"),
    "no source": (without("SourceImageSequence"), "must name one image"),
    "foreign source": (
        lambda d: setattr(d.SourceImageSequence[0], "ReferencedSOPInstanceUID", "2.25.4711"),
        "must name an image of the study",
    ),
    "purpose": (
        lambda d: setattr(d.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0], "CodeValue", "121320"),
        "121322",
    ),
}


def broken(original: Dataset, change: Break) -> Dataset:
    dataset = deepcopy(original)
    change(dataset)
    return dataset


@pytest.mark.parametrize("rule", EITHER)
@pytest.mark.parametrize("original", [REPORT, CAPTURE], ids=["SR", "SC"])
def test_rules_of_both(original: Dataset, rule: str) -> None:
    change, message = EITHER[rule]
    with pytest.raises(CheckError, match=message):
        check.verify(broken(original, change), FACTS)


@pytest.mark.parametrize("rule", REPORTS)
def test_rules_of_reports(rule: str) -> None:
    change, message = REPORTS[rule]
    with pytest.raises(CheckError, match=message):
        check.verify(broken(REPORT, change), FACTS)


@pytest.mark.parametrize("rule", QUIETS)
def test_a_negative_does_not_read_as_a_fracture(rule: str) -> None:
    change, message = QUIETS[rule]
    with pytest.raises(CheckError, match=message):
        check.verify(broken(QUIET, change), NEGATIVE)


@pytest.mark.parametrize("rule", FAILURES)
def test_rules_of_failure_reports(rule: str) -> None:
    change, message = FAILURES[rule]
    with pytest.raises(CheckError, match=message):
        check.verify(broken(FAILURE, change), FAILED)


@pytest.mark.parametrize("rule", CAPTURES)
def test_rules_of_captures(rule: str) -> None:
    change, message = CAPTURES[rule]
    with pytest.raises(CheckError, match=message):
        check.verify(broken(CAPTURE, change), FACTS)


def test_anything_else_may_not_leave() -> None:
    def change(dataset: Dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage

    with pytest.raises(CheckError, match="SOPClassUID must be that of"):
        check.verify(broken(CAPTURE, change), FACTS)


def test_messages_hold_no_patient_data() -> None:
    with pytest.raises(CheckError) as raised:
        check.verify(broken(REPORT, assign(PatientName="Secret^Name", PatientID="S1")), FACTS)
    assert "Secret" not in str(raised.value)
    assert "S1" not in str(raised.value)
    assert "Müller" not in str(raised.value)
    assert str(REPORT.SOPInstanceUID) in str(raised.value)
