"""How the figures of an evaluation come out of labels, probabilities and groups.

Every interval is 95 %, by the percentile bootstrap over whole groups: the images of one patient stand or fall
together. A measure takes many draws at once, as weights of shape (draws, samples), and gives one value each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from pacs_node.training.model_metrics import (
    BINS,
    SENSITIVITY,
    SMALLEST,
    SPECIFICITY,
    Bin,
    Estimate,
    Operation,
    Subgroup,
)

RESAMPLES = 2000
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Array = NDArray[np.float64]
Truth = NDArray[np.bool_]
Groups = NDArray[np.str_]
Measure = Callable[[Array], Mapping[str, Array]]


def bootstrap(measure: Measure, groups: Groups) -> dict[str, Estimate | None]:
    """Each of the measure's values on all samples, with its interval over `RESAMPLES` draws of whole groups.

    Draws in which a value is not defined are left out; None where it is not defined on all samples.
    """
    _, of_sample = np.unique(groups, return_inverse=True)
    count = int(of_sample.max()) + 1
    rng, at_once = np.random.default_rng(0), 100
    draws: list[Mapping[str, Array]] = []
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = measure(np.ones((1, len(groups))))
        for _ in range(RESAMPLES // at_once):
            drawn = rng.multinomial(count, np.full(count, 1 / count), size=at_once)
            draws.append(measure(drawn[:, of_sample].astype(np.float64)))
    found: dict[str, Estimate | None] = {}
    for name, value in whole.items():
        spread = np.concatenate([draw[name] for draw in draws])
        spread = spread[np.isfinite(spread)]
        if np.isfinite(value[0]) and len(spread):
            low, high = np.percentile(spread, (2.5, 97.5))
            numbers = (round(float(number), 4) for number in (value[0], low, high))
            found[name] = Estimate(**dict(zip(("value", "low", "high"), numbers, strict=True)))
        else:
            found[name] = None
    return found


def means(values: Mapping[str, Array], groups: Groups) -> dict[str, Estimate]:
    """The means of values that every sample has."""
    found = bootstrap(lambda w: {name: mean(v, w) for name, v in values.items()}, groups)
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def mean(values: Array, weights: Array) -> Array:
    """The mean of values that every sample has; NaN where one has none."""
    found: Array = weights @ values / weights.sum(axis=1)
    return found


def ranking(labels: Truth, probabilities: Array, weights: Array) -> dict[str, Array]:
    """What does not depend on a threshold: AUC, average precision, and two points of the ROC curve."""
    order = np.argsort(-probabilities, kind="stable")
    last = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)
    ordered, truth = weights[:, order], labels[order]
    hits = np.cumsum(ordered * truth, axis=1)[:, last]
    alarms = np.cumsum(ordered * ~truth, axis=1)[:, last]
    start = np.zeros((len(weights), 1))
    sensitivity = np.hstack([start, hits / hits[:, -1:]])
    fallout = np.hstack([start, alarms / alarms[:, -1:]])
    precision = np.divide(hits, hits + alarms, out=np.zeros_like(hits), where=hits + alarms > 0)
    defined = np.isfinite(sensitivity[:, -1]) & np.isfinite(fallout[:, -1])
    found = {
        "auc": np.trapezoid(sensitivity, fallout, axis=1),
        "average_precision": (np.diff(sensitivity, axis=1) * precision).sum(axis=1),
        "sensitivity_at_specificity": np.where(fallout <= 1 - SPECIFICITY + 1e-9, sensitivity, 0).max(axis=1),
        "specificity_at_sensitivity": np.where(sensitivity >= SENSITIVITY - 1e-9, 1 - fallout, 0).max(axis=1),
    }
    return {name: np.where(defined, values, np.nan) for name, values in found.items()}


def calibration(labels: Truth, probabilities: Array, weights: Array) -> dict[str, Array]:
    """Brier score (mean squared error of the probability) and expected calibration error."""
    within = np.eye(BINS)[_bin(probabilities)]
    gap = weights @ (within * (probabilities - labels)[:, None])
    total = weights.sum(axis=1)
    return {
        "brier": weights @ (probabilities - labels) ** 2 / total,
        "ece": np.abs(gap).sum(axis=1) / total,
    }


def reliability(labels: Truth, probabilities: Array, groups: Groups) -> tuple[Bin, ...]:
    """The bins of the reliability diagram that hold images."""
    found = []
    bin_of = _bin(probabilities)
    for number in np.unique(bin_of):
        inside = bin_of == number
        positive = means({"positive": labels[inside].astype(np.float64)}, groups[inside])
        found.append(
            Bin(
                images=int(inside.sum()),
                probability=round(float(probabilities[inside].mean()), 4),
                positive=positive["positive"] if inside.sum() >= SMALLEST else None,
            )
        )
    return tuple(found)


def _bin(probabilities: Array) -> NDArray[np.intp]:
    return np.minimum((probabilities * BINS).astype(np.intp), BINS - 1)


def rates(labels: Truth, called: Truth, weights: Array) -> dict[str, Array]:
    """What depends on the images that are called positive."""
    hit, alarm, miss, rest = (
        weights @ cell.astype(np.float64)
        for cell in (labels & called, ~labels & called, labels & ~called, ~labels & ~called)
    )
    return {
        "sensitivity": hit / (hit + miss),
        "specificity": rest / (rest + alarm),
        "precision": hit / (hit + alarm),
        "accuracy": (hit + rest) / (hit + alarm + miss + rest),
        "f1": 2 * hit / (2 * hit + alarm + miss),
    }


def operation(labels: Truth, probabilities: Array, groups: Groups, threshold: float) -> Operation:
    """The confusion matrix at a threshold, and its rates."""
    called = probabilities >= threshold
    return Operation(
        threshold=threshold,
        true_positives=int((labels & called).sum()),
        false_positives=int((~labels & called).sum()),
        true_negatives=int((~labels & ~called).sum()),
        false_negatives=int((labels & ~called).sum()),
        **bootstrap(lambda w: rates(labels, called, w), groups),
    )


def subgroup(
    trait: str,
    value: str,
    member: Truth,
    labels: Truth,
    probabilities: Array,
    refused: Array,
    groups: Groups,
    threshold: float,
) -> Subgroup:
    """The figures of the members alone."""
    truth, scores = labels[member], probabilities[member]
    called = scores >= threshold
    enough = {"sensitivity": truth.sum() >= SMALLEST, "specificity": (~truth).sum() >= SMALLEST}
    enough["auc"] = enough["sensitivity"] and enough["specificity"]
    enough["refused"] = True
    found = bootstrap(
        lambda w: {
            **rates(truth, called, w),
            **ranking(truth, scores, w),
            "refused": mean(refused[member], w),
        },
        groups[member],
    )
    return Subgroup(
        trait=trait,
        value=value,
        images=len(truth),
        positives=int(truth.sum()),
        **{name: found[name] if is_enough else None for name, is_enough in enough.items()},
    )
