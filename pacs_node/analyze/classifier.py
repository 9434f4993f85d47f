"""Images to probabilities and heat maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pacs_node.analyze import gradcam, pixels
from pacs_node.analyze.package import Package
from pacs_node.errors import ModelError
from pacs_node.records import HeatMap, ModelIdentity, Prediction


class Classifier:
    """A loaded model on its device. The number of threads is the caller's (`torch.set_num_threads`)."""

    def __init__(
        self,
        package: Package,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        threshold: float | None = None,
        batch: int = 256,
    ) -> None:
        """Move the network to its device. Raises ModelError where CUDA is asked for and there is none.

        `threshold` replaces the package's own; `batch` is the largest number of images in a forward pass.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ModelError(
                'model.device is "cuda", but torch finds no CUDA device; "auto" falls back to the CPU'
            )
        self._device = torch.device("cpu" if device == "cpu" or not torch.cuda.is_available() else "cuda")
        self._network = package.network.to(self._device)
        self._manifest = package.manifest
        self._batch = batch
        own = package.identity
        self.identity: ModelIdentity = own if threshold is None else replace(own, threshold=threshold)

    def predict(self, images: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """One prediction for each display image (rows, columns), 0..1 float32, bright is dense.

        An image gets the same answer in whatever batch it comes. Where CUDA runs out of memory, the batch is
        halved, down to one image.
        """
        predictions: list[Prediction] = []
        while len(predictions) < len(images):
            start = len(predictions)
            try:
                predictions += self._forward(images[start : start + self._batch])
            except torch.cuda.OutOfMemoryError:
                if self._batch == 1:
                    raise ModelError(
                        "CUDA has not enough memory for one image; free some or use the CPU"
                    ) from None
                self._batch //= 2
                torch.cuda.empty_cache()
        return predictions

    def _forward(self, images: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        size, stretch = self._manifest.input.size, self._manifest.input.stretch
        letterboxed = [pixels.letterbox(image, size, stretch) for image in images]
        inputs = torch.from_numpy(np.stack([square for square, _ in letterboxed])[:, None]).to(self._device)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            logits, maps = gradcam.explain(self._network, self._manifest.heat_map.layer, inputs)
        margins = (logits[:, 1].double() - logits[:, 0].double()).tolist()
        return [
            self._prediction(margin, values, placement)
            for margin, values, (_, placement) in zip(margins, maps.cpu().numpy(), letterboxed, strict=True)
        ]

    def _prediction(
        self, margin: float, values: NDArray[np.float32], placement: pixels.Placement
    ) -> Prediction:
        calibration, grid = self._manifest.calibration, self._manifest.heat_map
        logit = calibration.slope * margin + calibration.intercept
        probability = round(1 / (1 + math.exp(-max(-700.0, min(700.0, logit)))), 4)
        heat_map = HeatMap(
            values=values,
            origin=placement.to_source((grid.origin, grid.origin)),
            step=(grid.stride / placement.scale[0], grid.stride / placement.scale[1]),
        )
        return Prediction(probability=probability, heat_map=heat_map)
