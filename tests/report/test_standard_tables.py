"""dicom-validator with the standard's tables: clean reports, and it sees what is broken."""

from collections.abc import Callable

import pytest
import support.report_studies as studies
from pydicom.dataset import Dataset
from support import standard_tables

from pacs_node import config
from pacs_node.report import sc, sr
from pacs_node.report.facts import ReportFacts

SHAPES = studies.shapes()


@pytest.mark.parametrize("iod", ["comprehensive", "comprehensive3d"])
@pytest.mark.parametrize("name", SHAPES)
def test_every_report_is_as_the_tables_of_the_standard_say(name: str, iod: str) -> None:
    facts = ReportFacts.of(SHAPES[name], config.ReportSettings(iod=iod))
    assert standard_tables.problems(sr.build(facts)) == []


def capture() -> Dataset:
    facts = ReportFacts.of(SHAPES["positive"], config.ReportSettings())
    return sc.build(facts, facts.images[0], studies.display(facts.images[0].source))


def test_a_capture_is_as_the_tables_of_the_standard_say() -> None:
    assert standard_tables.problems(capture()) == []


def numbers(item: Dataset) -> list[Dataset]:
    found = [item] if item.get("ValueType") == "NUM" else []
    return found + [one for child in item.get("ContentSequence") or [] for one in numbers(child)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda report: report.pop("SeriesNumber"), "(0020,0011): TagMissing"),
        (lambda report: setattr(report, "SeriesInstanceUID", ""), "(0020,000E): TagEmpty"),
        (lambda report: setattr(report, "Rows", 5), "(0028,0010): TagUnexpected"),
        (lambda report: report.ContentSequence[0].pop("RelationshipType"), "(0040,A010): TagMissing"),
        (lambda report: numbers(report)[0].pop("MeasuredValueSequence"), "(0040,A300): TagMissing"),
        (lambda report: setattr(numbers(report)[0], "TextValue", "a"), "(0040,A160): TagNotAllowed"),
    ],
    ids=["Type 1", "Type 1, empty", "unexpected", "relationship", "value", "two values"],
)
def test_what_is_broken_is_seen(change: Callable[[Dataset], object], expected: str) -> None:
    report = sr.build(ReportFacts.of(SHAPES["positive"], config.ReportSettings()))
    change(report)
    assert any(line.endswith(expected) for line in standard_tables.problems(report))


def test_what_is_broken_in_a_capture_is_seen() -> None:
    broken = capture()
    del broken.ConversionType
    assert standard_tables.problems(broken) == ["SC Equipment: (0008,0064): TagMissing"]
