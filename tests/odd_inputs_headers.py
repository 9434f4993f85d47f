"""Odd headers: what is absent, malformed, oversized or in another alphabet, and what is no X-ray of a bone."""

from __future__ import annotations

from collections.abc import Callable

from odd_inputs import Case, as_bytes, sequence, stored, xray
from pydicom.dataset import Dataset, FileDataset
from report_studies import NODE

from pacs_node.config import Accept, StudyRules

CASES: dict[str, list[Case]] = {}
NAME = "PatientName"


def named(charset: str | list[str] | None, name: bytes | str) -> Callable[[], FileDataset]:
    """The phantom with a name of these bytes, in what is declared as this character set (PS3.3 C.12.1.1.2)."""

    def make() -> FileDataset:
        made = xray(SpecificCharacterSet=charset, StudyDescription="Wrist")
        if isinstance(name, bytes):
            # Written as they are: no encoder of ours between.
            made.PatientName = "x" * len(name)
            data = as_bytes(made)
            plain = b"PN" + len(name + b" " * (len(name) % 2)).to_bytes(2, "little")
            at = data.index(b"\x10\0\x10\0" + plain) + 8
            return data[:at] + name + data[at + len(name) :]  # type: ignore[return-value]
        made.PatientName = name
        return made

    return make


def with_raw(keyword: str, value: str) -> bytes:
    """The phantom with a value that pydicom would refuse to write."""
    made = xray()
    setattr(made, keyword, "~" * len(value))
    made[keyword].value = "~" * len(value)
    return as_bytes(made).replace(b"~" * len(value), value.encode())


def raw(keyword: str, vr: str, value: str) -> FileDataset:
    """The phantom with a value of any text, also one that its VR does not allow."""
    made = xray()
    made.pop(keyword, None)
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    tag = Tag(tag_for_keyword(keyword) or 0)
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


def private(size: int) -> FileDataset:
    made = xray()
    block = made.private_block(0x0029, "ACME 1.0", create=True)
    block.add_new(0x01, "OB", b"\x01" * size)
    block.add_new(0x02, "SQ", sequence(CodeValue="1"))
    return made


def side(**attributes: object) -> Callable[[], FileDataset]:
    return lambda: xray(None, {"ImageLaterality": None}, **attributes)


def uids(study: str, series: str, instance: str) -> FileDataset:
    return xray(StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID=instance)


def two(**second: object) -> list[FileDataset]:
    """Two images of one series; keywords change the second."""
    return [xray(InstanceNumber=1), xray(SOPInstanceUID="2.25.1234567", InstanceNumber=2, **second)]


LONG = "1.2.826.0.1.3680043.8.498." + "1234567890" * 3 + "1234567"
GROUP = "Anastasia-Wilhelmina^Bartholomaea-Konstantina^Clementine^Dr^Prof"
PNS = "PS3.5 H, PS3.3 C.12.1.1.2"

