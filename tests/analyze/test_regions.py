"""Maps to source coordinates and to regions."""

from __future__ import annotations

import numpy as np
import pytest

from pacs_node.analyze import regions
from pacs_node.heatmap import HeatMap


def spots(
    rows: int, columns: int, points: dict[tuple[int, int], float], **place: tuple[float, float]
) -> HeatMap:
    """A map that is 0 but at these cells (row, column)."""
    values = np.zeros((rows, columns), np.float32)
    for cell, value in points.items():
        values[cell] = value
    return HeatMap(values=values, origin=place.get("origin", (50, 50)), step=place.get("step", (100, 100)))


def test_a_maps_cell_lies_where_origin_and_step_say() -> None:
    over = spots(6, 5, {(4, 1): 1.0}, origin=(70, 30), step=(90, 110)).at_size(700, 500, (700, 500))
    row, column = np.unravel_index(over.argmax(), over.shape)
    assert (column + 0.5, row + 0.5) == pytest.approx((70 + 90, 30 + 4 * 110), abs=1)
    # Bilinear: half way to the next cell, half of it.
    assert over[30 + 4 * 110, 70 + 90 + 45] == pytest.approx(0.5, abs=0.02)


def test_a_map_is_the_same_at_every_size() -> None:
    heat_map = HeatMap(np.random.default_rng(0).random((7, 9), np.float32), (12.5, 7.5), (33, 41))
    fine = heat_map.at_size(300, 320, (600, 640))
    coarse = heat_map.at_size(300, 320, (300, 320))
    np.testing.assert_allclose(fine.reshape(300, 2, 320, 2).mean((1, 3)), coarse, atol=0.02)
    assert fine.dtype == np.float32


def test_values_are_sampled_at_pixel_centres() -> None:
    heat_map = HeatMap(np.array([[0, 1, 2, 3]], np.float32), (10, 10), (20, 20))
    # The centres of 8 pixels over 80 columns are 5, 15, 25 ...: cells -0.25, 0.25, 0.75 ...
    expected = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    np.testing.assert_allclose(heat_map.at_size(20, 80, (1, 8))[0], expected, atol=1e-6)


def test_cells_go_on_beyond_the_outermost() -> None:
    over = HeatMap(np.array([[1.0, 0.0]], np.float32), (40, 40), (20, 20)).at_size(100, 100, (100, 100))
    assert over[0, 0] == over[99, 0] == 1
    assert over[50, 99] == 0


def test_regions_are_found_strongest_first_and_in_place() -> None:
    heat_map = spots(10, 8, {(2, 2): 0.7, (7, 5): 1.0})
    first, second = regions.find(heat_map, 1000, 800)
    assert (first.score, second.score) == pytest.approx((1.0, 0.7), abs=0.03)
    # At half of the peak a bilinear spot ends half a cell from its centre, the weaker one nearer.
    assert first.box == pytest.approx((500, 700, 600, 800), abs=4)
    left, top, right, bottom = second.box
    assert 250 - 50 < left < 250 < right < 250 + 50
    assert 250 - 50 < top < 250 < bottom < 250 + 50


def test_at_most_three_regions() -> None:
    found = regions.find(
        spots(10, 10, {(1, 1): 0.8, (1, 7): 0.9, (7, 1): 1.0, (7, 7): 0.85, (4, 4): 0.95}), 1000, 1000
    )
    assert [region.score for region in found] == pytest.approx([1.0, 0.95, 0.9], abs=0.03)


@pytest.mark.parametrize(("rows", "columns"), [(1000, 800), (90, 2000), (40, 30), (1, 50)])
def test_regions_stay_in_the_image(rows: int, columns: int) -> None:
    everywhere = HeatMap(
        values=np.ones((10, 10), np.float32), origin=(-50, -50), step=(columns / 5, max(rows / 5, 30))
    )
    (region,) = regions.find(everywhere, rows, columns)
    left, top, right, bottom = region.box
    assert left >= 0
    assert top >= 0
    assert right <= columns
    assert bottom <= rows
    assert (right - left) * (bottom - top) > 0.85 * rows * columns


def test_a_peak_beside_the_image_does_not_hide_what_is_in_it() -> None:
    heat_map = spots(10, 14, {(5, 0): 1.0, (5, 8): 0.3}, origin=(-350, 50))
    (region,) = regions.find(heat_map, 1000, 700)
    assert region.score == pytest.approx(0.3, abs=0.02)
    assert region.box == pytest.approx((400, 500, 500, 600), abs=4)


def test_an_empty_map_has_no_regions() -> None:
    assert regions.find(spots(4, 4, {}), 400, 400) == ()
