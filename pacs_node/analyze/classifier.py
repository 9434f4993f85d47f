"""Images to probabilities and heat maps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pacs_node.analyze import pixels
from pacs_node.analyze.networks import ExplainedNetwork, normalized
from pacs_node.analyze.package import Member, Package
from pacs_node.errors import ModelError
from pacs_node.heatmap import HeatMap, bilinear
from pacs_node.records import ModelIdentity, Point, Prediction


@dataclass(frozen=True, slots=True, eq=False)
class _Explained:
    """One network's margins (N,) and maps (N, rows, columns), of 0..1, for a batch."""

    margins: NDArray[np.float64]
    maps: NDArray[np.float32]
    origin: Point
    """Center (column, row) of the first cell in the network's input; the others are a `stride` apart."""
    stride: float
    in_heat_map: bool


class Classifier:
    """A loaded model on its device; the caller sets the number of threads (`torch.set_num_threads`)."""

    def __init__(
        self,
        package: Package,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        threshold: float | None = None,
        batch: int = 256,
        scope_limit: float = 1.0,
    ) -> None:
        """Move the networks to their device. Raises ModelError if CUDA is requested and there is none.

        `threshold` replaces the package's own; `batch` is the largest number of images in a forward pass;
        `scope_limit` becomes a part of `identity`.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ModelError(
                'model.device is "cuda", but torch finds no CUDA device; "auto" falls back to the CPU'
            )
        self.device = torch.device("cpu" if device == "cpu" or not torch.cuda.is_available() else "cuda")
        self._networks = [network.to(self.device) for network in package.networks]
        self._manifest = package.manifest
        self._guard = package.guard
        self._batch = batch
        self._images, self._seconds = 0, 0.0
        own = replace(package.identity, scope_limit=scope_limit)
        self.identity: ModelIdentity = own if threshold is None else replace(own, threshold=threshold)

    def predict(self, images: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """One prediction for each display image (rows, columns), 0..1 float32, bright is dense.

        The answer does not depend on the batch, which is halved when CUDA runs out of memory. Raises
        ModelError if the networks produce NaN or Inf.
        """
        predictions: list[Prediction] = []
        began = time.monotonic()
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
        self._images += len(images)
        self._seconds += time.monotonic() - began
        return predictions

    def stats(self) -> dict[str, float]:
        """Images and seconds so far; on CUDA, bytes of memory: reserved, the peak of that, in total."""
        stats = {"inference_images": float(self._images), "inference_seconds": round(self._seconds, 6)}
        if self.device.type == "cuda":
            stats["gpu_used_bytes"] = float(torch.cuda.memory_reserved(self.device))
            stats["gpu_peak_bytes"] = float(torch.cuda.max_memory_reserved(self.device))
            stats["gpu_total_bytes"] = float(torch.cuda.get_device_properties(self.device).total_memory)
        return stats

    def _forward(self, images: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        members = self._manifest.networks
        inputs = {size: self._inputs(images, size) for size in {member.size for member in members}}
        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
            self._guard.watch() if self._guard else nullcontext[list[Tensor]]([]) as features,
        ):
            explained = _mean(
                [
                    output
                    for network, member in zip(self._networks, members, strict=True)
                    for output in self._explain(network, member, inputs[member.size][0])
                ]
            )
        if not (np.isfinite(explained.margins).all() and np.isfinite(explained.maps).all()):
            raise ModelError(f"{self.identity.id}: the model produced NaN or Inf")
        # The first pass is of the images as they are; a second one is mirrored.
        scores = self._guard.scores(features[0]) if self._guard else [None] * len(images)
        calibration, predictions = self._manifest.calibration, []
        for margin, values, placement, score in zip(
            explained.margins.tolist(), explained.maps, inputs[None][1], scores, strict=True
        ):
            logit = calibration.slope * margin + calibration.intercept
            heat_map = HeatMap(
                values=values,
                origin=placement.to_source(explained.origin),
                step=(explained.stride / placement.scale[0], explained.stride / placement.scale[1]),
            )
            probability = round(1 / (1 + math.exp(-max(-700.0, min(700.0, logit)))), 4)
            predictions.append(Prediction(probability, heat_map, margin=margin, scope=score))
        return predictions

    def _inputs(
        self, images: Sequence[NDArray[np.float32]], size: int | None
    ) -> tuple[Tensor, list[pixels.Placement]]:
        """A network's input (N, channels, size, size), and the images' places in it; None: the usual size."""
        shown = self._manifest.input
        squares = [pixels.letterbox(image, size or shown.size, shown.stretch) for image in images]
        inputs = torch.from_numpy(np.stack([square for square, _ in squares])[:, None]).to(self.device)
        if shown.mean:
            mean, std = (
                torch.tensor(values, device=self.device)[:, None, None] for values in (shown.mean, shown.std)
            )
            inputs = (inputs - mean) / std
        return inputs, [placement for _, placement in squares]

    def _explain(self, network: ExplainedNetwork, member: Member, inputs: Tensor) -> Iterator[_Explained]:
        """A network's output, with `mirror` also for the mirrored images, whose maps are mirrored back."""
        origin, stride = member.heat_map.origin, member.heat_map.stride
        for mirrored in (False, True) if self._manifest.input.mirror else (False,):
            logits, maps = network.explain(inputs.flip(3) if mirrored else inputs)
            left = origin
            if mirrored:
                # The grid need not be symmetric: mirrored, its last column becomes the first.
                left = inputs.shape[3] - (origin + (maps.shape[2] - 1) * stride)
                maps = maps.flip(2)
            margins = logits[:, 1].double() - logits[:, 0].double()
            yield _Explained(
                margins.cpu().numpy(), maps.cpu().numpy(), (left, origin), stride, member.size is None
            )


def _mean(outputs: Sequence[_Explained]) -> _Explained:
    """The mean of the margins, and of the maps on the finest grid, with a peak of 1 again."""
    mapped = [output for output in outputs if output.in_heat_map]
    finest = min(mapped, key=lambda output: output.stride)
    total = np.zeros_like(finest.maps)
    for output in mapped:
        columns, rows = (
            bilinear(
                finest.origin[axis] + finest.stride * np.arange(finest.maps.shape[2 - axis]),
                output.origin[axis],
                output.stride,
                output.maps.shape[2 - axis],
            )
            for axis in (0, 1)
        )
        total += rows @ output.maps @ columns.T
    maps = normalized(torch.from_numpy(total)).numpy()
    return replace(finest, margins=np.mean([output.margins for output in outputs], axis=0), maps=maps)
