"""Model packages from the best weights of training runs: calibration, threshold, scope guard."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

from pacs_node.analyze import pixels
from pacs_node.analyze.architectures import ARCHITECTURES
from pacs_node.analyze.classifier import Classifier
from pacs_node.analyze.networks import TorchNetwork
from pacs_node.analyze.package import (
    MANIFEST,
    WEIGHTS,
    Calibration,
    Input,
    Manifest,
    Member,
    as_toml,
    load,
)
from pacs_node.analyze.scope import FILE, Scope, watched
from pacs_node.errors import InputError, ModelError
from pacs_node.training import dataset
from pacs_node.training import recipe as recipes
from pacs_node.training.dataset import Sample
from pacs_node.training.recipe import BEST, Recipe

REFUSED = 0.005
"""Share of the validation images beyond the limit of the scope."""
KEPT = 0.99
"""Share of the variance in the directions that are kept; the others show noise, not the kind of image."""


def publish(samples: Sequence[Sample], runs: Sequence[Path], out: Path, recipe: Recipe) -> Manifest:
    """Write the package `out`, whose folder name becomes its id, from the best weights of the runs.

    Calibration, threshold and the limit of the scope come from the validation split, the first two through
    the serving classifier; the test split is not used. Raises InputError for a bad image or a run without
    weights.
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
        labels=recipe.labels,
        threshold=0.5,
        input=recipe.input,
        calibration=Calibration(slope=1, intercept=0),
        finding=recipe.finding,
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
    return fit_guard(out, samples)


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
    """Platt scaling (Platt 1999) of margins (n,) to the frequency of positive images."""
    fit = LogisticRegression(C=np.inf).fit(margin[:, None], labels)  # type: ignore[no-untyped-call]
    return Calibration(slope=round(float(fit.coef_[0, 0]), 6), intercept=round(float(fit.intercept_[0]), 6))


def operating_point(probabilities: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """The threshold of the largest Youden index (sensitivity + specificity - 1), to four decimals."""
    false_positive_rate, true_positive_rate, thresholds = roc_curve(labels, probabilities)
    # The first threshold of a ROC curve is infinite.
    best = 1 + int(np.argmax((true_positive_rate - false_positive_rate)[1:]))
    return float(np.floor(thresholds[best] * 1e4) / 1e4)


def fit_guard(folder: Path, samples: Sequence[Sample]) -> Manifest:
    """Give a package a scope guard: write `scope.safetensors`, and `[scope]` in `model.toml`.

    The last network is watched; the training split gives the statistics, the validation split the limit.
    Raises InputError for a bad image or too few images in a split, ModelError for a network in ONNX.
    """
    package = load(folder)
    manifest, place = package.manifest, len(package.networks) - 1
    network, member = package.networks[place], manifest.networks[place]
    if not isinstance(network, TorchNetwork):
        raise ModelError(f"{folder}: a network in ONNX cannot be watched")
    layer, size = ARCHITECTURES[member.architecture].middle, member.size or manifest.input.size

    def features(split: str) -> NDArray[np.float64]:
        chosen = [sample for sample in samples if sample.split == split]
        if len(chosen) < 2:
            raise InputError(f"{folder}: a guard needs images of the split {split}, not {len(chosen)}")
        with torch.inference_mode(), watched(network.module, layer) as found:
            for sample in chosen:
                image, _ = pixels.letterbox(dataset.display(sample.path), size, manifest.input.stretch)
                network.module(torch.from_numpy(image)[None, None])
        return torch.cat(found).double().numpy()

    known, held_out = features("train"), features("val")
    labels = np.array([sample.positive for sample in samples if sample.split == "train"], np.int64)
    # Positive images are rare and a little different (plates, casts); weighted, they are not refused.
    mean, whitening = whitened(known, 1 / np.bincount(labels)[labels])
    distances = np.linalg.norm((held_out - mean) @ whitening, axis=1)
    tensors = {"mean": torch.tensor(mean).float(), "whitening": torch.tensor(whitening).half()}
    data = save(tensors)
    (folder / FILE).write_bytes(data)
    scope = Scope(
        network=place,
        layer=layer,
        file_sha256=hashlib.sha256(data).hexdigest(),
        limit=round(float(np.quantile(distances, 1 - REFUSED)), 4),
    )
    manifest = manifest.model_copy(update={"scope": scope})
    (folder / MANIFEST).write_text(as_toml(manifest), encoding="utf-8")
    return manifest


def whitened(
    features: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (channels,) of weighted features (images, channels), and whitening (channels, directions)."""
    mean = np.average(features, axis=0, weights=weights)
    deviation = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weights)) + 1e-3
    covariance = np.cov((features - mean) / deviation, rowvar=False, aweights=weights)
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = variances[::-1], directions[:, ::-1]
    count = 1 + int(np.searchsorted(np.cumsum(variances) / variances.sum(), KEPT))
    return mean, directions[:, :count] / np.sqrt(variances[:count]) / deviation[:, None]
