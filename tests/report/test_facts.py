"""The facts of a report: what people read first fits, and keeps the outcome and the percentage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import support.report_studies as studies

from pacs_node import config
from pacs_node.records import ImageResult, ReportRequest
from pacs_node.report import facts
from pacs_node.report.facts import ReportFacts

SETTINGS = config.ReportSettings()
SHAPES = studies.shapes()


def image(number: int, probability: float | None, **attributes: Any) -> ImageResult:
    return studies.image(studies.header(number, **attributes), probability, number)


def description_of(request: ReportRequest) -> str:
    return ReportFacts.of(request, SETTINGS).description


def summary_of(request: ReportRequest) -> str:
    return ReportFacts.of(request, SETTINGS).summary


@pytest.mark.parametrize(
    ("shape", "description"),
    [
        ("positive", "AI: Fracture suspected, left wrist, 87 %"),
        ("negative", "AI: no fracture suspected"),
        ("partial, positive", "AI: Fracture suspected, left wrist, 87 %, 1 of 2 X-rays analyzed"),
        ("partial, negative", "AI: no fracture suspected, 1 of 2 X-rays analyzed"),
        ("skipped", "AI: no fracture suspected, 1 of 5 X-rays analyzed"),
        ("failed", "AI: NOT ANALYZED"),
    ],
)
def test_the_series_description_says_the_outcome(shape: str, description: str) -> None:
    assert description_of(SHAPES[shape]) == description


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (1, "1 image of this study in the PACS was not received."),
        (2, "2 images of this study in the PACS were not received."),
    ],
)
@pytest.mark.parametrize("shape", ["positive", "negative", "failed"])
def test_missing_images_are_counted(shape: str, missing: int, sentence: str) -> None:
    assert "not received" not in summary_of(SHAPES[shape])
    assert sentence in summary_of(replace(SHAPES[shape], missing_images=missing))


def test_a_negative_without_all_images_says_so_first() -> None:
    request = replace(SHAPES["negative"], missing_images=2)
    assert description_of(request) == "AI: no fracture suspected, 2 NOT RECEIVED"
    request = zoned(replace(SHAPES["partial, negative"], missing_images=2), predecessor=studies.PREDECESSOR)
    assert description_of(request).endswith("no fracture suspected, INCOMPLETE")


def zoned(request: ReportRequest, **fields: Any) -> ReportRequest:
    """The request with sources that state UTC, so that the test's own zone does not matter."""
    images = tuple(
        replace(image, source=studies.header(number, TimezoneOffsetFromUTC="+0000"))
        for number, image in enumerate(request.images, 1)
    )
    return replace(request, images=images, **fields)


def test_an_amended_report_begins_with_what_it_replaces_and_shortens_the_place() -> None:
    request = zoned(SHAPES["amended"])
    description = description_of(request)
    assert description == "AMENDED (replaces 14:13) AI: Fracture suspected, L wrist, 87 %"
    assert summary_of(request).startswith("AMENDED (replaces 14:13). AI: Fracture suspected, left wrist")


def test_an_amended_incomplete_negative_still_says_that_it_is_incomplete() -> None:
    request = zoned(SHAPES["partial, negative"], predecessor=studies.PREDECESSOR)
    description = description_of(request)
    assert description == "AMENDED (replaces 14:13) AI: no fracture suspected, INCOMPLETE"


@pytest.mark.parametrize(
    ("part", "fields", "description"),
    [
        ("SHOULDER", {}, "AI: Fracture suspected, left shoulder, 87 %, 1 of 2 analyzed"),
        ("LSSPINE", {}, "AI: Fracture suspected, L lumbo-sacral spine, 87 %, INCOMPLETE"),
        (
            "WRIST",
            {"predecessor": studies.PREDECESSOR},
            "AMENDED AI: Fracture suspected, left wrist, 87 %, INCOMPLETE",
        ),
        ("FOOT", {"missing_images": 2}, "AI: Fracture suspected, left foot, 87 %, INCOMPLETE"),
    ],
)
def test_a_positive_without_all_images_says_so_however_short(
    part: str, fields: dict[str, Any], description: str
) -> None:
    request = studies.request(image(1, 0.8731, BodyPartExamined=part), image(2, None), **fields)
    assert description_of(request) == description
    assert len(description) <= facts.LONGEST_LO


@pytest.mark.parametrize("phrase", ["Fracture suspected", "A" * 30, "A" * 80, "back\\slash"])
@pytest.mark.parametrize("part", ["WRIST", "VERY LONG NAMES OF PARTS OF THE BODY AND MORE", None])
@pytest.mark.parametrize("amended", [False, True])
def test_the_series_description_fits(phrase: str, part: str | None, amended: bool) -> None:
    request = studies.request(
        image(1, 0.8731, BodyPartExamined=part),
        model=replace(studies.MODEL, positive_phrase=phrase),
        predecessor=studies.PREDECESSOR if amended else None,
    )
    description = description_of(request)
    assert len(description) <= 64
    assert description.endswith(", 87 %")
    assert phrase.replace("\\", " ")[:20] in description


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0.0, "<1 %"),
        (0.0099, "<1 %"),
        (0.01, "1 %"),
        (0.8731, "87 %"),
        (0.99, "99 %"),
        (0.9996, ">99 %"),
        (1.0, ">99 %"),
    ],
)
def test_no_percentage_claims_certainty(probability: float, text: str) -> None:
    assert facts.percent(probability) == text


def test_the_summary_names_the_worst_image_of_each_side_and_what_failed() -> None:
    request = studies.request(
        image(1, 0.62, ImageLaterality="L"),
        image(2, 0.91, ImageLaterality="L"),
        image(3, 0.07, ImageLaterality="R"),
        image(4, None),
    )
    assert summary_of(request) == (
        "AI: Fracture suspected, left wrist, 91 % (image 2, LL; threshold 50 %). "
        "Highest on each side: left 91 % (image 2, LL); right 7 % (image 3, LL). "
        "3 of 4 X-rays analyzed, 1 NOT ANALYZED. Research use only. Not for diagnosis."
    )


def test_a_negative_summary_carries_the_caveat() -> None:
    assert summary_of(SHAPES["negative"]) == (
        "AI: no fracture suspected, highest 12 % (image 2, LL; threshold 50 %). Does not exclude a fracture. "
        "Research use only. Not for diagnosis."
    )


def test_a_missing_body_part_is_stated_as_missing() -> None:
    nowhere = {"BodyPartExamined": None, "ImageLaterality": None}
    positive = studies.request(image(1, 0.8731, **nowhere))
    assert description_of(positive) == "AI: Fracture suspected, body part not stated, 87 %"
    negative = studies.request(image(1, 0.12, **nowhere))
    assert "Body part not stated." in summary_of(negative)


def test_a_report_without_findings_makes_no_statement() -> None:
    text = summary_of(SHAPES["failed"])
    assert text.startswith("AI: NOT ANALYZED. None of 2 X-rays could be analyzed.")
    assert "suspected" not in text


def test_image_names_are_distinct() -> None:
    assert facts.image_names(studies.request().images) == ("image 1, PA", "image 2, LL")
    same = (image(1, 0.1, InstanceNumber=1), image(2, 0.1, InstanceNumber=1, SeriesNumber=2))
    assert facts.image_names(same) == ("series 1 image 1, PA", "series 2 image 1, LL")
    none = (image(1, 0.1, InstanceNumber=None), image(2, 0.1, ViewPosition=None))
    assert facts.image_names(none) == ("image 1 of 2, PA", "image 2 of 2")
