"""Where a heat map points, against marks; and images disturbed."""

from __future__ import annotations

import numpy as np
import pytest
from support import phantom

from pacs_node.analyze import pixels
from pacs_node.heatmap import HeatMap
from pacs_node.training.dataset import Mark
from pacs_node.training.evaluate import DISTURBANCES, overlap

SHAPE = (125, 100)


def heat(*cells: tuple[int, int], size: int = 25) -> HeatMap:
    """A map of 5 x 4 cells (times 25 / size) over the image, hot in these (row, column)."""
    values = np.zeros((SHAPE[0] // size, SHAPE[1] // size), np.float32)
    for cell in cells:
        values[cell] = 1
    return HeatMap(values, origin=(size / 2, size / 2), step=(size, size))


def mark(left: float, top: float, width: float, height: float) -> Mark:
    right, bottom = left + width, top + height
    return Mark((left, top, width, height), ((left, top), (right, top), (right, bottom), (left, bottom)))


def test_the_pointing_game() -> None:
    peak = heat((3, 1))  # about (37.5, 87.5)
    assert overlap(peak, SHAPE, [mark(30, 80, 15, 15)])["pointing"] == 1
    assert overlap(peak, SHAPE, [mark(0, 0, 5, 5), mark(30, 80, 15, 15)])["pointing"] == 1
    # 10 % of the long side are 12.5 pixels.
    near, far = (overlap(peak, SHAPE, [mark(38 + off, 80, 15, 15)]) for off in (11, 14))
    assert (near["pointing"], near["pointing_near"]) == (0, 1)
    assert (far["pointing"], far["pointing_near"]) == (0, 0)
    nowhere = overlap(heat(), SHAPE, [mark(0, 0, 100, 125)])
    assert (nowhere["pointing"], nowhere["pointing_near"]) == (0, 0)


def test_chance_is_the_area() -> None:
    chance = overlap(heat((0, 0)), SHAPE, [mark(0, 0, 50, 25), mark(25, 0, 25, 25)])
    assert chance["chance"] == pytest.approx(0.1)
    # 12.5 more to the right and below, and a quarter of a circle.
    assert chance["chance_near"] == pytest.approx(
        (62.5 * 37.5 - (1 - np.pi / 4) * 12.5**2) / 12500, abs=0.004
    )


def test_overlap() -> None:
    blob = heat(*((row, column) for row in range(10, 15) for column in range(8, 12)), size=5)
    right_there = overlap(blob, SHAPE, [mark(40, 50, 20, 25)])
    assert right_there["region_iou"] > 0.8
    assert right_there["box_iou"] > 0.8
    half = overlap(blob, SHAPE, [mark(40, 50, 20, 12.5)])
    assert half["region_iou"] == pytest.approx(0.5, abs=0.08)
    with_a_missed_one = overlap(blob, SHAPE, [mark(40, 50, 20, 25), mark(0, 0, 10, 10)])
    assert with_a_missed_one["box_iou"] == pytest.approx(right_there["box_iou"] / 2)
    assert overlap(blob, SHAPE, [mark(0, 0, 10, 10)])["region_iou"] == 0


@pytest.mark.parametrize("name", DISTURBANCES)
def test_disturbed_images_are_images(name: str) -> None:
    image = (phantom.radiograph(1, True, rows=200, columns=160) / 4095).astype(np.float32)
    disturbed = DISTURBANCES[name](image)
    assert disturbed.dtype == np.float32
    assert disturbed.min() >= 0
    assert disturbed.max() <= 1
    assert sorted(disturbed.shape) == sorted(image.shape)
    assert disturbed.shape != image.shape or np.abs(disturbed - image).mean() > 0.003
    np.testing.assert_array_equal(disturbed, DISTURBANCES[name](image))


def test_a_wider_window_is_made_up_for_before_the_network() -> None:
    image = (phantom.radiograph(1, True, rows=200, columns=160) / 4095).astype(np.float32)
    wide = DISTURBANCES["window 1.5 times as wide"](image)
    seen, usual = (pixels.letterbox(one, 128, (1.0, 99.0))[0] for one in (wide, image))
    np.testing.assert_allclose(seen, usual, atol=1e-5)
