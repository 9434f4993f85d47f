"""Fits a package's guard to the images that its networks were trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from pacs_node.analyze import pixels
from pacs_node.analyze.architectures import ARCHITECTURES
from pacs_node.analyze.networks import TorchNetwork
from pacs_node.analyze.package import MANIFEST, Manifest, as_toml, load
from pacs_node.analyze.scope import FILE, Scope, watched
from pacs_node.errors import InputError, ModelError
from pacs_node.training import dataset
from pacs_node.training.dataset import Sample

REFUSED = 0.005
"""Part of the validation images that lies beyond the limit."""
KEPT = 0.99
"""Part of the variance in the directions that count; the others tell of grain, not of the image's kind."""


def fit(folder: Path, samples: Sequence[Sample]) -> Manifest:
    """Give a package a guard, or another one: `scope.safetensors`, and `[scope]` in `model.toml`.

    The last network is watched. Where its training images lie comes from the training split, the limit from
    the validation split. Raises InputError for a bad image and for a split without images, ModelError for a
    network in ONNX.
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
    # What is looked for is rare, and looks a little different: plates, casts. It must not be what is refused.
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
    """Mean (channels,) of features (images, channels), and the map (channels, directions) of what is left to
    their principal directions, in each of which the variance becomes 1; `weights` (images,) are theirs."""
    mean = np.average(features, axis=0, weights=weights)
    deviation = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weights)) + 1e-3
    covariance = np.cov((features - mean) / deviation, rowvar=False, aweights=weights)
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = variances[::-1], directions[:, ::-1]
    count = 1 + int(np.searchsorted(np.cumsum(variances) / variances.sum(), KEPT))
    return mean, directions[:, :count] / np.sqrt(variances[:count]) / deviation[:, None]
