"""The figures of an evaluation: the schema of `metrics.json`, and what people read of it first."""

from __future__ import annotations

from collections.abc import Mapping
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

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class Operation(_Table):
    """What comes of calling an image positive from one threshold on; None where nothing defines it."""

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
    """Images of about the same probability: its mean, and how many of them are positive."""

    images: int
    probability: float
    positive: Estimate | None


class Subgroup(_Table):
    """The images that share a trait; None where there are fewer than `SMALLEST` to measure on."""

    trait: str
    value: str
    images: int
    positives: int
    auc: Estimate | None
    sensitivity: Estimate | None
    specificity: Estimate | None
    refused: Estimate | None = None
    """Part beyond the model's scope; the other figures are of all images, these too. None: no guard."""


class Localization(_Table):
    """How the heat map meets what was marked, in all positive images with marks, found or missed."""

    images: int
    pointing: Estimate
    """The map's peak lies in a marked box (Zhang et al. 2016, arXiv 1608.00507, section 4.2)."""
    pointing_near: Estimate
    """It lies in one, or within 10 % of the image's long side of one."""
    chance: Estimate
    """The same as `pointing` for a point anywhere in the image."""
    chance_near: Estimate
    region_iou: Estimate
    """Intersection over union of all regions with all marked polygons."""
    box_iou: Estimate
    """Intersection over union of a marked box with the box of the region that meets it best."""


class Disturbance(_Table):
    """The same images disturbed in one way, and what changes."""

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
    """Of the set, such as "test"."""
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
    """None where nothing is marked."""
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
    """What `metrics.json` holds. Raises InputError where it is missing or of another schema."""
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


def summary(measured: Mapping[str, ModelMetrics]) -> dict[str, list[str]]:
    """The figures that say most, in words: a row for each, a cell for each set."""
    sets = measured.values()

    def located(name: str) -> list[str]:
        return [told(getattr(m.localization, name, None), "not marked") for m in sets]

    return {
        "images (positive), groups": [f"{m.images} ({m.positives}), {m.groups}" for m in sets],
        "AUC-ROC": [str(m.auc) for m in sets],
        "average precision": [str(m.average_precision) for m in sets],
        f"sensitivity at specificity {SPECIFICITY:.2f}": [str(m.sensitivity_at_specificity) for m in sets],
        f"specificity at sensitivity {SENSITIVITY:.2f}": [str(m.specificity_at_sensitivity) for m in sets],
        "threshold": [f"{m.operation.threshold:g}" for m in sets],
        "sensitivity (recall)": [told(m.operation.sensitivity) for m in sets],
        "specificity": [told(m.operation.specificity) for m in sets],
        "precision": [told(m.operation.precision) for m in sets],
        "F1": [told(m.operation.f1) for m in sets],
        "accuracy": [told(m.operation.accuracy) for m in sets],
        "Brier score": [str(m.brier) for m in sets],
        f"ECE ({BINS} bins)": [str(m.ece) for m in sets],
        "refused as out of scope": [told(m.refused, "no guard") for m in sets],
        "AUC-ROC of the others": [told(m.accepted_auc, "no guard") for m in sets],
        "pointing game": located("pointing"),
        "pointing game, by chance": located("chance"),
        "peak within 10 % of a mark": located("pointing_near"),
        "... by chance": located("chance_near"),
        "IoU of regions": located("region_iou"),
        "IoU of boxes": located("box_iou"),
    }


def told(estimate: Estimate | None, otherwise: str = "not defined") -> str:
    """An estimate in words, or why there is none."""
    return otherwise if estimate is None else str(estimate)
