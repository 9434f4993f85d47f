"""What a model package is worth on a set of images, measured through the classifier that serves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from pacs_node.analyze.classifier import Classifier
from pacs_node.errors import InputError
from pacs_node.records import Prediction
from pacs_node.report import sc
from pacs_node.training import dataset, localization, measures
from pacs_node.training.dataset import Sample
from pacs_node.training.measures import Array, Groups, Truth
from pacs_node.training.model_metrics import Disturbance, Localization, ModelMetrics
from pacs_node.training.robustness import DISTURBANCES

BATCH = 8
MOST_VALUES = 12
"""A trait of more values is no trait but an identifier; where they are numbers, two halves are compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The figures of a set of images, and the answers behind them, in the order of the samples."""

    metrics: ModelMetrics
    samples: Sequence[Sample]
    labels: Truth
    probabilities: Array


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """An image that shows what the model is good or bad at."""

    kind: str
    """A cell of the confusion matrix, such as "false negative"."""
    sample: Sample
    probability: float
    picture: NDArray[np.uint8]
    """RGB (rows, columns, 3): the heat map as in the Secondary Capture, and the marks outlined in white."""


def evaluate(
    classifier: Classifier, samples: Sequence[Sample], name: str, console: Console, robustness: int = 0
) -> Evaluation:
    """Measure on a set of images, called `name`; `robustness` of them, drawn at random, also disturbed.

    Raises InputError where images of one of the labels are missing or where one cannot be read.
    """
    labels = np.array([sample.positive for sample in samples], bool)
    if not labels.any() or labels.all():
        raise InputError(
            f"{name}: {len(samples)} images, {labels.sum()} of them positive; both must be there"
        )
    groups = np.array([sample.group for sample in samples])
    probabilities, refused = np.empty(len(samples)), np.empty(len(samples))
    met: dict[int, dict[str, float]] = {}
    for start, images in _batches(samples, f"evaluate {name}", console):
        predictions = classifier.predict(images)
        for index, (image, prediction) in enumerate(zip(images, predictions, strict=True), start):
            probabilities[index] = prediction.probability
            refused[index] = _refused(prediction)
            if labels[index] and samples[index].marks:
                met[index] = localization.meet(prediction.heat_map, image.shape, samples[index].marks)
    identity, threshold = classifier.identity, classifier.identity.threshold
    overall = measures.bootstrap(
        lambda w: {
            **measures.ranking(labels, probabilities, w),
            **measures.calibration(labels, probabilities, w),
            "refused": measures.mean(refused, w),
            "accepted_auc": measures.ranking(labels, probabilities, w * (1 - refused))["auc"],
        },
        groups,
    )
    return Evaluation(
        metrics=ModelMetrics(
            name=name,
            model=identity.id,
            model_sha256=identity.sha256,
            images=len(samples),
            positives=int(labels.sum()),
            groups=len(set(groups)),
            **{key: estimate for key, estimate in overall.items() if estimate is not None},
            operation=measures.operation(labels, probabilities, groups, threshold),
            thresholds=tuple(
                measures.operation(labels, probabilities, groups, t) for t in measures.THRESHOLDS
            ),
            bins=measures.reliability(labels, probabilities, groups),
            subgroups=tuple(
                measures.subgroup(*trait, labels, probabilities, refused, groups, threshold)
                for trait in _traits(samples, labels, met)
            ),
            localization=_localization(met, groups),
            disturbances=_disturbances(classifier, samples, probabilities, refused, robustness, console),
        ),
        samples=samples,
        labels=labels,
        probabilities=probabilities,
    )


def examples(classifier: Classifier, evaluation: Evaluation, each: int = 4) -> list[Example]:
    """The most certain right and wrong answers, `each` of every cell of the confusion matrix."""
    labels, probabilities = evaluation.labels, evaluation.probabilities
    called = probabilities >= classifier.identity.threshold
    order = np.argsort(-probabilities, kind="stable")
    found = []
    for kind, cell, by_certainty in (
        ("false negative", labels & ~called, order[::-1]),
        ("false positive", ~labels & called, order),
        ("true positive", labels & called, order),
        ("true negative", ~labels & ~called, order[::-1]),
    ):
        for index in [number for number in by_certainty if cell[number]][:each]:
            sample = evaluation.samples[index]
            found.append(Example(kind, sample, float(probabilities[index]), _picture(classifier, sample)))
    return found


def _refused(prediction: Prediction) -> float:
    """1 beyond the model's scope, 0 within it, NaN where nobody can tell."""
    return np.nan if prediction.scope is None else float(prediction.scope > 1)


