"""What a model package is worth on a split, measured through the classifier that serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import track
from sklearn.metrics import brier_score_loss, roc_auc_score

from pacs_node.analyze.classifier import Classifier
from pacs_node.errors import InputError
from pacs_node.records import HeatMap
from pacs_node.training import dataset

RESAMPLES = 2000


class Figure(BaseModel):
    """A measured figure with its 95 % confidence interval (percentile bootstrap, resampled by group)."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class Metrics(BaseModel):
    """Figures of one split."""

    model_config = ConfigDict(frozen=True)

    split: str
    images: int
    fractured: int
    groups: int
    threshold: float
    auc: Figure
    sensitivity: Figure
    specificity: Figure
    brier: float
    pointing: Figure | None
    """Part of the images with marked fractures in which the map's peak lies in a marked box.

    Zhang et al. 2016, arXiv 1608.00507, section 4.2, without tolerance.
    """
    pointing_by_chance: float | None
    """The same for a point anywhere: the mean part of an image that the boxes cover."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Figures of a split and what they were made from."""

    metrics: Metrics
    labels: NDArray[np.bool_]
    probabilities: NDArray[np.float64]


def evaluate(classifier: Classifier, data: Path, split: str, console: Console) -> Evaluation:
    """Measure on one split. Raises InputError where it is empty or has images of one label only."""
    samples = dataset.load(data, split)
    labels = np.array([sample.fractured for sample in samples], bool)
    if labels.all() or not labels.any():
        raise InputError(f"{data}: the {split} split must have fractured and other images")
    probabilities = np.empty(len(samples))
    hits, chances, of_group = [], [], []
    for index, sample in track(
        list(enumerate(samples)), f"evaluate {split}", console=console, transient=True
    ):
        display = dataset.display(sample.path)
        prediction = classifier.predict([display])[0]
        probabilities[index] = prediction.probability
        if sample.boxes:
            hits.append(peak_is_inside(prediction.heat_map, display.shape, sample.boxes))
            chances.append(covered(display.shape, sample.boxes))
            of_group.append(sample.group)
    groups = np.array([sample.group for sample in samples])
    threshold = classifier.identity.threshold
    positive = probabilities >= threshold
    metrics = Metrics(
        split=split,
        images=len(samples),
        fractured=int(labels.sum()),
        groups=len(set(groups)),
        threshold=threshold,
        auc=bootstrap(lambda w: roc_auc_score(labels, probabilities, sample_weight=w), groups, labels),
        sensitivity=bootstrap(lambda w: _mean(positive, w * labels), groups, labels),
        specificity=bootstrap(lambda w: _mean(~positive, w * ~labels), groups, labels),
        brier=round(float(brier_score_loss(labels, probabilities)), 4),
        pointing=bootstrap(lambda w: _mean(np.array(hits), w), np.array(of_group)) if hits else None,
        pointing_by_chance=round(float(np.mean(chances)), 4) if chances else None,
    )
    return Evaluation(metrics=metrics, labels=labels, probabilities=probabilities)


def bootstrap(
    measure: Callable[[NDArray[np.float64]], float],
    groups: NDArray[np.str_],
    labels: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> Figure:
    """A measure of weighted samples with its 95 % interval over `RESAMPLES` draws of whole groups.

    `measure` takes one weight per sample. Draws without both of the `labels` are left out.
    """
    _, of_sample = np.unique(groups, return_inverse=True)
    count = int(of_sample.max()) + 1
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        weights = np.bincount(rng.integers(0, count, count), minlength=count)[of_sample].astype(np.float64)
        if labels is None or (weights[labels].any() and weights[~labels].any()):
            drawn.append(measure(weights))
    low, high = np.percentile(drawn, (2.5, 97.5))
    value = measure(np.ones(len(groups)))
    return Figure(value=round(float(value), 4), low=round(float(low), 4), high=round(float(high), 4))


def peak_is_inside(
    heat_map: HeatMap, shape: tuple[int, ...], boxes: Sequence[tuple[float, float, float, float]]
) -> bool:
    """Whether the map's peak in an image of `shape` (rows, columns) lies in a box; never if all is 0."""
    rows, columns = shape
    over = heat_map.at_size(rows, columns, (rows, columns))
    row, column = divmod(int(over.argmax()), columns)
    x, y = column + 0.5, row + 0.5
    return bool(over[row, column] > 0) and any(
        left <= x <= left + width and top <= y <= top + height for left, top, width, height in boxes
    )


def covered(shape: tuple[int, ...], boxes: Sequence[tuple[float, float, float, float]]) -> float:
    """The part of an image of `shape` (rows, columns) whose pixel centres lie in a box."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, bool)
    for left, top, width, height in boxes:
        inside |= (left <= x) & (x <= left + width) & (top <= y) & (y <= top + height)
    return float(inside.mean())


def _mean(hit: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    """The weighted part of hits."""
    total = weights.sum()
    return float((hit * weights).sum() / total) if total else 0.0
