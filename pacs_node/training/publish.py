"""From the best weights of a run, or of several, to a model package: calibration, threshold, guard."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

from pacs_node.analyze.architectures import ARCHITECTURES
from pacs_node.analyze.classifier import Classifier
from pacs_node.analyze.package import (
    MANIFEST,
    WEIGHTS,
    Calibration,
    Concept,
    Input,
    Manifest,
    Member,
    as_toml,
    load,
)
from pacs_node.errors import InputError
from pacs_node.training import dataset, scope
from pacs_node.training import recipe as recipes
from pacs_node.training.dataset import Sample
from pacs_node.training.recipe import BEST, Recipe

FRACTURE = Concept(
    value="125605004",
    scheme="SCT",
    meaning="Fracture of bone",
    positive="Fracture suspected",
    negative="no fracture suspected",
    caveat="This does not exclude a fracture.",
)


def publish(samples: Sequence[Sample], runs: Sequence[Path], out: Path, recipe: Recipe) -> Manifest:
    """Write the package `out`, whose folder name becomes its id, of the best weights of one run or several.

    Nothing here sees the test split: calibration, threshold and the limit of the scope come from the
    validation split, the first two by the classifier that serves. Raises InputError for a bad image or a run
    without weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    members = [
        _member(run, out / (f"{run.name}.safetensors" if place else WEIGHTS), recipe.input)
        for place, run in enumerate(runs)
    ]
    uncalibrated = Manifest(
        **members[0].model_dump(),
        id=out.name,
        name=recipe.name,
        version=recipe.version,
        labels=("not fractured", "fractured"),
        threshold=0.5,
        input=recipe.input,
        calibration=Calibration(slope=1, intercept=0),
        finding=FRACTURE,
        provenance=recipe.provenance,
        members=tuple(members[1:]),
    )
    (out / MANIFEST).write_text(as_toml(uncalibrated), encoding="utf-8")
    classifier = Classifier(load(out))
    validation = [sample for sample in samples if sample.split == "val"]
    predictions = (classifier.predict([dataset.display(sample.path)])[0] for sample in validation)
    margin = np.array([prediction.margin for prediction in predictions])
    labels = np.array([sample.positive for sample in validation])
    calibration = calibrate(margin, labels)
    probabilities = 1 / (1 + np.exp(-(calibration.slope * margin + calibration.intercept)))
    manifest = uncalibrated.model_copy(
        update={"calibration": calibration, "threshold": operating_point(probabilities, labels)}
    )
    (out / MANIFEST).write_text(as_toml(manifest), encoding="utf-8")
    return scope.fit(out, samples)


def _member(run: Path, weights: Path, shown: Input) -> Member:
    """Copy a run's best weights into the package, as `weights`."""
    best = run / BEST
    if not best.is_file():
        raise InputError(f"{best}: no such file; this run has no weights yet")
    trained = recipes.recorded(run)
    if trained.input.stretch != shown.stretch:
        raise InputError(f"{run}: trained with the stretch {trained.input.stretch}, not {shown.stretch}")
    shutil.copyfile(best, weights)
    architecture = ARCHITECTURES[trained.network.architecture]
    return Member(
        architecture=trained.network.architecture,
        weights=weights.name,
        weights_sha256=hashlib.sha256(best.read_bytes()).hexdigest(),
        heat_map=architecture.grid,
        size=None if trained.input.size == shown.size else trained.input.size,
    )


def calibrate(margin: NDArray[np.float64], labels: NDArray[np.bool_]) -> Calibration:
    """Platt scaling (Platt 1999) of margins (n,) to the frequency of fractures among them."""
    fit = LogisticRegression(C=np.inf).fit(margin[:, None], labels)  # type: ignore[no-untyped-call]
    return Calibration(slope=round(float(fit.coef_[0, 0]), 6), intercept=round(float(fit.intercept_[0]), 6))


def operating_point(probabilities: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """The threshold of the largest Youden index (sensitivity + specificity - 1), to four decimals."""
    false_positive_rate, true_positive_rate, thresholds = roc_curve(labels, probabilities)
    # The first threshold of a ROC curve is infinite.
    best = 1 + int(np.argmax((true_positive_rate - false_positive_rate)[1:]))
    return float(np.floor(thresholds[best] * 1e4) / 1e4)