def _picture(classifier: Classifier, sample: Sample, long_side: int = 360) -> NDArray[np.uint8]:
    display = dataset.display(sample.path)
    (prediction,) = classifier.predict([display])
    rows, columns = display.shape
    scale = long_side / max(rows, columns)
    shape = max(1, round(rows * scale)), max(1, round(columns * scale))
    gray = cv2.resize(display, shape[::-1], interpolation=cv2.INTER_AREA)
    heat = prediction.heat_map.at_size(rows, columns, shape)
    heat = heat * min(1.0, prediction.probability / classifier.identity.threshold)
    picture = sc.blend(*((layer * 255).round().astype(np.uint8) for layer in (gray, heat)))
    for mark in sample.marks:
        outline = np.round((np.asarray(mark.polygon) * scale - 0.5) * 16).astype(np.int32)
        cv2.polylines(picture, [outline], True, (255, 255, 255), 1, cv2.LINE_AA, shift=4)
    return picture


def _batches(
    samples: Sequence[Sample], title: str, console: Console
) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
    """Display images, a few at a time, with the number of the first."""
    for start in track(range(0, len(samples), BATCH), title, console=console, transient=True):
        yield start, [dataset.display(sample.path) for sample in samples[start : start + BATCH]]


def _traits(
    samples: Sequence[Sample], labels: Truth, met: dict[int, dict[str, float]]
) -> Iterator[tuple[str, str, Truth]]:
    """The subgroups: trait, value, and who belongs to it."""
    for trait in dict.fromkeys(name for sample in samples for name in sample.traits):
        values = np.array([sample.traits.get(trait, "") for sample in samples])
        different = sorted(set(values))
        if len(different) > 2 and all(value.replace(".", "", 1).isdigit() for value in different):
            numbers = values.astype(np.float64)
            lower = numbers <= np.median(numbers)
            lower = numbers < numbers.max() if lower.all() else lower
            yield trait, f"up to {numbers[lower].max():g}", lower
            yield trait, f"over {numbers[lower].max():g}", ~lower
        elif 1 < len(different) <= MOST_VALUES:
            yield from ((trait, value or "not stated", values == value) for value in different)
    marked = np.array(sorted(met))
    if len(marked):
        # Of the mark alone there is no negative image: each third is set against all of them.
        order = np.argsort([met[index]["chance"] for index in marked], kind="stable")
        for part, chosen in zip(("small", "medium", "large"), np.array_split(order, 3), strict=True):
            member = ~labels
            member[marked[chosen]] = True
            yield "marked area", f"{part}, and all negatives", member


def _localization(met: dict[int, dict[str, float]], groups: Groups) -> Localization | None:
    if not met:
        return None
    values = {name: np.array([one[name] for one in met.values()]) for name in next(iter(met.values()))}
    return Localization(images=len(met), **measures.means(values, groups[list(met)]))


def _disturbances(
    classifier: Classifier,
    samples: Sequence[Sample],
    probabilities: Array,
    refused: Array,
    count: int,
    console: Console,
) -> tuple[Disturbance, ...]:
    """The same `count` images, drawn once, in each way; changes are against the undisturbed image."""
    drawn = np.sort(np.random.default_rng(0).permutation(len(samples))[:count])
    chosen = [samples[index] for index in drawn]
    if not chosen:
        return ()
    whole = probabilities[drawn]
    answers = {"none": whole, **{name: np.empty(len(chosen)) for name in DISTURBANCES}}
    refusals = {name: np.empty(len(chosen)) for name in answers}
    refusals["none"] = refused[drawn]
    for start, images in _batches(chosen, "disturb", console):
        for name, disturb in DISTURBANCES.items():
            predictions = classifier.predict([disturb(image) for image in images])
            answers[name][start : start + len(images)] = [p.probability for p in predictions]
            refusals[name][start : start + len(images)] = [_refused(p) for p in predictions]
    labels = np.array([sample.positive for sample in chosen])
    groups = np.array([sample.group for sample in chosen])
    threshold = classifier.identity.threshold
    found = []
    for name, disturbed in answers.items():
        rate, usual = ((scores >= threshold).astype(np.float64) for scores in (disturbed, whole))
        ranks = measures.bootstrap(partial(_auc_change, labels, whole, disturbed), groups)
        rest = measures.means(
            {
                "positive_rate": rate,
                "positive_rate_change": rate - usual,
                "probability_change": np.abs(disturbed - whole),
                "refused": refusals[name],
            },
            groups,
        )
        found.append(Disturbance(name=name, images=len(chosen), **ranks, **rest))
    return tuple(found)


def _auc_change(labels: Truth, before: Array, after: Array, weights: Array) -> dict[str, Array]:
    auc = measures.ranking(labels, after, weights)["auc"]
    return {"auc": auc, "auc_change": auc - measures.ranking(labels, before, weights)["auc"]}