CASES["Attributes"] = [
    *(
        Case(
            f"no {keyword}",
            "Type 1 everywhere: without it nothing can be filed (PS3.3 C.7.2.1, C.7.3.1, C.12.1)",
            lambda keyword=keyword: xray(None, {keyword: None}),
            f"refused: 0xC000 {keyword} absent or empty",
        )
        for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    ),
    *(
        Case(
            f"no {keyword}",
            "Type 1 (PS3.3 C.7.6.3)",
            lambda keyword=keyword: xray(None, {keyword: None}),
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
            dict.fromkeys(
                [
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
            ),
        ),
    ),
    Case(
        "Type 2 attributes empty",
        "unknown patient in an emergency",
        lambda: xray(
            None,
            dict.fromkeys(
                [
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
                ],
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
    ),
    Case(
        "items without content",
        "codes that say nothing",
        lambda: xray(
            AnatomicRegionSequence=[Dataset()],
            ProcedureCodeSequence=[Dataset()],
            RequestAttributesSequence=[Dataset()],
        ),
    ),
    Case(
        "invalid dates",
        "PS3.5 6.2 DA, TM",
        lambda: xray(None, {}, PatientBirthDate="19801340", StudyDate="2026.01.05", StudyTime="9:30"),
    ),
    Case("dates that are words", "PS3.5 6.2 DA, TM", lambda: raw("StudyDate", "DA", "TODAY")),
    Case(
        "patient sex of another system",
        "M, F and O are defined (PS3.3 C.7.1.1)",
        lambda: xray(PatientSex="U"),
    ),
    Case("instance number that is no number", "PS3.5 6.2 IS", lambda: raw("InstanceNumber", "IS", "1a")),
    Case("instance number with a fraction", "PS3.5 6.2 IS", lambda: raw("InstanceNumber", "IS", "1.5")),
    Case(
        "instance number of 12 digits",
        "an IS has 32 bits (PS3.5 6.2)",
        lambda: raw("InstanceNumber", "IS", "202601050930"),
    ),
    Case("series number that is no number", "PS3.5 6.2 IS", lambda: raw("SeriesNumber", "IS", "one")),
    Case("orientation of one value", "it has two (PS3.3 C.7.6.1.1.1)", lambda: xray(PatientOrientation="L")),
    Case("orientation in words", "PS3.3 C.7.6.1.1.1", lambda: xray(PatientOrientation=["LEFT", "FEET"])),
    Case("time zone malformed", "PS3.3 C.12.1.1.8", lambda: raw("TimezoneOffsetFromUTC", "SH", "CET")),
    Case("private attributes", "of any maker (PS3.5 7.8)", lambda: private(100)),
    Case("huge private element", "20 MB of a maker's own", lambda: private(20 << 20)),
    Case(
        "private attributes without a creator",
        "PS3.5 7.8.1",
        lambda: (lambda made: (made.add_new((0x0029, 0x1001), "UN", b"\x01\x02"), made)[1])(xray()),
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
        "UIDs of 64 characters", "the longest (PS3.5 9.1)", lambda: uids(LONG + "1", LONG + "2", LONG + "3")
    ),
    Case(
        "UIDs longer than 64 characters",
        "PS3.5 9.1 forbids it, devices do it; they are referred to as they are",
        lambda: uids(LONG + "11", LONG + "22", LONG + "33"),
    ),
    Case(
        "UIDs with leading zeros",
        "1.02.003: forbidden and common (PS3.5 9.1)",
        lambda: uids("1.2.03.4.0005", "1.2.03.4.0006", "1.2.03.4.0007"),
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
    ),
    Case(
        "UIDs with trailing spaces",
        "padded with the wrong character (PS3.5 9.1)",
        lambda: raw("StudyInstanceUID", "UI", "1.2.3.4 "),
    ),
    Case(
        "SOP class that nobody knows",
        "a private or a newer one",
        lambda: xray(SOPClassUID="1.2.840.113619.4.26"),
        "skipped: not an X-ray image: 1.2.840.113619.4.26",
    ),
    Case(
        "control characters in a description",
        "a line feed in LO (PS3.5 6.2)",
        lambda: raw("StudyDescription", "LO", "Wrist\r\nleft\x07"),
    ),
    Case(
        "description of 300 characters",
        "an LO has 64 (PS3.5 6.2)",
        lambda: raw("StudyDescription", "LO", "wrist " * 50),
    ),
    Case(
        "patient ID of 200 characters",
        "an LO has 64 (PS3.5 6.2)",
        lambda: raw("PatientID", "LO", "1234567890" * 20),
    ),
    Case(
        "patient ID with backslashes", "two values of one (PS3.5 6.4)", lambda: raw("PatientID", "LO", "A\\B")
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
        "Type 3 in CR (PS3.3 C.7.3.1); said in the report",
        lambda: xray(BodyPartExamined=None, AnatomicRegionSequence=[]),
        reads=("body part not stated",),
    ),
]

CASES["Names and alphabets"] = [
    Case(
        "ISO 2022 Japanese", f"{PNS}.3", named(["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう")
    ),
    Case(
        "ISO 2022 Japanese with half-width letters",
        f"{PNS}.3",
        named(["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    ),
    Case(
        "ISO 2022 Korean",
        PNS.replace("H", "I"),
        named(["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ),
    Case("Chinese GB18030", PNS.replace("H", "J"), named("GB18030", "Wang^XiaoDong=王^小东")),
    Case("Chinese GBK", PNS.replace("H", "J"), named("GBK", "Wang^XiaoDong=王^小东")),
    Case("Chinese ISO 2022", PNS.replace("H", "K"), named(["", "ISO 2022 IR 58"], "Zhang^XiaoDong=张^小东")),
    Case("Cyrillic", "ISO_IR 144", named("ISO_IR 144", "Люкceмбypг")),
    Case("Arabic", "ISO_IR 127", named("ISO_IR 127", "قباني^لنزار")),
    Case("Hebrew", "ISO_IR 138", named("ISO_IR 138", "שרון^דבורה")),
    Case("Greek", "ISO_IR 126", named("ISO_IR 126", "Διονυσιος")),
    Case("Thai", "ISO_IR 166", named("ISO_IR 166", "สมชาย^ใจดี")),
    Case("Latin-2", "ISO_IR 101", named("ISO_IR 101", "Wałęsa^Łucja")),
    Case("UTF-8", "ISO_IR 192", named("ISO_IR 192", "Wang^XiaoDong=王^小东")),
    Case("UTF-8 beyond 16 bits", "ISO_IR 192", named("ISO_IR 192", "𠮷野^家")),
    Case(
        "no character set, Latin-1 all the same",
        "the default is ASCII; the bytes go back as they came",
        named(None, b"M\xfcller^Eva"),
    ),
    Case(
        "no character set, UTF-8 all the same",
        "the default is ASCII; the bytes go back as they came",
        named(None, "Müller^Eva".encode()),
    ),
    Case(
        "Latin-1 declared, UTF-8 meant",
        "wrong declaration; the bytes go back as they came",
        named("ISO_IR 100", "Müller^Eva".encode()),
    ),
    Case(
        "UTF-8 declared, Latin-1 meant",
        "wrong declaration; the bytes go back as they came",
        named("ISO_IR 192", b"M\xfcller^Eva"),
    ),
    Case(
        "Cyrillic declared, cut in an escape",
        "a broken escape sequence",
        named(["", "ISO 2022 IR 87"], b"Yamada^Tarou=\x1b$B;3ED^\x1b"),
    ),
    Case("unknown character set", "ISO_IR 999", named("ISO_IR 999", b"Doe^Jane")),
    Case("character set in another spelling", "ISO-IR 100", named("ISO-IR 100", b"M\xfcller^Eva")),
    Case(
        "names of 64 characters in three groups",
        "the longest (PS3.5 6.2 PN)",
        named("ISO_IR 192", "=".join([GROUP, "王" * 64, "山" * 64])),
    ),
    Case("names of 500 characters", "longer than allowed", named("ISO_IR 192", "Doe^" + "Jane" * 124)),
    Case("names of six components", "there are five (PS3.5 6.2 PN)", named("ISO_IR 192", "a^b^c^d^e^f")),
    Case("one-word name", "no caret (PS3.5 6.2 PN)", named("ISO_IR 192", "Cher")),
    Case("a name of carets", "nothing between them", named("ISO_IR 192", "^^^^")),
]

CASES["Sides"] = [
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
]

BONES = StudyRules(accept=Accept(body_parts=("HAND", "WRIST")))
CASES["What is no X-ray of a bone"] = [
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
        "a human, said so",
        "PatientSpeciesDescription (PS3.3 C.7.1.1)",
        lambda: xray(PatientSpeciesDescription="Homo sapiens"),
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
        "ImageType of one value", "it has two or more (PS3.3 C.7.6.1.1.2)", lambda: xray(ImageType="ORIGINAL")
    ),
    Case(
        "a quality control image",
        "QualityControlImage YES (PS3.3 C.7.6.1)",
        lambda: xray(QualityControlImage="YES"),
        "skipped: quality control image",
    ),
    Case(
        "one of our own results",
        "a PACS forwards all that it gets; DeviceUID is the node's",
        lambda: xray(DeviceUID=NODE.device_uid),
        "skipped: own result",
    ),
    Case(
        "one image of two is broken",
        "the other is analyzed, the report says which is not",
        lambda: [xray(InstanceNumber=1), xray(SOPInstanceUID="2.25.6", InstanceNumber=2, PixelData=None)],
        ("analyzed", "failed: the object has no pixel data"),
        reads=("1 of 2 images NOT ANALYZED", "the object has no pixel data"),
    ),
    Case(
        "an old study",
        "study.max_study_age_days",
        lambda: xray(StudyDate="20200101"),
        "skipped: study is older than 30 days",
        rules=StudyRules(max_study_age_days=30),
    ),
]


def deep(levels: int) -> bytes:
    """Sequences of undefined length in each other, written by hand: writers give up before readers."""
    data = as_bytes(xray())
    start = b"\x40\0\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    at = data.index(b"\xe0\x7f\x10\x00OW")
    return data[:at] + start * levels + end * levels + data[at:]
