"""The figures of an evaluation: the schema of `metrics.json`, and their tables for all presentations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pacs_node.errors import InputError

SMALLEST = 10
"""Of fewer positive (negative) images no sensitivity (specificity) is given, and of either no AUC."""
SPECIFICITY, SENSITIVITY = 0.80, 0.90
"""Where the other one is read off the ROC curve."""
BINS = 10
"""Of equal width, for the calibration."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Table):
    """A measured value with its 95 % interval; see `measures.bootstrap`."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"

    def __str__(self) -> str:
        return format(self)


class Operation(_Table):
    """Counts and rates at a threshold; a rate is None if it is not defined."""

    threshold: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    sensitivity: Estimate | None
    specificity: Estimate | None
    precision: Estimate | None
    accuracy: Estimate | None
    f1: Estimate | None


class Bin(_Table):
    """Images of about the same probability: its mean, and the share of positive images."""

    images: int
    probability: float
    positive: Estimate | None


class Subgroup(_Table):
    """Images that share a trait; figures on fewer than `SMALLEST` images are None."""

    trait: str
    value: str
    images: int
    positives: int
    auc: Estimate | None
    sensitivity: Estimate | None
    specificity: Estimate | None
    refused: Estimate | None = None
    """Share beyond the model's scope; the other figures are of all images. None: no guard."""


class Localization(_Table):
    """Agreement of heat map and marks in all positive images with marks."""

    images: int
    pointing: Estimate
    """The peak of the map lies in a marked box (Zhang et al. 2016, arXiv 1608.00507, section 4.2)."""
    pointing_near: Estimate
    """It lies in a box or within 10 % of the image's long side of one."""
    chance: Estimate
    """`pointing` of a random point of the image."""
    chance_near: Estimate
    region_iou: Estimate
    """Intersection over union of all regions with all marked polygons."""
    box_iou: Estimate
    """Intersection over union of a marked box with the box of the region that meets it best."""


class Disturbance(_Table):
    """The same images with a disturbance, and the changes."""

    name: str
    images: int
    auc: Estimate | None
    auc_change: Estimate | None
    positive_rate: Estimate
    positive_rate_change: Estimate
    probability_change: Estimate
    """Mean of its absolute value."""
    refused: Estimate | None = None
    """See `Subgroup.refused`."""


class ModelMetrics(_Table):
    """All figures of one set of images."""

    name: str
    """Name of the set, such as "test"."""
    model: str
    model_sha256: str
    images: int
    positives: int
    groups: int
    auc: Estimate
    average_precision: Estimate
    sensitivity_at_specificity: Estimate
    """The highest sensitivity with a specificity of at least `SPECIFICITY`."""
    specificity_at_sensitivity: Estimate
    """The highest specificity with a sensitivity of at least `SENSITIVITY`."""
    brier: Estimate
    ece: Estimate
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599, equation 3) over `BINS` bins."""
    operation: Operation
    """At the model's threshold."""
    thresholds: tuple[Operation, ...]
    bins: tuple[Bin, ...]
    subgroups: tuple[Subgroup, ...]
    localization: Localization | None
    """None without marks."""
    disturbances: tuple[Disturbance, ...] = ()
    refused: Estimate | None = None
    """See `Subgroup.refused`."""
    accepted_auc: Estimate | None = None
    """Of the images within the model's scope."""


_FILE = TypeAdapter(dict[str, ModelMetrics])


def to_json(measured: Mapping[str, ModelMetrics]) -> str:
    """The text of `metrics.json`: the sets by name."""
    return _FILE.dump_json(dict(measured), indent=2).decode() + "\n"


def read(path: Path) -> dict[str, ModelMetrics]:
    """Read `metrics.json`. Raises InputError if it is missing or has another schema."""
    try:
        return _FILE.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `pacs-node evaluate` measures a model") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}: {where}: {first['msg']}; `pacs-node evaluate` measures the model anew"
        ) from None


