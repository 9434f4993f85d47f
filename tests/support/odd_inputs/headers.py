"""Odd headers: what is absent, malformed or oversized."""

from __future__ import annotations

from functools import partial

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag

from support.odd_inputs.corpus import UIDS, Case, as_bytes, sequence, xray
from support.odd_inputs.damage import private

LONG = "1.2.826.0.1.3680043.8.498." + "1234567890" * 3 + "1234567"

TYPE_2 = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "SeriesNumber",
    "InstanceNumber",
    "PatientOrientation",
]
"""The Type 2 attributes of an X-ray's patient, study, series and image."""


def raw(keyword: str, vr: str, value: str) -> FileDataset:
    """The phantom with any text as a value, even one that its VR does not allow."""
    made = xray()
    made.pop(keyword, None)
    tag = Tag(keyword)
    data = value.encode("latin-1") + b" " * (len(value) % 2)
    made[tag] = RawDataElement(tag, vr, len(data), data, 0, False, True)
    return made


def nested(depth: int) -> FileDataset:
    made = xray()
    inner = Dataset()
    inner.CodeMeaning = "the innermost"
    for _ in range(depth):
        (outer,) = sequence(ReferencedStudySequence=[inner])
        inner = outer
    made.RequestAttributesSequence = [inner]
    return made


def without_creator() -> FileDataset:
    made = xray()
    made.add_new((0x0029, 0x1001), "UN", b"\x01\x02")
    return made


def uids(study: str, series: str, instance: str) -> FileDataset:
    return xray(StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID=instance)


def deep(levels: int) -> bytes:
    """Nested sequences of undefined length, written by hand: writers fail at fewer levels than readers."""
    data = as_bytes(xray())
    start = b"\x40\0\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    at = data.index(b"\xe0\x7f\x10\x00OW")
    return data[:at] + start * levels + end * levels + data[at:]


