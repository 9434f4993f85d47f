"""What the report's tree says, read back from the object: groups, codes, regions."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import support.report_studies as studies
from pydicom import Dataset

from pacs_node import config
from pacs_node.records import ReportRequest
from pacs_node.report import sr
from pacs_node.report.facts import ReportFacts

SETTINGS = config.ReportSettings()
SHAPES = studies.shapes()


def items(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", ()):
        yield child
        yield from items(child)


def groups(request: ReportRequest, template: str) -> list[Dataset]:
    return [
        item
        for item in items(sr.build(ReportFacts.of(request, SETTINGS)))
        if "ContentTemplateSequence" in item
        and item.ContentTemplateSequence[0].TemplateIdentifier == template
    ]


def named(group: Dataset, code: str) -> list[Dataset]:
    return [item for item in items(group) if item.ConceptNameCodeSequence[0].CodeValue == code]


def test_a_region_is_a_closed_box_of_five_points_in_source_pixels() -> None:
    request = SHAPES["positive"]
    image = next(image for image in request.images if image.finding and image.finding.positive)
    (group,) = groups(request, "1410")
    (outline,) = named(group, "111030")
    assert image.finding
    left, top, right, bottom = image.finding.regions[0].box
    assert outline.GraphicType == "POLYLINE"
    assert list(outline.GraphicData) == pytest.approx(
        [left, top, right, top, right, bottom, left, bottom, left, top]
    )
    (reference,) = outline.ContentSequence
    assert reference.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == image.instance.sop_instance_uid
    assert reference.ConceptNameCodeSequence[0].CodeValue == "111040"


def test_a_region_beyond_the_edge_ends_at_the_edge() -> None:
    request = SHAPES["positive"]
    images = list(request.images)
    number = next(n for n, image in enumerate(images) if image.finding and image.finding.positive)
    finding = images[number].finding
    assert finding
    region = replace(finding.regions[0], polygon=((-9.0, -9.0), (1e6, -9.0), (1e6, 1e6)))
    images[number] = replace(images[number], finding=replace(finding, regions=(region,)))
    (group,) = groups(replace(request, images=tuple(images)), "1410")
    (outline,) = named(group, "111030")
    columns, rows = float(images[number].source.Columns), float(images[number].source.Rows)
    assert list(outline.GraphicData) == [0, 0, columns, 0, columns, rows, 0, rows, 0, 0]


def test_a_present_finding_is_certain_and_an_absent_one_has_a_probability_and_no_finding() -> None:
    present, absent = groups(SHAPES["positive"], "1501")
    assert [item.ConceptCodeSequence[0].CodeValue for item in named(present, "121071")] == ["125605004"]
    assert [item.ConceptCodeSequence[0].CodeValue for item in named(present, "125605004")] == ["52101004"]
    assert len(named(present, "111012")) == 1
    assert named(present, "122157") == []
    assert named(absent, "121071") == []
    assert [item.ConceptCodeSequence[0].CodeValue for item in named(absent, "125605004")] == ["272519000"]
    assert named(absent, "111012") == []
    assert len(named(absent, "122157")) == 1


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "failed"])
def test_every_group_has_what_viewers_read_unasked(shape: str) -> None:
    found = [*groups(SHAPES[shape], "1410"), *groups(SHAPES[shape], "1501")]
    assert found
    for group in found:
        assert len(named(group, "112040")) == 1
        assert [item.ValueType for item in named(group, "111030")] == ["SCOORD"]
