"""Orthanc's own viewer shows the heat map and the outcome; dcmtk's page of HTML, the whole report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from pydicom.dataset import Dataset
from support import validators
from support.ohif.page import WaitUntil, as_picture, difference, on_screen
from support.ohif.reported import Reported

from pacs_node.demo.pacs import Orthanc

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def series_page(pacs: Orthanc, dataset: Dataset) -> str:
    """The address of Orthanc's viewer with the series of this object."""
    query = {"Level": "Series", "Query": {"SeriesInstanceUID": str(dataset.SeriesInstanceUID)}}
    (identifier,) = pacs.rest.post("/tools/find", query)
    return f"{pacs.rest.url}/web-viewer/app/viewer.html?series={identifier}"


def test_orthancs_viewer_shows_the_heat_map(
    page: Page, pacs: Orthanc, studies: dict[str, Reported], wait_until: WaitUntil, artifacts: Path
) -> None:
    (capture,) = studies["negative"].captures
    page.goto(series_page(pacs, capture))
    expect(page.locator("body")).to_contain_text("AI heat map (Grad-CAM), research use only")
    canvas = page.locator("canvas").first

    def the_capture() -> bool:
        shot = as_picture(canvas.screenshot())
        return difference(shot, on_screen(capture.pixel_array, shot.shape)) < 25

    wait_until(the_capture, 30)
    page.screenshot(path=artifacts / "orthanc-sc.png")


def test_orthancs_viewer_shows_the_outcome_of_a_report_that_it_cannot_display(
    page: Page, pacs: Orthanc, studies: dict[str, Reported], artifacts: Path
) -> None:
    page.goto(series_page(pacs, studies["positive"].reports[0]))
    expect(page.locator("body")).to_contain_text("AI: Fracture suspected, right wrist, 87 %")
    page.screenshot(path=artifacts / "orthanc-sr.png")


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (
            "positive",
            ["AI: Fracture suspected", "87 % (series 2", "Certainty of Finding", "Research use only"],
        ),
        ("negative", ["AI: no fracture suspected", "Does not exclude a fracture", "Absent"]),
        ("amended", ["AMENDED (replaces", "Predecessor Docs", "93 %"]),
        ("failed", ["AI: NOT ANALYZED", "No statement is made", "No algorithms succeeded"]),
    ],
)
def test_dcmtks_page_begins_with_the_outcome(
    page: Page,
    studies: dict[str, Reported],
    tool: Callable[[str], Path],
    tmp_path: Path,
    artifacts: Path,
    kind: str,
    texts: list[str],
) -> None:
    tool("dsr2html")
    path = tmp_path / "sr.dcm"
    studies[kind].reports[-1].save_as(path, enforce_file_format=True)
    page.set_content(validators.dsr2html(path))
    for text in texts:
        expect(page.locator("body")).to_contain_text(text)
    page.screenshot(path=artifacts / f"dsr2html-{kind}.png", full_page=True)
