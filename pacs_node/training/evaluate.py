"""Evaluation of a model package on a set of images, through the classifier that serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torchvision.ops import box_iou

from pacs_node.analyze import regions
from pacs_node.analyze.classifier import Classifier
from pacs_node.errors import InputError
from pacs_node.heatmap import HeatMap
from pacs_node.records import Point, Prediction
from pacs_node.report import sc
from pacs_node.training import dataset, measures, randomize
from pacs_node.training.dataset import Mark, Sample
from pacs_node.training.measures import Array, Truth
from pacs_node.training.model_metrics import Disturbance, Localization, ModelMetrics

Image = NDArray[np.float32]
"""A display image: (rows, columns), 0..1."""

BATCH = 8
MOST_VALUES = 12
"""A trait with more values is an identifier, or numbers, of which two halves are compared."""
NEAR = 0.1
"""Part of the image's long side: about the width of a finger's joint in a picture of a hand."""
GRID_SIDE = 512
"""Long side of the grid on which areas are counted."""


@dataclass(frozen=True, slots=True)
class Look:
    """A randomised look of all images of a set."""

    name: str
    """One of `randomize.LOOKS`."""
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The figures of a set of images, and the answers behind them, in the order of the samples."""

    metrics: ModelMetrics
    samples: Sequence[Sample]
    labels: Truth
    probabilities: Array
    look: Look | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """An image that the model classified with high certainty, rightly or wrongly."""

    kind: str
    """A cell of the confusion matrix, such as "false negative"."""
    sample: Sample
    probability: float
    picture: NDArray[np.uint8]
    """RGB (rows, columns, 3): the heat map as in the Secondary Capture, and the marks outlined in white."""


def evaluate(
    classifier: Classifier,
    samples: Sequence[Sample],
    name: str,
    console: Console,
    robustness: int = 0,
    look: Look | None = None,
) -> Evaluation:
    """Measure on the set of images `name`; a random `robustness` of them are also disturbed.

    With `look`, the images are measured under it, and none is disturbed.

    Raises InputError if all images have one label, or an image cannot be read.
    """
    labels = np.array([sample.positive for sample in samples], bool)
    if not labels.any() or labels.all():
        raise InputError(
            f"{name}: {len(samples)} images, {labels.sum()} of them positive; both labels are needed"
        )
    groups = np.array([sample.group for sample in samples])
    probabilities, refused = np.empty(len(samples)), np.empty(len(samples))
    overlaps: dict[int, dict[str, float]] = {}
    for start in track(range(0, len(samples), BATCH), f"evaluate {name}", console=console, transient=True):
        pictures = [seen(sample, look) for sample in samples[start : start + BATCH]]
        predictions = classifier.predict([image for image, _ in pictures])
        for index, ((image, marks), prediction) in enumerate(zip(pictures, predictions, strict=True), start):
            probabilities[index] = prediction.probability
            refused[index] = refusal(prediction)
            if labels[index] and marks:
                overlaps[index] = overlap(prediction.heat_map, image.shape, marks)
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
                for trait in subgroups(samples, labels, overlaps)
            ),
            localization=Localization(
                images=len(overlaps),
                **measures.means(
                    {key: np.array([each[key] for each in overlaps.values()]) for key in OVERLAP},
                    groups[list(overlaps)],
                ),
            )
            if overlaps
            else None,
            disturbances=disturbances(
                classifier, samples, probabilities, refused, 0 if look else robustness, console
            ),
        ),
        samples=samples,
        labels=labels,
        probabilities=probabilities,
        look=look,
    )


def examples(classifier: Classifier, evaluation: Evaluation, each: int = 4) -> list[Example]:
    """The most certain right and wrong answers, `each` per cell of the confusion matrix."""
    labels, probabilities = evaluation.labels, evaluation.probabilities
    called = probabilities >= classifier.identity.threshold
    order = np.argsort(-probabilities, kind="stable")
    chosen = []
    for kind, cell, by_certainty in (
        ("false negative", labels & ~called, order[::-1]),
        ("false positive", ~labels & called, order),
        ("true positive", labels & called, order),
        ("true negative", ~labels & ~called, order[::-1]),
    ):
        for index in [number for number in by_certainty if cell[number]][:each]:
            sample = evaluation.samples[index]
            shown = picture(classifier, sample, evaluation.look)
            chosen.append(Example(kind, sample, float(probabilities[index]), shown))
    return chosen


