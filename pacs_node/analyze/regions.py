"""Suspicious regions of a heat map."""

from __future__ import annotations

import cv2
import numpy as np

from pacs_node.heatmap import HeatMap
from pacs_node.records import Region

LEVEL = 0.5
"""Regions have at least this share of the map's peak in the image."""
MOST = 3
"""Number of regions that are reported."""
LONG_SIDE = 512
"""Size at which the map is contoured, far finer than any feature grid."""


def find(heat_map: HeatMap, rows: int, columns: int) -> tuple[Region, ...]:
    """The suspicious regions of a source image of `rows` x `columns`, strongest first, at most `MOST`.

    Polygons are in source coordinates and within the image. Empty if the map is 0 everywhere.
    """
    scale = LONG_SIDE / max(rows, columns)
    shape = max(1, round(rows * scale)), max(1, round(columns * scale))
    over = heat_map.at_size(rows, columns, shape)
    peak = float(over.max())
    if peak <= 0:
        return ()
    hot = (over >= LEVEL * peak).astype(np.uint8)
    contours, _ = cv2.findContours(hot, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    regions = []
    for contour in contours:
        outline = cv2.approxPolyDP(contour, 1.0, closed=True)[:, 0, :]
        if len(outline) < 3:
            continue
        inside = np.zeros(shape, np.uint8)
        cv2.drawContours(inside, [contour], 0, 1, cv2.FILLED)
        polygon = tuple(
            ((float(x) + 0.5) * columns / shape[1], (float(y) + 0.5) * rows / shape[0]) for x, y in outline
        )
        regions.append(Region(polygon=polygon, score=round(float(over[inside > 0].max()), 4)))
    return tuple(sorted(regions, key=lambda region: region.score, reverse=True)[:MOST])
