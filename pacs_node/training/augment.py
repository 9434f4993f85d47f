"""Training images: a varied view of a network input, and of where its marks lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pacs_node.analyze import pixels
from pacs_node.training import dataset
from pacs_node.training.recipe import Augmentation

MARK = 1.0
UNSURE = 0.5
"""Near a mark's outline: neither right nor wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class Square:
    """One image as the network's whole input, kept small: 8 bits, marks as outlines in its pixels."""

    image: NDArray[np.uint8]
    """(size, size)."""
    outlines: tuple[NDArray[np.float32], ...]
    """Each (points, 2): x, y, from the first pixel's corner."""
    positive: bool

    @property
    def input(self) -> NDArray[np.float32]:
        """The image as the network takes it: (size, size), 0..1."""
        return self.image.astype(np.float32) / np.float32(255)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What the network is shown once."""

    image: NDArray[np.float32]
    """(side, side), 0..1."""
    marks: NDArray[np.float32]
    """(side, side): 1 inside a mark, 0 outside, `UNSURE` around it."""
    positive: bool
    """Whether what is to be found is in this view."""


def square(sample: dataset.Sample, size: int, stretch: tuple[float, float]) -> Square:
    """A sample as the network's input. Raises InputError where it cannot be read."""
    letterboxed, placement = pixels.letterbox(dataset.display(sample.path), size, stretch)
    outlines = tuple(
        np.array([placement.to_input(point) for point in mark.polygon], np.float32) for mark in sample.marks
    )
    return Square(np.round(letterboxed * 255).astype(np.uint8), outlines, sample.positive)


def view(source: Square, options: Augmentation, rng: np.random.Generator) -> View:
    """A cut, turned, resized, shifted, mirrored view, brighter or darker, with its marks."""
    size = source.image.shape[0]
    side = options.crop or size
    matrix = _placement(source, options, side, rng)
    image = cv2.warpAffine(
        source.image, matrix, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    ).astype(np.float32)
    forward = cv2.invertAffineTransform(matrix)
    # The matrix maps pixel centres, outlines are measured from the first pixel's corner.
    outlines = [(points - 0.5) @ forward[:, :2].T + forward[:, 2] for points in source.outlines]
    marks, inside = _marks(outlines, side)
    seen = inside if source.outlines else source.positive
    exposed = _brightness(image / np.float32(255), options, rng)
    if rng.random() < options.collimation:
        exposed = _collimated(exposed, marks, rng)
    return View(exposed, marks, seen)


def _placement(
    source: Square, options: Augmentation, side: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The map from the view's pixels to the source's: (2, 3)."""
    size = source.image.shape[0]
    angle = np.deg2rad(rng.uniform(-options.rotation, options.rotation))
    factor = np.exp(rng.uniform(-options.scale, options.scale))
    cosine, sine = np.cos(angle) / factor, np.sin(angle) / factor
    linear = np.array([[cosine, -sine], [sine, cosine]])
    if options.mirror:
        linear = linear * np.where(rng.random(2) < 0.5, -1.0, 1.0)
    middle = np.full(2, (size - 1) / 2)
    if side < size:
        slack = (size - side / factor) / 2
        centre = middle + rng.uniform(-1, 1, 2) * max(slack, 0)
        if source.outlines and rng.random() < 0.75:
            chosen = source.outlines[rng.integers(len(source.outlines))]
            centre = chosen.mean(axis=0) - 0.5 + rng.uniform(-0.4, 0.4, 2) * side / factor
    else:
        centre = middle + rng.uniform(-options.shift, options.shift, 2) * size
    offset = centre - linear @ np.full(2, (side - 1) / 2)
    return np.column_stack([linear, offset])


def _marks(outlines: Sequence[NDArray[np.float64]], side: int) -> tuple[NDArray[np.float32], bool]:
    """The marks drawn into a view, and whether the middle of one lies in it."""
    marks = np.zeros((side, side), np.uint8)
    inside = False
    for points in outlines:
        inside |= bool(((points.mean(axis=0) >= 0) & (points.mean(axis=0) < side)).all())
        cv2.fillPoly(marks, [np.round(points).astype(np.int32)], 1)
    if not marks.any():
        return marks.astype(np.float32), inside
    around = cv2.dilate(marks, np.ones((13, 13), np.uint8))
    return np.where(marks, np.float32(MARK), np.where(around, np.float32(UNSURE), np.float32(0))), inside


def _brightness(
    image: NDArray[np.float32], options: Augmentation, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Other exposures, sharpness and noise: 0..1 to 0..1."""
    image = np.power(image, np.float32(np.exp(rng.uniform(-options.gamma, options.gamma))))
    if options.contrast:
        black, white = rng.uniform(-options.contrast, options.contrast, 2)
        image = np.clip((image - black) / (1 + white - black), 0, 1, dtype=np.float32)
    if options.blur and rng.random() < 0.25:
        sigma = max(0.1, rng.uniform(0, options.blur))
        image = cv2.GaussianBlur(image, (0, 0), sigma).astype(np.float32)
    if options.noise and rng.random() < 0.25:
        grain = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, options.noise))
        image = np.clip(image + grain, 0, 1)
    return image


def _collimated(
    image: NDArray[np.float32], marks: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """A black border, where it would hide no mark."""
    left, top, right, bottom = (rng.uniform(0, 0.15, 4) * image.shape[0]).astype(int)
    hidden = np.ones(image.shape, bool)
    hidden[top : image.shape[0] - bottom, left : image.shape[1] - right] = False
    return image if (marks[hidden] == MARK).any() else np.where(hidden, np.float32(0), image)