def seen(sample: Sample, look: Look | None = None) -> tuple[Image, Sequence[Mark]]:
    """A sample's display image and its marks, under a look if one is given."""
    if look is None:
        return dataset.display(sample.path), sample.marks
    scene, marks = randomize.look(sample, look.name, look.seed)
    return scene.image, marks


def picture(
    classifier: Classifier, sample: Sample, look: Look | None = None, long_side: int = 360
) -> NDArray[np.uint8]:
    """A sample with its heat map and its marks; see `Example.picture`."""
    display, marks = seen(sample, look)
    (prediction,) = classifier.predict([display])
    rows, columns = display.shape
    scale = long_side / max(rows, columns)
    shape = max(1, round(rows * scale)), max(1, round(columns * scale))
    gray = cv2.resize(display, shape[::-1], interpolation=cv2.INTER_AREA)
    heat = prediction.heat_map.at_size(rows, columns, shape)
    heat = heat * min(1.0, prediction.probability / classifier.identity.threshold)
    blended = sc.blend(*((layer * 255).round().astype(np.uint8) for layer in (gray, heat)))
    for mark in marks:
        outline = np.round((np.asarray(mark.polygon) * scale - 0.5) * 16).astype(np.int32)
        cv2.polylines(blended, [outline], True, (255, 255, 255), 1, cv2.LINE_AA, shift=4)
    return blended


def batches(samples: Sequence[Sample], title: str, console: Console) -> Iterator[tuple[int, list[Image]]]:
    """Display images in batches, each with the index of its first image."""
    for start in track(range(0, len(samples), BATCH), title, console=console, transient=True):
        yield start, [dataset.display(sample.path) for sample in samples[start : start + BATCH]]


def refusal(prediction: Prediction) -> float:
    """1 if the image is beyond the model's scope, 0 if within, NaN without a guard."""
    return np.nan if prediction.scope is None else float(prediction.scope > 1)


def subgroups(
    samples: Sequence[Sample], labels: Truth, overlaps: Mapping[int, Mapping[str, float]]
) -> Iterator[tuple[str, str, Truth]]:
    """The subgroups: trait, value, members."""
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
    marked = np.array(sorted(overlaps))
    if len(marked):
        # Negative images have no marked area: each third is compared with all of them.
        order = np.argsort([overlaps[index]["chance"] for index in marked], kind="stable")
        for part, chosen in zip(("small", "medium", "large"), np.array_split(order, 3), strict=True):
            member = ~labels
            member[marked[chosen]] = True
            yield "marked area", f"{part}, and all negatives", member


OVERLAP = ("pointing", "pointing_near", "chance", "chance_near", "region_iou", "box_iou")


