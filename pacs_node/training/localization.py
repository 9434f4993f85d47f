"""How a heat map and the regions found in it meet what was marked in an image."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pacs_node.analyze import regions
from pacs_node.heatmap import HeatMap
from pacs_node.records import Point
from pacs_node.training.dataset import Mark

NEAR = 0.1
"""Of the image's long side: about the width of a finger's joint in a picture of a hand."""
LONG_SIDE = 512
"""Of the grid on which areas are counted."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def meet(heat_map: HeatMap, shape: tuple[int, ...], marks: Sequence[Mark]) -> dict[str, float]:
    """How well the map of an image of `shape` (rows, columns) meets its marks, all 0..1.

    The names are those of `model_metrics.Localization`. A map that is 0 all over points nowhere.
    """
    rows, columns = shape
    long_side = max(rows, columns)
    boxes = [(x, y, x + width, y + height) for x, y, width, height in (mark.box for mark in marks)]
    found = regions.find(heat_map, rows, columns)
    scale = min(1.0, LONG_SIDE / long_side)
    grid = max(1, round(rows * scale)), max(1, round(columns * scale))
    centres = np.meshgrid(
        (np.arange(grid[1]) + 0.5) * columns / grid[1], (np.arange(grid[0]) + 0.5) * rows / grid[0]
    )
    away = distance(*centres, boxes) / long_side
    over = heat_map.at_size(rows, columns, grid)
    peak = np.unravel_index(int(over.argmax()), grid)
    off = float(away[peak]) if over[peak] > 0 else np.inf
    marked = _covered([mark.polygon for mark in marks], (rows, columns), grid)
    shown = _covered([region.polygon for region in found], (rows, columns), grid)
    union = int((marked | shown).sum())
    best = [max((_box_iou(box, region.box) for region in found), default=0.0) for box in boxes]
    return {
        "pointing": float(off == 0),
        "pointing_near": float(off <= NEAR),
        "chance": float((away == 0).mean()),
        "chance_near": float((away <= NEAR).mean()),
        "region_iou": int((marked & shown).sum()) / union if union else 0.0,
        "box_iou": float(np.mean(best)),
    }


def distance(x: NDArray[np.float64], y: NDArray[np.float64], boxes: Sequence[Box]) -> NDArray[np.float64]:
    """How far points lie from the nearest box; 0 inside of one and on its edge."""
    away: list[NDArray[np.float64]] = []
    for left, top, right, bottom in boxes:
        aside = np.maximum(np.maximum(left - x, x - right), 0)
        away.append(np.hypot(aside, np.maximum(np.maximum(top - y, y - bottom), 0)))
    nearest: NDArray[np.float64] = np.minimum.reduce(away)
    return nearest


def _covered(
    polygons: Sequence[Sequence[Point]], shape: tuple[int, int], grid: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which cells of a grid over an image of `shape` (rows, columns) lie in a polygon."""
    filled = np.zeros(grid, np.uint8)
    scale = np.array([grid[1] / shape[1], grid[0] / shape[0]])
    for polygon in polygons:
        # OpenCV's pixels have their centres at whole numbers, and 4 bits for the part of one.
        corners = np.round((np.asarray(polygon) * scale - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(filled, [corners], 1, shift=4)
    return filled > 0


def _box_iou(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return common / (areas - common) if areas > common else 0.0
