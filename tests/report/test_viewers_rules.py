"""Every kind of report obeys the rules of OHIF, Stone and Weasis; what breaks one of them may not leave."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import support.report_studies as studies
from pydicom.dataset import Dataset
from support import viewer_rules

from pacs_node import config
from pacs_node.errors import CheckError
from pacs_node.records import ReportRequest
from pacs_node.report import check, sr
from pacs_node.report.facts import ReportFacts

SHAPES = studies.shapes() | {
    "two negative views": studies.request(
        studies.image(studies.header(1), 0.2, 1), studies.image(studies.header(2), 0.1, 2)
    ),
    "two positive views": studies.request(
        studies.image(studies.header(1), 0.7, 1), studies.image(studies.header(2), 0.9, 2)
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_viewer_shows_what_the_report_says(name: str) -> None:
    request = SHAPES[name]
    report = sr.build(ReportFacts.of(request, config.ReportSettings()))
    assert_shown(report, request)


def assert_shown(report: Dataset, request: ReportRequest) -> None:
    """OHIF one shape for each image and each region, Stone the regions, Weasis the summary."""
    regions = {
        (image.instance.sop_instance_uid, region.box[:2])
        for image in request.images
        for region in (image.finding.regions if image.finding else ())
    }
    analyzed = {image.instance.sop_instance_uid for image in request.images if image.finding}
    shapes = viewer_rules.ohif(report)
    assert {uid for uid, kind, _ in shapes if kind == "POINT"} == analyzed
    assert len(shapes) == len(analyzed) + len(regions)
    assert {(uid, data[:2]) for uid, _, data in viewer_rules.stone(report)} == regions
    # The first group is what OHIF jumps to: a region where there is one.
    assert (shapes[0][1] == "POLYLINE") == bool(regions) if shapes else not analyzed
    for lines in (viewer_rules.weasis(report), viewer_rules.stone_text(report)):
        assert any("AI: " in line and config.ReportSettings().label in line for line in lines)
        assert any(line.startswith("CAD Processing and Findings Summary: ") for line in lines)


def test_a_negative_report_never_reads_as_a_finding() -> None:
    lines = viewer_rules.weasis(
        sr.build(ReportFacts.of(SHAPES["two negative views"], config.ReportSettings()))
    )
    assert "Fracture of bone: Absent" in lines
    assert not [line for line in lines if line.startswith(("Finding: ", "Certainty"))]


def test_stone_opens_no_comprehensive_3d() -> None:
    report = sr.build(ReportFacts.of(SHAPES["positive"], config.ReportSettings(iod="comprehensive3d")))
    with pytest.raises(viewer_rules.ViewerError, match="Stone"):
        viewer_rules.stone(report)
    viewer_rules.ohif(report)


def each(found: Callable[[Dataset], bool], change: Callable[[Dataset], None]) -> Callable[[Dataset], None]:
    def apply(report: Dataset) -> None:
        for item in viewer_rules.items(report):
            if found(item):
                change(item)

    return apply


def without(kind: str, concept: str = "") -> Callable[[Dataset], None]:
    """Take items of a value type, or of a name, out of their groups."""

    def change(group: Dataset) -> None:
        group.ContentSequence = [
            item
            for item in group.ContentSequence
            if (viewer_rules.code(item) != concept if concept else item.ValueType != kind)
        ]

    return each(lambda item: viewer_rules.code(item) == "125007", change)


def rename(item: Dataset) -> None:
    item.ConceptNameCodeSequence[0].CodeValue = "260753009"
    item.ConceptNameCodeSequence[0].CodingSchemeDesignator = "SCT"


def scoord(item: Dataset) -> bool:
    return bool(item.get("ValueType") == "SCOORD")


def is_num(item: Dataset) -> bool:
    return bool(item.get("ValueType") == "NUM")


def words(code: Dataset) -> None:
    code.CodeMeaning = ""


def without_words(item: Dataset) -> None:
    words(item.ConceptNameCodeSequence[0])


def long_code(item: Dataset) -> None:
    (name,) = item.ConceptNameCodeSequence
    name.LongCodeValue = name.CodeValue
    del name.CodeValue


def twice_in_the_evidence(report: Dataset) -> None:
    (series, *_) = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    series.ReferencedSOPSequence.append(series.ReferencedSOPSequence[0])


BROKEN: dict[str, tuple[Callable[[Dataset], object], Callable[[Dataset], None]]] = {
    "no coordinates": (viewer_rules.ohif, without("SCOORD")),
    "no tracking UID": (viewer_rules.ohif, without("", "112040")),
    "no number": (viewer_rules.ohif, without("NUM")),
    "no image of the coordinates": (
        viewer_rules.ohif,
        each(scoord, lambda item: setattr(item, "ContentSequence", [])),
    ),
    "source named otherwise": (
        viewer_rules.stone,
        each(scoord, lambda item: rename(item.ContentSequence[0])),
    ),
    "outline not closed": (
        viewer_rules.stone,
        each(
            lambda item: scoord(item) and item.GraphicType == "POLYLINE",
            lambda item: setattr(item, "GraphicData", list(item.GraphicData)[:-2]),
        ),
    ),
    "a graphic that is not drawn": (
        viewer_rules.stone,
        each(
            lambda item: scoord(item) and item.GraphicType == "POLYLINE",
            lambda item: setattr(item, "GraphicType", "MULTIPOINT"),
        ),
    ),
    "template of another resource": (
        viewer_rules.stone,
        each(
            lambda item: viewer_rules.code(item) == "125007",
            lambda item: setattr(item.ContentTemplateSequence[0], "MappingResource", "ACME"),
        ),
    ),
    "report of another template": (
        viewer_rules.stone,
        lambda report: setattr(report.ContentTemplateSequence[0], "TemplateIdentifier", "2000"),
    ),
    "an image twice in the evidence": (viewer_rules.stone, twice_in_the_evidence),
    "named by a long code": (viewer_rules.stone, each(scoord, long_code)),
    "nameless": (viewer_rules.stone_text, each(is_num, without_words)),
    "nameless in Weasis": (viewer_rules.weasis, each(is_num, without_words)),
    "a value without words": (
        viewer_rules.weasis,
        each(lambda item: item.get("ValueType") == "CODE", lambda item: words(item.ConceptCodeSequence[0])),
    ),
    "a shape drawn twice": (
        viewer_rules.weasis,
        each(scoord, lambda item: item.ContentSequence.append(item.ContentSequence[0])),
    ),
    "a value type that is not shown": (
        viewer_rules.weasis,
        each(is_num, lambda item: setattr(item, "ValueType", "TCOORD")),
    ),
    "continuous": (
        viewer_rules.weasis,
        each(
            lambda item: item.get("ValueType") == "CONTAINER",
            lambda item: setattr(item, "ContinuityOfContent", "CONTINUOUS"),
        ),
    ),
    "no evidence": (
        viewer_rules.weasis,
        lambda report: setattr(report, "CurrentRequestedProcedureEvidenceSequence", []),
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_what_a_viewer_cannot_show_may_not_leave(rule: str) -> None:
    viewer, breaks = BROKEN[rule]
    report = deepcopy(sr.build(ReportFacts.of(SHAPES["positive"], config.ReportSettings())))
    viewer(report)
    breaks(report)
    with pytest.raises(viewer_rules.ViewerError):
        viewer(report)
    with pytest.raises(CheckError):
        check.verify(report, ReportFacts.of(SHAPES["positive"], config.ReportSettings()))


def test_a_failure_titled_as_a_measurement_report_would_be_a_black_page() -> None:
    report = sr.build(ReportFacts.of(SHAPES["failed"], config.ReportSettings()))
    report.ConceptNameCodeSequence[0].CodeValue = "126000"
    with pytest.raises(viewer_rules.ViewerError, match="black page"):
        viewer_rules.ohif(report)
    with pytest.raises(CheckError):
        check.verify(report, ReportFacts.of(SHAPES["failed"], config.ReportSettings()))
