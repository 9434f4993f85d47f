"""Every kind of report, from ordinary and from odd sources, as the validators of others see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import highdicom
import pytest
import support.report_studies as studies
from pydicom import dcmread
from pydicom.dataset import Dataset
from support import validators

from pacs_node import config
from pacs_node.records import ReportRequest
from pacs_node.report import check, sc, sr
from pacs_node.report.facts import ReportFacts

SETTINGS = config.ReportSettings()
SHAPES = studies.shapes()
LONG = "1.2.826.0.1.3680043.8.498." + "1234567890" * 3 + "12345678"


@pytest.fixture(autouse=True)
def _programs(tool: Callable[[str], Path], missing: Callable[[object], NoReturn]) -> None:
    for program in validators.PROGRAMS:
        tool(program)
    if not validators.PIXELMED_JAR.exists():
        missing(validators.PIXELMED_JAR)


def write(request: ReportRequest, folder: Path, settings: config.ReportSettings = SETTINGS) -> list[Path]:
    """Build, check and write the report and the captures of a request: the report comes first."""
    facts = ReportFacts.of(request, settings)
    objects: list[tuple[str, Dataset]] = [("sr", sr.build(facts))]
    for image in facts.images:
        if image.finding:
            capture = sc.build(facts, image, studies.display(image.source))
            objects.append((f"sc{image.instance.id}", capture))
    paths = []
    for name, made in objects:
        check.verify(made, facts)
        path = folder / f"{name}.dcm"
        made.save_as(path, enforce_file_format=True)
        check.verify(dcmread(path), facts)
        paths.append(path)
    return paths


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("iod", ["comprehensive", "comprehensive3d"])
def test_every_shape_is_valid(shape: str, iod: str, tmp_path: Path) -> None:
    report, *captures = write(SHAPES[shape], tmp_path, config.ReportSettings(iod=iod))
    assert validators.dciodvfy(report) + validators.dsrdump(report) == []
    for capture in captures:
        assert validators.dciodvfy(capture) == []
    assert validators.dcentvfy(report, *captures) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "iod"),
    [
        ("amended", "comprehensive"),
        ("positive", "comprehensive3d"),
        ("partial, negative", "comprehensive"),
        ("failed", "comprehensive"),
    ],
)
def test_pixelmed_accepts_the_templates(shape: str, iod: str, tmp_path: Path) -> None:
    report, *_ = write(SHAPES[shape], tmp_path, config.ReportSettings(iod=iod))
    assert validators.pixelmed(report, "-checkcontentitemorder") == []


@pytest.mark.parametrize("shape", SHAPES)
def test_highdicom_reads_it_back(shape: str, tmp_path: Path) -> None:
    report, *_ = write(SHAPES[shape], tmp_path)
    read = highdicom.sr.srread(report)
    if shape == "failed":
        return
    content: Any = read.content
    request = SHAPES[shape]
    regions = sum(len(image.finding.regions) for image in request.images if image.finding)
    assert len(content.get_planar_roi_measurement_groups()) == regions
    analyzed = [image for image in request.images if image.finding]
    assert len(content.get_image_measurement_groups()) == len(analyzed)


def test_the_summary_is_the_first_content_of_the_page(tmp_path: Path) -> None:
    report, *_ = write(SHAPES["positive"], tmp_path)
    page = validators.dsr2html(report)
    first = page[page.index("<div>") : page.index("</div>")]
    assert "<b>Summary:</b>" in first
    assert "AI: Fracture suspected, left wrist, 87 % (image 1, PA; threshold 50 %)." in first
    assert "Fracture of bone:" in page  # CONTINUOUS containers would drop the names of what they hold


JAPANESE = {
    "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
    "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
}
HALF_WIDTH = {
    "SpecificCharacterSet": ["ISO 2022 IR 13", "ISO 2022 IR 87"],
    "PatientName": "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
}
PLAIN = {"StudyDescription": "Wrist", "ReferringPhysicianName": ""}
ODD: dict[str, dict[str, Any]] = {
    "Japanese": JAPANESE | PLAIN,
    "Japanese, half width": HALF_WIDTH | PLAIN,
    "Korean": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 149"],
        "PatientName": "Hong^Gildong=洪^吉洞=홍^길동",
    }
    | PLAIN,
    "UTF-8": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Wang^XiaoDong=王^小东"} | PLAIN,
    "no character set": {"SpecificCharacterSet": None, "PatientName": "Doe^Jane"} | PLAIN,
    "absent Type 2": dict.fromkeys(
        [
            "AccessionNumber",
            "StudyID",
            "PatientBirthDate",
            "PatientSex",
            "StudyTime",
            "ReferringPhysicianName",
        ]
    ),
    "empty Type 2": dict.fromkeys(["AccessionNumber", "StudyID", "PatientBirthDate", "StudyTime"], ""),
    "no spacing": {"ImagerPixelSpacing": None},
    "no orientation": {"PatientOrientation": None},
    "empty orientation": {"PatientOrientation": ""},
    "no InstanceNumber": {"InstanceNumber": None, "SeriesNumber": None, "ViewPosition": None},
    "InstanceNumber 0": {"InstanceNumber": 0},
    "one-word name": {"PatientName": "Cher"},
    "contradictory sides": {"ImageLaterality": "L", "Laterality": "R"},
    "no side": {"ImageLaterality": None},
    "no body part": {"BodyPartExamined": None, "ImageLaterality": None},
    "unknown body part": {"BodyPartExamined": "LEFT_THING"},
    "unpaired": {"BodyPartExamined": "PELVIS", "ImageLaterality": None},
    "long UIDs": {
        "StudyInstanceUID": LONG,
        "SeriesInstanceUID": LONG[:-1] + "9",
        "SOPInstanceUID": LONG[:-1] + "7",
    },
    "burned in": {"BurnedInAnnotation": "YES"},
    "time zone": {"TimezoneOffsetFromUTC": "+0930"},
    "tall pixels": {"ImagerPixelSpacing": None, "PixelAspectRatio": [2, 1]},
    "lossy": {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": 12.5,
        "LossyImageCompressionMethod": "ISO_10918_1",
    },
    "CR": {
        "Modality": "CR",
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1",
        "ImageLaterality": None,
        "Laterality": "L",
    },
}


@pytest.mark.parametrize("oddity", ODD)
def test_odd_sources_give_valid_objects_and_keep_their_identity(oddity: str, tmp_path: Path) -> None:
    source = studies.header(1, **ODD[oddity])
    original = tmp_path / "source.dcm"
    source.save_as(original)
    request = studies.request(studies.image(source, 0.8731))
    report, capture = write(request, tmp_path)
    assert validators.dciodvfy(report) + validators.dsrdump(report) == []
    assert validators.dciodvfy(capture) == []
    assert validators.dcentvfy(original, report, capture) == []
    for path in (report, capture):
        written = dcmread(path)
        for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyDescription", "StudyTime"):
            ours, theirs = (of.get(keyword) for of in (written, source))
            assert str(ours or "") == str(theirs or "")
        assert written.get("SpecificCharacterSet") == source.get("SpecificCharacterSet")
        assert _raw_name(path) == _raw_name(original)


def _raw_name(path: Path) -> bytes:
    return bytes(dcmread(path).get_item("PatientName").value)


@pytest.mark.parametrize("oddity", ["absent Type 2"])
@pytest.mark.slow
def test_pixelmed_accepts_reports_on_odd_sources(oddity: str, tmp_path: Path) -> None:
    source = studies.header(1, **ODD[oddity])
    report, _ = write(studies.request(studies.image(source, 0.8731)), tmp_path)
    assert validators.pixelmed(report, "-checkcontentitemorder") == []


def test_a_label_beyond_the_source_s_character_set_makes_the_objects_utf_8(tmp_path: Path) -> None:
    procedure = Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "1", "SCT", "手関節"
    source = studies.header(1, ProcedureCodeSequence=[procedure], **JAPANESE | PLAIN)
    request = studies.request(studies.image(source, 0.8731))
    report, _ = write(request, tmp_path, config.ReportSettings(label="Nur für Forschung"))
    read = dcmread(report)
    assert read.SpecificCharacterSet == "ISO_IR 192"
    assert str(read.PatientName) == JAPANESE["PatientName"]
    assert read.PerformedProcedureCodeSequence[0].CodeMeaning == "手関節"
    assert "Nur für Forschung" in validators.dsr2html(report)
    assert validators.dciodvfy(report) == []
