"""Networks in ONNX, run by onnxruntime (the extra `pacs-node[onnx]`), and how they are explained."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pacs_node.analyze.gradcam import normalized
from pacs_node.errors import ModelError

if TYPE_CHECKING:
    from pacs_node.analyze.package import Member

OCCLUSION = "occlusion"
"""`layer` of a network that gives no map of its own: its answer is watched while parts are hidden."""


class OnnxNetwork:
    """An ONNX file: one input (N, channels, size, size) float32, first output two logits (N, 2)."""

    def __init__(self, name: str, data: bytes, member: Member, channels: int, size: int) -> None:
        """Load it on the CPU and try it on black.

        Raises ModelError where onnxruntime is not installed, the file cannot be run (weights outside of it
        are not read), or its input or an output is not as described here.
        """
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as errors
        except ModuleNotFoundError:
            raise ModelError(f"{name}: ONNX needs onnxruntime; install pacs-node[onnx]") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # Else they come from the working directory, and no sha256 covers them. In no device lies a file.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        self._grid = member.heat_map
        self._outputs: list[str | None] = [] if self._grid.layer == OCCLUSION else [self._grid.layer]
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
                f"{name}: output {self._grid.layer} is {maps[0].shape}; it must be a map (N, rows, columns)"
            )

    def to(self, device: torch.device) -> Self:
        """Run on CUDA from now on, where asked for and where onnxruntime was built for it."""
        import onnxruntime

        if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            self._session.set_providers(["CUDAExecutionProvider", "CPUExecutionProvider"])
        return self

    def explain(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, 2) and maps (N, rows, columns), 0..1 as those of `gradcam.explain`, on the CPU."""
        images = inputs.cpu().numpy()
        logits, *maps = self._run(images)
        values = maps[0] if maps else self._occlusion(images, logits)
        return torch.from_numpy(logits), normalized(torch.from_numpy(values))

    def _run(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        batches = np.split(images, len(images)) if self._fixed else [images]
        answers = [self._session.run(self._outputs, {self._entry: batch}) for batch in batches]
        return [np.concatenate(parts).astype(np.float32) for parts in zip(*answers, strict=True)]

    def _occlusion(self, images: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """By how much the margin falls while a square around each cell has the image's mean.

        Zeiler and Fergus 2014 (arXiv 1311.2901, section 4.2). The square is two strides wide; one run a cell.
        """
        centres = np.arange(self._grid.origin, images.shape[-1], self._grid.stride)
        ranges = [
            slice(max(0, round(at - self._grid.stride)), round(at + self._grid.stride)) for at in centres
        ]
        falls = np.empty((len(images), len(ranges), len(ranges)), np.float32)
        for row, rows in enumerate(ranges):
            for column, columns in enumerate(ranges):
                hidden = images.copy()
                hidden[:, :, rows, columns] = images.mean(axis=(2, 3), keepdims=True)
                answer = self._run(hidden)[0]
                falls[:, row, column] = logits[:, 1] - logits[:, 0] - (answer[:, 1] - answer[:, 0])
        return falls
