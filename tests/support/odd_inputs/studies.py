"""Sides, studies of several body parts, and objects that are no X-rays of bones."""

from __future__ import annotations

from collections.abc import Callable

from pydicom.dataset import FileDataset

from pacs_node.config import AcceptSettings, StudySettings
from support.odd_inputs.corpus import Case, sequence, xray
from support.report_studies import NODE

BREED = (
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsibleOrganization",
    "PatientSexNeutered",
)
BONES = StudySettings(accept=AcceptSettings(body_parts=("HAND", "WRIST")))


def side(**attributes: object) -> Callable[[], FileDataset]:
    return lambda: xray(None, {"ImageLaterality": None}, **attributes)


def two(**second: object) -> list[FileDataset]:
    """Two images of one series; keywords change the second."""
    return [xray(InstanceNumber=1), xray(SOPInstanceUID="2.25.1234567", InstanceNumber=2, **second)]


CASES = {
    "Sides": [
        Case("ImageLaterality", "of DX (PS3.3 C.8.11.2)", side(ImageLaterality="L"), reads=("left wrist",)),
        Case("Laterality", "of the series, CR (PS3.3 C.7.3.1)", side(Laterality="R"), reads=("right wrist",)),
        Case(
            "FrameLaterality",
            "of enhanced objects (PS3.3 C.7.6.16.2.8)",
            side(SharedFunctionalGroupsSequence=sequence(FrameAnatomySequence=sequence(FrameLaterality="L"))),
            reads=("left wrist",),
        ),
        Case("both sides", "B (PS3.3 C.7.6.1.1.1)", side(ImageLaterality="B"), reads=("bilateral wrist",)),
        Case(
            "unpaired",
            "U: there are no sides",
            side(ImageLaterality="U", BodyPartExamined="PELVIS", AnatomicRegionSequence=[]),
            reads=(", pelvis,",),
        ),
        Case("no side", "Type 2C (PS3.3 C.7.3.1)", side(), reads=(", wrist,",)),
        Case(
            "contradictory sides",
            "image says left, series says right: none is stated",
            side(ImageLaterality="L", Laterality="R"),
            reads=(", wrist,",),
        ),
        Case(
            "side in words",
            "not a defined term: none is stated",
            side(ImageLaterality="LEFT"),
            reads=(", wrist,",),
        ),
        Case(
            "a series of two sides",
            "each image has its own",
            lambda: two(ImageLaterality="L"),
            ("analyzed", "analyzed"),
            reads=("right", "left"),
        ),
        Case(
            "a side for the series that another image contradicts",
            "Laterality differs within one series: none is stated",
            lambda: [
                xray(None, {"ImageLaterality": None, "Laterality": "R"}, InstanceNumber=1),
                xray(None, {"ImageLaterality": None, "Laterality": "L"}, SOPInstanceUID="2.25.77"),
            ],
            ("analyzed", "analyzed"),
            reads=(", wrist,",),
        ),
    ],
    "Objects that are no X-ray of a bone": [
        Case(
            "several body parts",
            "each image is reported with its own",
            lambda: two(BodyPartExamined="KNEE", AnatomicRegionSequence=[]),
            ("analyzed", "analyzed"),
            reads=("Knee", "Wrist"),
        ),
        Case(
            "a chest where only bones are accepted",
            "study.accept.body_parts",
            lambda: xray(BodyPartExamined="CHEST"),
            "skipped: body part CHEST is not accepted",
            rules=BONES,
        ),
        Case(
            "a chest and a wrist where only bones are accepted",
            "study.accept.body_parts",
            lambda: two(BodyPartExamined="CHEST"),
            ("analyzed", "skipped: body part CHEST is not accepted"),
            reads=("1 of 2 X-rays analyzed, 1 NOT ANALYZED", "body part CHEST is not accepted"),
            rules=BONES,
        ),
        Case(
            "a study with no X-ray",
            "a CT slice and a key object selection",
            lambda: [
                xray(SOPClassUID="1.2.840.10008.5.1.4.1.1.2", Modality="CT"),
                xray(
                    SOPClassUID="1.2.840.10008.5.1.4.1.1.88.59",
                    Modality="KO",
                    PixelData=None,
                    SOPInstanceUID="2.25.5",
                ),
            ],
            (
                "skipped: not an X-ray image: CT Image Storage",
                "skipped: not an X-ray image: Key Object Selection Document Storage",
            ),
        ),
        Case(
            "a dog",
            "PatientSpeciesCodeSequence (PS3.3 C.7.1.1)",
            lambda: xray(
                PatientSpeciesCodeSequence=sequence(
                    CodeValue="448771007",
                    CodingSchemeDesignator="SCT",
                    CodeMeaning="Canis lupus subspecies familiaris",
                )
            ),
            "skipped: patient species is not human",
        ),
        Case(
            "a dog in words",
            "PatientSpeciesDescription (PS3.3 C.7.1.1)",
            lambda: xray(PatientSpeciesDescription="Canine"),
            "skipped: patient species is not human",
        ),
        Case(
            "a human, stated",
            "PatientSpeciesDescription (PS3.3 C.7.1.1)",
            lambda: xray(PatientSpeciesDescription="Homo sapiens"),
            invalid=BREED,
        ),
        Case(
            "DX for processing",
            "no windowing is defined (PS3.3 C.8.11.1)",
            lambda: xray(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1"),
            "skipped: DX for processing: it has no defined windowing",
        ),
        Case(
            "mammography",
            "another SOP class",
            lambda: xray(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.2", Modality="MG"),
            "skipped: not an X-ray image: Digital Mammography X-Ray Image Storage - For Presentation",
        ),
        Case(
            "secondary capture",
            "a screenshot, a photo",
            lambda: xray(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT"),
            "skipped: not an X-ray image: Secondary Capture Image Storage",
        ),
        Case(
            "a reworked image",
            "ImageType DERIVED\\SECONDARY (PS3.3 C.7.6.1.1.2)",
            lambda: xray(ImageType=["DERIVED", "SECONDARY"]),
            "skipped: ImageType DERIVED\\SECONDARY",
        ),
        Case(
            "a processed image",
            "ImageType DERIVED\\PRIMARY is the usual of DX (PS3.3 C.8.11.3.1.1)",
            lambda: xray(ImageType=["DERIVED", "PRIMARY"]),
        ),
        Case(
            "ImageType of one value",
            "it has two or more (PS3.3 C.7.6.1.1.2)",
            lambda: xray(ImageType="ORIGINAL"),
        ),
        Case(
            "a quality control image",
            "QualityControlImage YES (PS3.3 C.7.6.1)",
            lambda: xray(QualityControlImage="YES"),
            "skipped: quality control image",
        ),
        Case(
            "one of the node's own results",
            "a PACS forwards all that it gets; DeviceUID is the node's",
            lambda: xray(DeviceUID=NODE.device_uid),
            "skipped: own result",
        ),
        Case(
            "one image of two is broken",
            "the other is analyzed, the report says which is not",
            lambda: [xray(InstanceNumber=1), xray(SOPInstanceUID="2.25.6", InstanceNumber=2, PixelData=None)],
            ("analyzed", "failed: the object has no pixel data"),
            reads=("1 of 2 X-rays analyzed, 1 NOT ANALYZED", "the object has no pixel data"),
        ),
        Case(
            "an old study",
            "study.max_study_age_days",
            lambda: xray(StudyDate="20200101"),
            "skipped: study is older than 30 days",
            rules=StudySettings(max_study_age_days=30),
        ),
    ],
}
