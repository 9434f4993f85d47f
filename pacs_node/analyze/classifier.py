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
from torch import Tensor, nn

from pacs_node.analyze import gradcam, pixels
from pacs_node.analyze.onnx import OnnxNetwork
from pacs_node.analyze.package import Member, Package
from pacs_node.errors import ModelError
from pacs_node.heatmap import HeatMap, bilinear
from pacs_node.records import ModelIdentity, Point, Prediction


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """What one network said of a batch: margins (N,), and maps (N, rows, columns) of 0..1.

    In the network's input, the centre of the first cell is `origin` (column, row), the next ones a `stride`
    further on.
    """

    margins: NDArray[np.float64]
    maps: NDArray[np.float32]
    origin: Point
    stride: float
    explains: bool


class Classifier:
    """A loaded model on its device. The number of threads is the caller's (`torch.set_num_threads`)."""

    def __init__(
        self,
        package: Package,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        threshold: float | None = None,
        batch: int = 256,
        scope_limit: float = 1.0,
    ) -> None:
        """Move the networks to their device. Raises ModelError where CUDA is asked for and there is none.

        `threshold` replaces the package's own; `batch` is the largest number of images in a forward pass;
        `scope_limit` is what `identity` says of it.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ModelError(
                'model.device is "cuda", but torch finds no CUDA device; "auto" falls back to the CPU'
            )
        self.device = torch.device("cpu" if device == "cpu" or not torch.cuda.is_available() else "cuda")
        # Pooling a large image is many times faster with the channels last.
        self._networks = [
            network if isinstance(network, OnnxNetwork) else network.to(memory_format=torch.channels_last)
            for network in (network.to(self.device) for network in package.networks)
        ]
        self._manifest = package.manifest
        self._guard = package.guard
        self._batch = batch
        self._images, self._seconds = 0, 0.0
        own = replace(package.identity, scope_limit=scope_limit)
        self.identity: ModelIdentity = own if threshold is None else replace(own, threshold=threshold)

    def predict(self, images: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """One prediction for each display image (rows, columns), 0..1 float32, bright is dense.

        An image gets the same answer in whatever batch it comes. Where CUDA runs out of memory, the batch is
        halved, down to one image. Raises ModelError where the networks give no numbers.
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
        """Images and seconds so far; on CUDA, bytes of memory held, held at most, and there."""
        told = {"inference_images": float(self._images), "inference_seconds": round(self._seconds, 6)}
        if self.device.type == "cuda":
            told["gpu_used_bytes"] = float(torch.cuda.memory_reserved(self.device))
            told["gpu_peak_bytes"] = float(torch.cuda.max_memory_reserved(self.device))
            told["gpu_total_bytes"] = float(torch.cuda.get_device_properties(self.device).total_memory)
        return told

    def _forward(self, images: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        members = self._manifest.networks
        inputs = {size: self._inputs(images, size) for size in {member.size for member in members}}
        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
            self._guard.watch() if self._guard else nullcontext[list[Tensor]]([]) as features,
        ):
            answers = [
                answer
                for network, member in zip(self._networks, members, strict=True)
                for answer in self._answers(network, member, inputs[member.size][0])
            ]
        answer = _mean(answers)
        if not (np.isfinite(answer.margins).all() and np.isfinite(answer.maps).all()):
            raise ModelError(
                f"{self.identity.id}: the networks answer an image with values that are no numbers"
            )
        placements = inputs[None][1]
        # The first pass is that of the images as they are; a second one is mirrored.
        scores = self._guard.scores(features[0]) if self._guard else [None] * len(images)
        return [
            self._prediction(float(margin), values, answer, placement, score)
            for margin, values, placement, score in zip(
                answer.margins, answer.maps, placements, scores, strict=True
            )
        ]

    def _inputs(
        self, images: Sequence[NDArray[np.float32]], size: int | None
    ) -> tuple[Tensor, list[pixels.Placement]]:
        """The images as a network takes them, (N, channels, size, size), and where they lie in it.

        `size` None is the package's.
        """
        shown = self._manifest.input
        squares = [pixels.letterbox(image, size or shown.size, shown.stretch) for image in images]
        inputs = torch.from_numpy(np.stack([square for square, _ in squares])[:, None]).to(self.device)
        if shown.mean:
            mean, std = (
                torch.tensor(values, device=self.device)[:, None, None] for values in (shown.mean, shown.std)
            )
            inputs = (inputs - mean) / std
        return inputs, [placement for _, placement in squares]

    def _answers(self, network: nn.Module | OnnxNetwork, member: Member, inputs: Tensor) -> Iterator[_Answer]:
        """A network's answer, and with `mirror` that to the mirrored images too, its maps mirrored back."""
        origin, stride = member.heat_map.origin, member.heat_map.stride
        for mirrored in (False, True) if self._manifest.input.mirror else (False,):
            shown = inputs.flip(3) if mirrored else inputs
            if isinstance(network, OnnxNetwork):
                logits, maps = network.explain(shown)
            else:
                logits, maps = gradcam.explain(network, member.heat_map.layer, shown)
            left = origin
            if mirrored:
                # The grid need not lie symmetrically: mirrored, its last column is the first.
                left = inputs.shape[3] - (origin + (maps.shape[2] - 1) * stride)
                maps = maps.flip(2)
            margins = logits[:, 1].double() - logits[:, 0].double()
            explains = member.size is None
            yield _Answer(margins.cpu().numpy(), maps.cpu().numpy(), (left, origin), stride, explains)

    def _prediction(
        self,
        margin: float,
        values: NDArray[np.float32],
        grid: _Answer,
        placement: pixels.Placement,
        score: float | None,
    ) -> Prediction:
        calibration = self._manifest.calibration
        logit = calibration.slope * margin + calibration.intercept
        heat_map = HeatMap(
            values=values,
            origin=placement.to_source(grid.origin),
            step=(grid.stride / placement.scale[0], grid.stride / placement.scale[1]),
        )
        probability = round(1 / (1 + math.exp(-max(-700.0, min(700.0, logit)))), 4)
        return Prediction(probability=probability, heat_map=heat_map, margin=margin, scope=score)


def _mean(answers: Sequence[_Answer]) -> _Answer:
    """The mean of the margins, and of the maps on the finest grid; the mean map's peak is 1 again."""
    explaining = [answer for answer in answers if answer.explains]
    finest = min(explaining, key=lambda answer: answer.stride)
    total = np.zeros_like(finest.maps)
    for answer in explaining:
        columns, rows = (
            bilinear(
                finest.origin[axis] + finest.stride * np.arange(finest.maps.shape[2 - axis]),
                answer.origin[axis],
                answer.stride,
                answer.maps.shape[2 - axis],
            )
            for axis in (0, 1)
        )
        total += rows @ answer.maps @ columns.T
    maps = gradcam.normalized(torch.from_numpy(total)).numpy()
    return replace(finest, margins=np.mean([answer.margins for answer in answers], axis=0), maps=maps)