CASES = {
    "Attributes": [
        *(
            Case(
                f"no {keyword}",
                "Type 1 everywhere: without it nothing can be filed (PS3.3 C.7.2.1, C.7.3.1, C.12.1)",
                partial(xray, None, {keyword: None}),
                f"refused: 0xC000 {keyword} absent or empty",
            )
            for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
        ),
        *(
            Case(
                f"no {keyword}",
                "Type 1 (PS3.3 C.7.6.3)",
                partial(xray, None, {keyword: None}),
                f"failed: {keyword} absent or empty",
            )
            for keyword in (
                "Rows",
                "Columns",
                "BitsAllocated",
                "BitsStored",
                "PixelRepresentation",
                "PhotometricInterpretation",
                "SamplesPerPixel",
            )
        ),
        Case(
            "no HighBit",
            "Type 1 (PS3.3 C.7.6.3); nothing depends on it",
            lambda: xray(HighBit=None),
            "analyzed; HighBit is not BitsStored - 1 = 11; it was taken as that",
        ),
        Case(
            "no Modality",
            "Type 1 (PS3.3 C.7.3.1)",
            lambda: xray(Modality=None),
            "skipped: modality not stated is not accepted",
        ),
        Case(
            "Type 2 attributes absent",
            "they must be there, if only empty; often they are not (PS3.5 7.4.3)",
            lambda: xray(
                None,
                dict.fromkeys(TYPE_2),
            ),
        ),
        Case(
            "Type 2 attributes empty",
            "unknown patient in an emergency",
            lambda: xray(
                None,
                dict.fromkeys(
                    TYPE_2,
                    "",
                ),
            ),
        ),
        Case(
            "empty sequences",
            "allowed for Type 2 (PS3.5 7.4.3)",
            lambda: xray(
                AnatomicRegionSequence=[],
                ProcedureCodeSequence=[],
                RequestAttributesSequence=[],
                ViewCodeSequence=[],
            ),
            invalid=("ProcedureCodeSequence",),
        ),
        Case(
            "items without content",
            "codes that say nothing",
            lambda: xray(
                AnatomicRegionSequence=[Dataset()],
                ProcedureCodeSequence=[Dataset()],
                RequestAttributesSequence=[Dataset()],
            ),
            invalid=("ProcedureCodeSequence",),
        ),
        Case(
            "invalid dates",
            "PS3.5 6.2 DA, TM",
            lambda: xray(None, {}, PatientBirthDate="19801340", StudyDate="2026.01.05", StudyTime="9:30"),
            invalid=("PatientBirthDate", "StudyDate", "StudyTime"),
        ),
        Case(
            "dates that are words",
            "PS3.5 6.2 DA, TM",
            lambda: raw("StudyDate", "DA", "TODAY"),
            invalid=("StudyDate",),
        ),
        Case(
            "patient sex of another system",
            "M, F and O are defined (PS3.3 C.7.1.1)",
            lambda: xray(PatientSex="U"),
            invalid=("PatientSex",),
        ),
        Case("instance number that is no number", "PS3.5 6.2 IS", lambda: raw("InstanceNumber", "IS", "1a")),
        Case("instance number with a fraction", "PS3.5 6.2 IS", lambda: raw("InstanceNumber", "IS", "1.5")),
        Case(
            "instance number of 12 digits",
            "an IS has 32 bits (PS3.5 6.2)",
            lambda: raw("InstanceNumber", "IS", "202601050930"),
        ),
        Case("series number that is no number", "PS3.5 6.2 IS", lambda: raw("SeriesNumber", "IS", "one")),
        Case(
            "orientation of one value", "it has two (PS3.3 C.7.6.1.1.1)", lambda: xray(PatientOrientation="L")
        ),
        Case("orientation in words", "PS3.3 C.7.6.1.1.1", lambda: xray(PatientOrientation=["LEFT", "FEET"])),
        Case("time zone malformed", "PS3.3 C.12.1.1.8", lambda: raw("TimezoneOffsetFromUTC", "SH", "CET")),
        Case("private attributes", "of any maker (PS3.5 7.8)", lambda: private(100)),
        Case("huge private element", "20 MB of a maker's own", lambda: private(20 << 20)),
        Case(
            "private attributes without a creator",
            "PS3.5 7.8.1",
            without_creator,
        ),
        Case("sequences 50 deep", "there is no limit (PS3.5 7.5)", lambda: nested(50)),
        Case(
            "sequences 2000 deep",
            "there is no limit, but readers have one",
            lambda: deep(2000),
            "refused: 0xC000 not a readable data set: RecursionError",
        ),
        Case(
            "unknown VR",
            "a VR of the future (PS3.5 6.2.2)",
            lambda: as_bytes(xray()).replace(b"\x08\0\x60\0CS", b"\x08\0\x60\0ZZ"),
            "refused: 0xC000 not a readable data set: NotImplementedError",
        ),
        Case(
            "UIDs of 64 characters",
            "the longest (PS3.5 9.1)",
            lambda: uids(LONG + "1", LONG + "2", LONG + "3"),
        ),
        Case(
            "UIDs longer than 64 characters",
            "PS3.5 9.1 forbids it, devices do it; they are referred to as they are",
            lambda: uids(LONG + "11", LONG + "22", LONG + "33"),
            invalid=UIDS,
        ),
        Case(
            "UIDs with leading zeros",
            "1.02.003: forbidden and common (PS3.5 9.1)",
            lambda: uids("1.2.03.4.0005", "1.2.03.4.0006", "1.2.03.4.0007"),
            invalid=UIDS,
        ),
        Case(
            "UIDs with path characters",
            "no path is made of what is received",
            lambda: [
                as_bytes(xray()).replace(
                    str(xray().StudyInstanceUID).encode(),
                    b"../../../../etc/passwd/../../../../tmp"[: len(str(xray().StudyInstanceUID))].ljust(
                        len(str(xray().StudyInstanceUID)), b"/"
                    ),
                )
            ],
            invalid=UIDS,
        ),
        Case(
            "UIDs with trailing spaces",
            "padded with the wrong character (PS3.5 9.1)",
            lambda: raw("StudyInstanceUID", "UI", "1.2.3.4 "),
            invalid=UIDS,
        ),
        Case(
            "unknown SOP class",
            "private or newer than this release",
            lambda: xray(SOPClassUID="1.2.840.113619.4.26"),
            "skipped: not an X-ray image: 1.2.840.113619.4.26",
        ),
        Case(
            "control characters in a description",
            "a line feed in LO (PS3.5 6.2)",
            lambda: raw("StudyDescription", "LO", "Wrist\r\nleft\x07"),
            invalid=("StudyDescription",),
        ),
        Case(
            "description of 300 characters",
            "an LO has 64 (PS3.5 6.2)",
            lambda: raw("StudyDescription", "LO", "wrist " * 50),
            invalid=("StudyDescription",),
        ),
        Case(
            "patient ID of 200 characters",
            "an LO has 64 (PS3.5 6.2)",
            lambda: raw("PatientID", "LO", "1234567890" * 20),
            invalid=("PatientID",),
        ),
        Case(
            "patient ID with backslashes",
            "two values of one (PS3.5 6.4)",
            lambda: raw("PatientID", "LO", "A\\B"),
            invalid=("PatientID",),
        ),
        Case(
            "body part of another list",
            "a defined term is not obligatory (PS3.16 L)",
            lambda: xray(BodyPartExamined="LEFT_THING"),
            reads=("left thing",),
        ),
        Case(
            "body part in lower case",
            "PS3.5 6.2 CS",
            lambda: xray(BodyPartExamined="wrist"),
            reads=("right wrist",),
        ),
        Case(
            "no body part",
            "Type 3 in CR (PS3.3 C.7.3.1); the report says so",
            lambda: xray(BodyPartExamined=None, AnatomicRegionSequence=[]),
            reads=("body part not stated",),
        ),
    ],
}
