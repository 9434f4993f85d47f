"""Scenes: display images with the outlines that lie in them, and the changes that move both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.float32]
Floats = NDArray[np.float64]
Outlines = tuple[Floats, ...]
Rng = np.random.Generator

SLIGHT_TURN = 20.0
"""Degrees, within which one source positions its limbs."""
MARGIN = 6
"""Pixels between a mark and the nearest edge of the frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A display image with its outlines."""

    image: Image
    """(rows, columns), 0..1."""
    outlines: Outlines
    """Each (points, 2): x, y, from the corner of the first pixel."""


def turned(scene: Scene, rng: Rng, degrees: float = 180.0, scale: float = 0.2) -> Scene:
    """Turned, resized, mirrored every second time, in a frame that cuts corners but no marks."""
    rows, columns = scene.image.shape
    stretch = np.exp(rng.uniform(-0.08, 0.08))
    linear = np.exp(rng.uniform(-scale, scale)) * rotation(np.deg2rad(rng.uniform(-degrees, degrees)))
    linear = linear @ np.diag([stretch, 1 / stretch]) @ np.diag([rng.choice([-1.0, 1.0]), 1.0])
    middle = linear @ [columns / 2, rows / 2]
    extent = np.abs(linear) @ [columns / 2, rows / 2] * rng.uniform(0.8, 1.0)
    for points in scene.outlines:
        extent = np.maximum(extent, np.abs(points @ linear.T - middle).max(axis=0) + MARGIN)
    width, height = (int(length) for length in np.ceil(2 * extent))
    offset = extent - middle
    # OpenCV has pixel centres at whole numbers, outlines have them at halves.
    matrix = np.column_stack([linear, offset + linear @ [0.5, 0.5] - 0.5])
    edges = [scene.image[0], scene.image[-1], scene.image[:, 0], scene.image[:, -1]]
    border = float(np.median(np.concatenate(edges))) if rng.random() < 0.8 else 0.0
    image = cv2.warpAffine(scene.image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=[border])
    return Scene(bounded(image), moved(scene.outlines, linear, offset))


def quartered(scene: Scene, rng: Rng) -> Scene:
    """Turned by 0 to 3 quarters, without resampling."""
    for _ in range(int(rng.integers(4))):
        below = np.array([scene.image.shape[0], 0.0])
        clockwise = np.array([[0.0, -1.0], [1.0, 0.0]])
        image = np.ascontiguousarray(np.rot90(scene.image, -1))
        scene = Scene(image, moved(scene.outlines, clockwise, below))
    return scene


def several(scene: Scene, rng: Rng, other: Scene | None = None) -> Scene:
    """Two views in one frame, beside or above each other; without `other`, two of the same image."""
    views = [turned(view, rng, SLIGHT_TURN, 0.1) for view in (scene, other or scene)]
    beside = bool(rng.random() < 0.7)
    across = 0 if beside else 1
    side = max(view.image.shape[across] for view in views)
    ground, gap = float(rng.choice([0.0, 0.0, 1.0, rng.random()])), int(rng.integers(0, 12))
    parts: list[Image] = []
    outlines: list[Floats] = []
    start = 0
    for number in rng.permutation(2):
        image = views[number].image
        shrink = 1.0 if rng.random() < 0.6 else rng.uniform(0.7, 1)
        factor = side / image.shape[across] * shrink
        rows, columns = (max(1, round(length * factor)) for length in image.shape)
        kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        resized = cv2.resize(image, (columns, rows), interpolation=kind)
        slack = side - resized.shape[across]
        before = int(rng.integers(0, slack + 1))
        margins = [(before, slack - before), (0, gap)]
        padded = np.pad(resized, margins if beside else margins[::-1], constant_values=ground)
        scaling = np.diag([columns / image.shape[1], rows / image.shape[0]])
        place = np.array([start, before] if beside else [before, start], np.float64)
        outlines += moved(views[number].outlines, scaling, place)
        parts.append(padded)
        start += padded.shape[1 - across]
    return Scene(bounded(np.concatenate(parts, axis=1 - across)), tuple(outlines))


def rotation(angle: float) -> Floats:
    """The matrix (2, 2) of a turn, clockwise on the screen."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def moved(outlines: Outlines, linear: Floats, offset: Floats) -> Outlines:
    """The outlines after a linear map and a shift."""
    return tuple(points @ linear.T + offset for points in outlines)


def drawn(shares: Mapping[str, float], rng: Rng) -> str:
    """A random name out of names with shares."""
    return str(rng.choice(list(shares), p=list(shares.values())))


def single(image: ArrayLike) -> Image:
    """The values in single precision."""
    return np.asarray(image, np.float32)


def bounded(image: ArrayLike) -> Image:
    """The values in single precision, within 0..1."""
    return np.clip(single(image), 0, 1)


def blurred(image: Image, sigma: float) -> Image:
    """The image after a Gaussian filter."""
    return single(cv2.GaussianBlur(image, (0, 0), sigma))
