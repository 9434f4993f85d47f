"""OHIF as a radiologist uses it, and checks of its screen pixel by pixel."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page

Picture = NDArray[np.uint8]
"""RGB, shape (rows, columns, 3)."""

ALIKE = 12.0
"""Two pictures are the same up to this mean difference in levels: scaling and OHIF's own texts make some."""
GREEN, YELLOW = (0, 255, 0), (255, 255, 0)
"""OHIF's colours for the annotation that is selected, and for the others."""

_CANVAS = """() => {
    const box = document.querySelector("canvas.cornerstone-canvas")?.getBoundingClientRect();
    return box?.width ? {x: box.x, y: box.y, width: box.width, height: box.height} : null;
}"""

WaitUntil = Callable[[Callable[[], object], float], None]


class Viewer:
    """One browser tab with OHIF; screenshots go to `folder`."""

    def __init__(self, page: Page, url: str, folder: Path, wait_until: WaitUntil) -> None:
        self.page = page
        self._url, self._folder, self._wait_until = url, folder, wait_until

    def list_studies(self) -> None:
        """The study list."""
        self.page.goto(self._url)

    def open(self, study_instance_uid: str, picture: bool = True) -> None:
        """Open a study in the basic viewer; without `picture`, one whose first image cannot be displayed."""
        self.page.goto(f"{self._url}/viewer?StudyInstanceUIDs={study_instance_uid}")
        self.series("S:1").wait_for()
        if picture:
            self._wait_until(self._has_a_picture, 40)

    def series(self, text: str) -> Locator:
        """The entry in the series list with this text, such as "S:1" for SeriesNumber 1."""
        return self.page.locator("[data-cy^=study-browser-thumbnail]").filter(has_text=text).first

    def show(self, text: str) -> None:
        """Open a series by double click."""
        self.series(text).dblclick()

    def wait_for_likeness(self, expected: Callable[[tuple[int, ...]], Picture]) -> Picture:
        """Wait until the viewport shows what `expected` gives for its shape; the viewport's pixels."""
        seen: list[Picture] = []

        def the_expected_picture() -> bool:
            seen[:] = [self.picture()]
            return difference(seen[0], expected(seen[0].shape)) < ALIKE

        self._wait_until(the_expected_picture, 40)
        return seen[0]

    def picture(self) -> Picture:
        """The active viewport as on the screen, with the texts and annotations over it."""
        box = self.page.evaluate(_CANVAS)
        return as_picture(self.page.screenshot(clip=box)) if box else np.zeros((1, 1, 3), np.uint8)

    def annotations(self) -> list[str]:
        """The texts drawn over the image, once there are any."""
        texts = self.page.locator("svg text")

        def annotated() -> bool:
            # OHIF may have drawn the image before it has the annotations; then they wait for the next time.
            self.page.evaluate("cornerstone.getRenderingEngines().forEach(engine => engine.render())")
            return texts.count() > 0

        self._wait_until(annotated, 20)
        return [text or "" for text in texts.all_text_contents()]

    def _has_a_picture(self) -> bool:
        return bool(self.picture().mean() > 15)

    def keep(self, name: str) -> None:
        """Save a screenshot."""
        self.page.screenshot(path=self._folder / f"{name}.png")


def as_picture(png: bytes) -> Picture:
    """A PNG as RGB."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def on_screen(pixels: Picture, shape: tuple[int, ...]) -> Picture:
    """An image as a viewport of this shape shows it: upright, scaled to fit, centred on black."""
    scale = min(shape[0] / pixels.shape[0], shape[1] / pixels.shape[1])
    offset = [(shape[1] - pixels.shape[1] * scale) / 2, (shape[0] - pixels.shape[0] * scale) / 2]
    # Centres of pixels lie at half coordinates on both sides; cv2's lie at whole ones.
    shift = [offset[0] + (scale - 1) / 2, offset[1] + (scale - 1) / 2]
    place = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    return np.asarray(cv2.warpAffine(pixels, place, (shape[1], shape[0]), flags=cv2.INTER_LINEAR), np.uint8)


def place_on_screen(
    box: tuple[float, ...], size: tuple[int, int], shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """Place in such a viewport of a box (left, top, right, bottom) in an image of `size` (rows, columns)."""
    scale = min(shape[0] / size[0], shape[1] / size[1])
    corner = ((shape[1] - size[1] * scale) / 2, (shape[0] - size[0] * scale) / 2)
    left, top, right, bottom = (round(corner[i % 2] + box[i] * scale) for i in range(4))
    return left, top, right, bottom


def difference(shot: Picture, expected: Picture) -> float:
    """Mean difference in levels, over the picture or over its colourful part, whichever is larger.

    Both are blurred first: viewers differ by half a pixel in where they put an image.
    """
    apart = np.abs(cv2.blur(shot, (7, 7)).astype(float) - cv2.blur(expected, (7, 7)))
    inside = expected.max(axis=2) > 8
    vivid = chroma(expected) > 60
    return max(float(apart[part].mean()) for part in (inside, vivid) if part.any())


def chroma(picture: Picture) -> NDArray[np.int16]:
    """The distance of each pixel from grey, in levels."""
    return np.asarray(np.ptp(picture.astype(np.int16), axis=2))


def sides_drawn(shot: Picture, box: tuple[int, int, int, int], colour: tuple[int, int, int]) -> list[float]:
    """The fraction of the left, top, right and bottom side of a box drawn in a colour, within 3 pixels."""
    drawn = np.all(np.abs(shot.astype(int) - colour) < 90, axis=2)
    left, top, right, bottom = box
    return [
        float(drawn[top:bottom, left - 3 : left + 4].any(axis=1).mean()),
        float(drawn[top - 3 : top + 4, left:right].any(axis=0).mean()),
        float(drawn[top:bottom, right - 3 : right + 4].any(axis=1).mean()),
        float(drawn[bottom - 3 : bottom + 4, left:right].any(axis=0).mean()),
    ]
