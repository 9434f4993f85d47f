"""Networks that explain their answers: torch modules by Grad-CAM, ONNX files by a map or by occlusion."""

from __future__ import annotations

import os
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pacs_node.analyze.architectures import HeatMapGrid
from pacs_node.errors import ModelError

OCCLUSION = "occlusion"
"""`layer` of an ONNX network without a map of its own: parts of the image are hidden in turn."""


class ExplainedNetwork(Protocol):
    """A network that can be served."""

    def to(self, device: torch.device) -> Self:
        """Move the network to a device."""
        ...

    def explain(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, 2) of inputs (N, channels, size, size), and maps (N, rows, columns) of 0..1."""
        ...


class TorchNetwork:
    """A torch module, explained by Grad-CAM at one of its layers."""

    def __init__(self, module: nn.Module, layer: str) -> None:
        self.module = module.requires_grad_(False).eval()
        self._layer = layer

    def to(self, device: torch.device) -> Self:
        # Pooling a large image is many times faster in this memory format.
        self.module.to(device).to(memory_format=torch.channels_last)
        return self

    def explain(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return grad_cam(self.module, self._layer, inputs)


def grad_cam(network: nn.Module, layer: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, 2) and class activation maps of the positive logit on the layer's grid (N, rows, columns).

    Selvaraju et al. 2017 (arXiv 1610.02391, section 3). The backward pass ends at the layer.
    """
    features: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        features.append(output.detach().requires_grad_())
        # The next layer may work in place.
        return features[0].clone()

    handle = network.get_submodule(layer).register_forward_hook(cut)
    try:
        with torch.enable_grad():
            logits = network(inputs)
            (gradient,) = torch.autograd.grad(logits[:, 1].sum(), features)
    finally:
        handle.remove()
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return logits.detach(), normalized((weights * features[0].detach()).sum(dim=1))


def normalized(maps: Tensor) -> Tensor:
    """Each map (N, rows, columns) divided by its maximum: 0..1, or all 0 without positive evidence."""
    maps = torch.relu(maps)
    peaks = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(peaks > 0, maps / peaks.clamp_min(1e-30), 0)


class OnnxNetwork:
    """An ONNX file (needs the extra `pacs-node[onnx]`): one float32 input, logits (N, 2) as first output."""

    def __init__(self, name: str, data: bytes, grid: HeatMapGrid, channels: int, size: int) -> None:
        """Load the network on the CPU and run it once on black.

        Raises ModelError if onnxruntime is not installed, if the file cannot be run (external weights are not
        read), or if its input or an output has another shape.
        """
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as errors
        except ModuleNotFoundError:
            raise ModelError(f"{name}: ONNX needs onnxruntime; install pacs-node[onnx]") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # External weights would come from the working directory, covered by no sha256; devnull has no files.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        self._grid = grid
        self._outputs: list[str | None] = [] if grid.layer == OCCLUSION else [grid.layer]
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            (entry,) = self._session.get_inputs()
            self._entry, self._fixed = entry.name, entry.shape[0] == 1
            self._outputs.insert(0, self._session.get_outputs()[0].name)
            logits, *maps = self._run(np.zeros((1, channels, size, size), np.float32))
        except (
            errors.Fail,
            errors.InvalidArgument,
            errors.InvalidGraph,
            errors.InvalidProtobuf,
            errors.NotImplemented,
            errors.RuntimeException,
            IndexError,
            ValueError,
        ) as error:
            raise ModelError(
                f"{name}: cannot be run on one float32 input (1, {channels}, {size}, {size}): {error}"
            ) from None
        if logits.shape != (1, 2):
            raise ModelError(f"{name}: its first output is {logits.shape}; it must be the logits (N, 2)")
        if maps and (maps[0].ndim != 3 or maps[0].shape[0] != 1):
            raise ModelError(
                f"{name}: output {grid.layer} is {maps[0].shape}; it must be a map (N, rows, columns)"
            )

    def to(self, device: torch.device) -> Self:
        import onnxruntime

        if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            self._session.set_providers(["CUDAExecutionProvider", "CPUExecutionProvider"])
        return self

    def explain(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        images = inputs.cpu().numpy()
        logits, *maps = self._run(images)
        values = maps[0] if maps else self._occlusion(images, logits)
        return torch.from_numpy(logits), normalized(torch.from_numpy(values))

    def _run(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        batches = np.split(images, len(images)) if self._fixed else [images]
        outputs = [self._session.run(self._outputs, {self._entry: batch}) for batch in batches]
        return [np.concatenate(parts).astype(np.float32) for parts in zip(*outputs, strict=True)]

    def _occlusion(self, images: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The fall of the margin while a square of two strides around each cell has the image's mean.

        Zeiler and Fergus 2014 (arXiv 1311.2901, section 4.2); one run for each cell.
        """
        centers = np.arange(self._grid.origin, images.shape[-1], self._grid.stride)
        ranges = [slice(max(0, round(c - self._grid.stride)), round(c + self._grid.stride)) for c in centers]
        falls = np.empty((len(images), len(ranges), len(ranges)), np.float32)
        for row, rows in enumerate(ranges):
            for column, columns in enumerate(ranges):
                hidden = images.copy()
                hidden[:, :, rows, columns] = images.mean(axis=(2, 3), keepdims=True)
                output = self._run(hidden)[0]
                falls[:, row, column] = logits[:, 1] - logits[:, 0] - (output[:, 1] - output[:, 0])
        return falls