def overlap(heat_map: HeatMap, shape: tuple[int, ...], marks: Sequence[Mark]) -> dict[str, float]:
    """How well the heat map of an image of `shape` (rows, columns) matches its marks, each 0..1.

    The names, `OVERLAP`, are those of `Localization`. A heat map of zeros points nowhere.
    """
    rows, columns = shape
    long_side = max(rows, columns)
    boxes = np.array([mark.box for mark in marks], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    outlined = regions.find(heat_map, rows, columns)
    scale = min(1.0, GRID_SIDE / long_side)
    grid = max(1, round(rows * scale)), max(1, round(columns * scale))
    x, y = np.meshgrid(
        (np.arange(grid[1]) + 0.5) * columns / grid[1], (np.arange(grid[0]) + 0.5) * rows / grid[0]
    )
    distances = [
        np.hypot(
            np.maximum(0, np.maximum(left - x, x - right)), np.maximum(0, np.maximum(top - y, y - bottom))
        )
        for left, top, right, bottom in boxes
    ]
    distance = np.minimum.reduce(distances) / long_side
    heat = heat_map.at_size(rows, columns, grid)
    peak = np.unravel_index(int(heat.argmax()), grid)
    off = float(distance[peak]) if heat[peak] > 0 else np.inf
    marked = covered([mark.polygon for mark in marks], (rows, columns), grid)
    in_region = covered([region.polygon for region in outlined], (rows, columns), grid)
    union = int((marked | in_region).sum())
    best = np.zeros(len(boxes))
    if outlined:
        of_regions = torch.tensor([region.box for region in outlined], dtype=torch.float64)
        best = box_iou(torch.from_numpy(boxes), of_regions).amax(dim=1).numpy()
    return {
        "pointing": float(off == 0),
        "pointing_near": float(off <= NEAR),
        "chance": float((distance == 0).mean()),
        "chance_near": float((distance <= NEAR).mean()),
        "region_iou": int((marked & in_region).sum()) / union if union else 0.0,
        "box_iou": float(best.mean()),
    }


def covered(
    polygons: Sequence[Sequence[Point]], shape: tuple[int, int], grid: tuple[int, int]
) -> NDArray[np.bool_]:
    """The cells, inside of polygons, of a grid over an image of `shape` (rows, columns)."""
    filled = np.zeros(grid, np.uint8)
    scale = np.array([grid[1] / shape[1], grid[0] / shape[0]])
    for polygon in polygons:
        # OpenCV has pixel centres at whole numbers, and 4 bits for fractions.
        corners = np.round((np.asarray(polygon) * scale - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(filled, [corners], 1, shift=4)
    return filled > 0


def rotated(image: Image, degrees: float) -> Image:
    """The image rotated about its centre within the same frame, black outside of the image."""
    rows, columns = image.shape
    matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(image, matrix, (columns, rows), flags=cv2.INTER_LINEAR), np.float32)


def compressed(image: Image, quality: int) -> Image:
    """The image after JPEG compression."""
    stored = np.round(image * 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.float32) / np.float32(255)


def noisy(image: Image, deviation: float) -> Image:
    """The image with Gaussian noise, the same at each call."""
    noise = np.random.default_rng(0).standard_normal(image.shape, np.float32)
    return np.clip(image + np.float32(deviation) * noise, 0, 1)


DISTURBANCES: Mapping[str, Callable[[Image], Image]] = {
    "window 1.5 times as wide": lambda image: (image + 0.25) / np.float32(1.5),
    "window half as wide": lambda image: np.clip(2 * image - 0.5, 0, 1),
    "window center 15 % higher": lambda image: np.clip(image - np.float32(0.15), 0, 1),
    "noise, deviation 2 % of the range": lambda image: noisy(image, 0.02),
    "JPEG, quality 30": lambda image: compressed(image, 30),
    "rotated by 10 degrees": lambda image: rotated(image, 10),
    "rotated by 90 degrees": lambda image: np.ascontiguousarray(np.rot90(image)),
    "inverted (wrong photometric interpretation)": lambda image: 1 - image,
}
"""Changes of a display image, by name."""


def disturbances(
    classifier: Classifier,
    samples: Sequence[Sample],
    probabilities: Array,
    refused: Array,
    count: int,
    console: Console,
) -> tuple[Disturbance, ...]:
    """The answers to a random `count` of the images, disturbed in each way, against the original images'."""
    drawn = np.sort(np.random.default_rng(0).permutation(len(samples))[:count])
    chosen = [samples[index] for index in drawn]
    if not chosen:
        return ()
    usual = probabilities[drawn]
    answers = {"none": usual, **{name: np.empty(len(chosen)) for name in DISTURBANCES}}
    refusals = {name: np.empty(len(chosen)) for name in answers}
    refusals["none"] = refused[drawn]
    for start, images in batches(chosen, "disturb", console):
        for name, disturb in DISTURBANCES.items():
            predictions = classifier.predict([disturb(image) for image in images])
            answers[name][start : start + len(images)] = [p.probability for p in predictions]
            refusals[name][start : start + len(images)] = [refusal(p) for p in predictions]
    labels = np.array([sample.positive for sample in chosen])
    groups = np.array([sample.group for sample in chosen])
    threshold = classifier.identity.threshold

    def measured(name: str, disturbed: Array) -> Disturbance:
        def auc(weights: Array) -> dict[str, Array]:
            after, before = (measures.ranking(labels, p, weights)["auc"] for p in (disturbed, usual))
            return {"auc": after, "auc_change": after - before}

        rate, usual_rate = ((p >= threshold).astype(np.float64) for p in (disturbed, usual))
        values = {
            "positive_rate": rate,
            "positive_rate_change": rate - usual_rate,
            "probability_change": np.abs(disturbed - usual),
            "refused": refusals[name],
        }
        return Disturbance(
            name=name,
            images=len(chosen),
            **measures.bootstrap(auc, groups),
            **measures.means(values, groups),
        )

    return tuple(measured(name, disturbed) for name, disturbed in answers.items())