@dataclass(frozen=True, slots=True)
class FigureTable:
    """Figures as text, for the card, the page and the terminal."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def text(estimate: Estimate | None, otherwise: str = "not defined") -> str:
    """An estimate as text, or the reason why there is none."""
    return otherwise if estimate is None else str(estimate)


def summary(measured: Mapping[str, ModelMetrics]) -> FigureTable:
    """The most important figures: a row for each, a column for each set of images."""
    sets = measured.values()

    def located(name: str) -> list[str]:
        return [text(getattr(m.localization, name, None), "not marked") for m in sets]

    rows = {
        "images (positive), groups": [f"{m.images} ({m.positives}), {m.groups}" for m in sets],
        "AUC-ROC": [str(m.auc) for m in sets],
        "average precision": [str(m.average_precision) for m in sets],
        f"sensitivity at specificity {SPECIFICITY:.2f}": [str(m.sensitivity_at_specificity) for m in sets],
        f"specificity at sensitivity {SENSITIVITY:.2f}": [str(m.specificity_at_sensitivity) for m in sets],
        "threshold": [f"{m.operation.threshold:g}" for m in sets],
        "sensitivity (recall)": [text(m.operation.sensitivity) for m in sets],
        "specificity": [text(m.operation.specificity) for m in sets],
        "precision": [text(m.operation.precision) for m in sets],
        "F1": [text(m.operation.f1) for m in sets],
        "accuracy": [text(m.operation.accuracy) for m in sets],
        "Brier score": [str(m.brier) for m in sets],
        f"ECE ({BINS} bins)": [str(m.ece) for m in sets],
        "refused as out of scope": [text(m.refused, "no guard") for m in sets],
        "AUC-ROC of the others": [text(m.accepted_auc, "no guard") for m in sets],
        "pointing game": located("pointing"),
        "pointing game, by chance": located("chance"),
        "peak within 10 % of a mark": located("pointing_near"),
        "... by chance": located("chance_near"),
        "IoU of regions": located("region_iou"),
        "IoU of boxes": located("box_iou"),
    }
    return FigureTable(("", *measured), tuple((name, *cells) for name, cells in rows.items()))


def threshold_table(measured: ModelMetrics) -> FigureTable:
    """Rates and counts at each threshold, the model's own first."""
    return FigureTable(
        ("from", "sensitivity", "specificity", "precision", "F1", "accuracy", "TP", "FP", "FN", "TN"),
        tuple(
            (
                f"{at.threshold:g}{'' if number else ' (of the model)'}",
                *map(text, (at.sensitivity, at.specificity, at.precision, at.f1, at.accuracy)),
                *map(str, (at.true_positives, at.false_positives, at.false_negatives, at.true_negatives)),
            )
            for number, at in enumerate((measured.operation, *measured.thresholds))
        ),
    )


def subgroup_table(measured: ModelMetrics) -> FigureTable:
    """The figures of the subgroups."""
    return FigureTable(
        ("subgroup", "images (positive)", "AUC", "sensitivity", "specificity", "refused"),
        tuple(
            (
                f"{group.trait}: {group.value}",
                f"{group.images} ({group.positives})",
                *(text(e, "too few") for e in (group.auc, group.sensitivity, group.specificity)),
                text(group.refused, "no guard"),
            )
            for group in measured.subgroups
        ),
    )


def disturbance_table(measured: ModelMetrics) -> FigureTable:
    """The figures of the disturbed images."""

    def change(estimate: Estimate | None) -> str:
        return "not defined" if estimate is None else f"{estimate:+.3f}"

    return FigureTable(
        ("disturbance", "AUC", "change", "called positive", "change", "change of probability", "refused"),
        tuple(
            (
                row.name,
                text(row.auc),
                change(row.auc_change),
                str(row.positive_rate),
                change(row.positive_rate_change),
                str(row.probability_change),
                text(row.refused, "no guard"),
            )
            for row in measured.disturbances
        ),
    )
