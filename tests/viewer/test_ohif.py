"""OHIF, a viewer that radiologists use, shows the node's results: really looked at, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from playwright.sync_api import expect
from pydicom.dataset import Dataset
from support.ohif.page import (
    ALIKE,
    GREEN,
    YELLOW,
    Picture,
    Viewer,
    chroma,
    difference,
    on_screen,
    place_on_screen,
    sides_drawn,
)
from support.ohif.reported import BOX, COLUMNS, ROWS, Reported, displayed

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SIZE = (ROWS, COLUMNS)
HEAT_MAPS = "AI heat map"
MISTAKES: dict[str, Callable[[Picture], Picture]] = {
    "mirrored": lambda picture: picture[:, ::-1],
    "upside down": lambda picture: picture[::-1],
    "turned by 180 degrees": lambda picture: picture[::-1, ::-1],
    "turned by 90 degrees": lambda picture: np.rot90(picture),
    "inverted": lambda picture: 255 - picture,
    "blue for red": lambda picture: picture[:, :, ::-1],
    "green for red": lambda picture: picture[:, :, [1, 0, 2]],
}


def shown(capture: Dataset) -> Callable[[tuple[int, ...]], Picture]:
    return partial(on_screen, np.ascontiguousarray(capture.pixel_array))


def test_the_study_list_has_the_results(viewer: Viewer, studies: dict[str, Reported]) -> None:
    viewer.list_studies()
    for study, modalities in (("positive", "DX\\OT\\SR"), ("amended", "CR\\OT\\SR"), ("failed", "DX\\SR")):
        source = studies[study].sources[0]
        row = viewer.page.locator("tr").filter(has_text=str(source.PatientID)).first
        expect(row).to_contain_text(modalities)
        expect(row).to_contain_text(str(len(studies[study].objects)))
    viewer.keep("study-list")


def test_source_sc_and_sr_are_series_of_the_study(viewer: Viewer, studies: dict[str, Reported]) -> None:
    viewer.open(studies["positive"].uid)
    entries = viewer.page.locator("[data-cy^=study-browser-thumbnail]")
    expect(entries).to_have_count(4)
    assert [entry.splitlines()[:2] for entry in entries.all_inner_texts()] == [
        ["DX", "Wrist, phantom"],
        ["DX", "Wrist, phantom"],
        ["OT", "AI heat map (Grad-CAM), research use only"],
        ["SR", "AI: Fracture suspected, right wrist, 87 %"],
    ]
    expect(viewer.series(HEAT_MAPS)).to_contain_text("S:9902")


@pytest.mark.parametrize("kind", ["positive", "negative"])
def test_the_secondary_capture_is_upright_and_in_its_colours(
    viewer: Viewer, studies: dict[str, Reported], kind: str
) -> None:
    study = studies[kind]
    viewer.open(study.uid)
    if kind == "positive":
        viewer.show("S:2")
    original = viewer.wait_for_likeness(partial(on_screen, displayed(study.sources[-1])))

    viewer.show(HEAT_MAPS)
    if kind == "positive":
        viewer.wait_for_likeness(shown(study.captures[0]))
        viewer.page.keyboard.press("ArrowDown")
    capture = np.ascontiguousarray(study.captures[-1].pixel_array)
    shot = viewer.wait_for_likeness(partial(on_screen, capture))
    viewer.keep(f"sc-{kind}")

    # The same comparison refuses every way in which it could be wrong.
    for mistake, make in MISTAKES.items():
        wrong = on_screen(np.ascontiguousarray(make(capture)), shot.shape)
        assert difference(shot, wrong) > 2 * ALIKE, mistake

    # What OHIF makes of the source, by rules of its own, is what is under the heat map.
    left, top, right, bottom = place_on_screen((40, 110, 440, 530), SIZE, shot.shape)
    grey = chroma(shot)[top:bottom, left:right] < 12
    assert grey.mean() > 0.7
    apart = np.abs(shot.astype(int) - original)[top:bottom, left:right]
    assert apart[grey].mean() < ALIKE / 3
    if kind == "positive":
        left, top, right, bottom = place_on_screen(BOX, SIZE, shot.shape)
        red, _, blue = shot[(top + bottom) // 2, (left + right) // 2].astype(int)
        assert red > blue + 50, "the hottest spot is yellow, not blue"


def test_the_report_shows_its_region_on_the_right_image(viewer: Viewer, studies: dict[str, Reported]) -> None:
    study = studies["positive"]
    viewer.open(study.uid)
    viewer.show("AI: Fracture suspected")
    viewer.page.get_by_text("No", exact=True).click()
    texts = viewer.annotations()
    assert len(texts) == 2
    assert all("Certainty of Finding: 87.00 %" in text for text in texts)
    assert all("Wrist joint" in text for text in texts)
    shot = viewer.wait_for_likeness(partial(on_screen, displayed(study.sources[1])))
    viewer.keep("sr-positive")
    sides = sides_drawn(shot, place_on_screen(BOX, SIZE, shot.shape), GREEN)
    assert min(sides) > 0.3, sides
    left, top, right, bottom = BOX
    for wrong in ((COLUMNS - right, top, COLUMNS - left, bottom), (left, ROWS - bottom, right, ROWS - top)):
        assert min(sides_drawn(shot, place_on_screen(wrong, SIZE, shot.shape), GREEN)) < 0.1


def test_the_report_becomes_a_measurement(viewer: Viewer, studies: dict[str, Reported]) -> None:
    study = studies["positive"]
    viewer.open(study.uid)
    viewer.show("AI: Fracture suspected")
    viewer.page.get_by_text("Yes", exact=True).click()
    viewer.page.locator("[data-cy=trackedMeasurements-btn]").click()
    expect(viewer.page.get_by_text("Measurements (1)")).to_be_visible()
    expect(viewer.page.get_by_text("Fracture of bone")).to_be_visible()
    expect(viewer.page.get_by_text("Wrist joint", exact=True)).to_be_visible()
    shot = viewer.wait_for_likeness(partial(on_screen, displayed(study.sources[1])))
    viewer.keep("sr-positive-measurement")
    assert min(sides_drawn(shot, place_on_screen(BOX, SIZE, shot.shape), YELLOW)) > 0.9
    (image,) = viewer.page.evaluate(
        "services.measurementService.getMeasurements().map(m => m.referencedImageId)"
    )
    assert study.sources[1].SOPInstanceUID in image


def test_a_negative_report_is_not_a_black_page(viewer: Viewer, studies: dict[str, Reported]) -> None:
    study = studies["negative"]
    viewer.open(study.uid)
    viewer.show("AI: no fracture suspected")
    viewer.page.get_by_text("No", exact=True).click()
    viewer.wait_for_likeness(partial(on_screen, displayed(study.sources[0])))
    (texts,) = viewer.annotations()
    viewer.keep("sr-negative")
    assert "Probability: 8.00 %" in texts
    assert "Fracture" not in texts


def test_an_amended_report_stands_beside_the_one_it_replaces(
    viewer: Viewer, studies: dict[str, Reported]
) -> None:
    study = studies["amended"]
    viewer.open(study.uid)
    viewer.show("AI: no fracture suspected")
    viewer.wait_for_likeness(partial(on_screen, displayed(study.sources[0])))
    (texts,) = viewer.annotations()
    assert "Probability: 12.00 %" in texts
    viewer.show("AMENDED (replaces")
    viewer.wait_for_likeness(partial(on_screen, displayed(study.sources[1])))
    assert all("Certainty of Finding: 93.00 %" in text for text in viewer.annotations())
    shot = viewer.picture()
    viewer.keep("sr-amended")
    assert min(sides_drawn(shot, place_on_screen(BOX, SIZE, shot.shape), GREEN)) > 0.3


def test_a_failure_report_states_the_reason(viewer: Viewer, studies: dict[str, Reported]) -> None:
    viewer.open(studies["failed"].uid, picture=False)
    viewer.show("AI: NOT ANALYZED")
    expect(viewer.page.get_by_text("No statement is made about this study.")).to_be_visible()
    expect(viewer.page.get_by_text("Image 1, PA: NOT ANALYZED: the pixel data")).to_be_visible()
    viewer.keep("sr-failed")
