"""From a run's weights to a model package: calibration, threshold, `model.toml`."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

from pacs_node.analyze.architectures import ARCHITECTURES
from pacs_node.analyze.package import (
    MANIFEST,
    WEIGHTS,
    Calibration,
    Concept,
    HeatMapGrid,
    Input,
    Manifest,
    Provenance,
)
from pacs_node.training import dataset
from pacs_node.training.train import Options, margins

FRACTURE = Concept(
    value="125605004",
    scheme="SCT",
    meaning="Fracture of bone",
    positive="Fracture suspected",
    negative="no fracture suspected",
    caveat="This does not exclude a fracture.",
)


def publish(
    data: Path, weights: Path, out: Path, name: str, version: str, options: Options, provenance: Provenance
) -> Manifest:
    """Write the package `out`, whose folder name becomes its id. Raises InputError for a bad data set.

    Nothing here sees the test split: calibration and threshold come from the validation split.
    """
    architecture = ARCHITECTURES[options.architecture]
    network = architecture.build()
    network.load_state_dict(load_file(weights))
    samples = dataset.load(data, "val")
    inputs = dataset.network_inputs(samples, options.input_size, options.stretch)
    labels = np.array([sample.fractured for sample in samples])
    margin = margins(network, inputs, torch.device("cpu"))
    calibration = calibrate(margin, labels)
    probabilities = 1 / (1 + np.exp(-(calibration.slope * margin + calibration.intercept)))
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, out / WEIGHTS)
    manifest = Manifest(
        id=out.name,
        name=name,
        version=version,
        architecture=options.architecture,
        labels=("not fractured", "fractured"),
        threshold=operating_point(probabilities, labels),
        weights_sha256=hashlib.sha256((out / WEIGHTS).read_bytes()).hexdigest(),
        input=Input(size=options.input_size, stretch=options.stretch),
        calibration=calibration,
        heat_map=HeatMapGrid(
            layer=architecture.layer, stride=architecture.stride, origin=architecture.origin
        ),
        finding=FRACTURE,
        provenance=provenance,
    )
    (out / MANIFEST).write_text(as_toml(manifest), encoding="utf-8")
    return manifest


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


def as_toml(manifest: Manifest) -> str:
    """`model.toml` of a manifest: plain keys first, then one table for each group."""
    lines, tables = [], []
    for key, value in manifest.model_dump(mode="json").items():
        if isinstance(value, dict):
            # The strings, numbers and lists of JSON are TOML's.
            entries = [f"{name} = {json.dumps(entry, ensure_ascii=False)}" for name, entry in value.items()]
            tables.append("\n".join(["", f"[{key}]", *entries]))
        else:
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join([*lines, *tables]) + "\n"
