"""The scope guard: how unlike the training images an image is.

The measure is the Mahalanobis distance of the channel means of a layer of middle depth (Lee et al. 2018,
arXiv 1807.03888, section 2.1), with all images as one class and in their principal directions alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, linalg, nn

from pacs_node.errors import ModelError

FILE = "scope.safetensors"


class Scope(BaseModel):
    """`[scope]` of `model.toml`: the layer that is watched, and the limit of the distance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: int = Field(0, ge=0)
    """Index of the watched network."""
    layer: Annotated[str, Field(min_length=1)]
    file: str = Field(FILE, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Safetensors: `mean` (channels,) and `whitening` (channels, directions) of the training images."""
    file_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    limit: float = Field(gt=0)
    """Images at a greater distance are out of scope."""


def checked_bytes(path: Path, sha256: str, named_by: str) -> bytes:
    """The content of a file of a package. Raises ModelError if it is missing or its sha256 is another."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; {named_by} it") from None
    if (actual := hashlib.sha256(data).hexdigest()) != sha256:
        raise ModelError(f"{path}: sha256 is {actual}, but {named_by} {sha256}; one of the two was changed")
    return data


class ScopeGuard:
    """The statistics of the training images, and the network whose features are compared with them."""

    def __init__(self, folder: Path, scope: Scope, network: nn.Module) -> None:
        """Load the statistics. Raises ModelError if the file is not the one that `scope` names."""
        path = folder / scope.file
        try:
            tensors = load_tensors(checked_bytes(path, scope.file_sha256, "[scope] names"))
            self._mean, self._whitening = tensors["mean"].float(), tensors["whitening"].float()
        except (SafetensorError, KeyError) as error:
            raise ModelError(f"{path}: it must hold the tensors mean and whitening: {error}") from error
        self._network, self._scope = network, scope

    def watch(self) -> AbstractContextManager[list[Tensor]]:
        """Collect the features of the forward passes within the block."""
        return watched(self._network, self._scope.layer)

    def scores(self, features: Tensor) -> list[float]:
        """Distances of features (N, channels) in units of the limit; above 1 is out of scope."""
        distances = linalg.vector_norm((features.cpu() - self._mean) @ self._whitening, dim=1)
        return [round(distance / self._scope.limit, 4) for distance in distances.tolist()]


@contextmanager
def watched(network: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """The channel means (N, channels) at a layer, one entry for each forward pass within the block."""
    features: list[Tensor] = []

    def pool(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        features.append(output.detach().mean(dim=(2, 3)))

    handle = network.get_submodule(layer).register_forward_hook(pool)
    try:
        yield features
    finally:
        handle.remove()
