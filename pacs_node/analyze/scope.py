"""Whether an image is of a kind that the model knows.

The channel means of a layer of middle depth tell what kind of picture the network sees. An image is in scope
when they lie near those of the training images: by their Mahalanobis distance (Lee et al. 2018, arXiv
1807.03888, section 2.1), all images as one class, in their principal directions alone.
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
    """`[scope]` of `model.toml`: where the guard looks, and how far away is too far."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: int = Field(0, ge=0)
    """Which of the package's networks is watched; 0 is the first."""
    layer: Annotated[str, Field(min_length=1)]
    """Whose channel means are compared."""
    file: str = Field(FILE, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Safetensors: `mean` (channels,) and `whitening` (channels, directions) of the training images."""
    file_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    limit: float = Field(gt=0)
    """Distance from which on an image is out of scope."""


class Guard:
    """What the training images were like, and the network that looks."""

    def __init__(self, folder: Path, scope: Scope, network: nn.Module) -> None:
        """Load it from the very bytes whose sha256 was checked; raises ModelError."""
        path = folder / scope.file
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise ModelError(f"{path}: no such file; [scope] names it") from None
        found = hashlib.sha256(data).hexdigest()
        if found != scope.file_sha256:
            raise ModelError(f"{path}: sha256 is {found}, but [scope] names {scope.file_sha256}")
        try:
            tensors = load_tensors(data)
            self._mean, self._whitening = tensors["mean"].float(), tensors["whitening"].float()
        except (SafetensorError, KeyError) as error:
            raise ModelError(f"{path}: it must hold the tensors mean and whitening: {error}") from error
        self._network, self._scope = network, scope

    def watch(self) -> AbstractContextManager[list[Tensor]]:
        """See `watched`."""
        return watched(self._network, self._scope.layer)

    def scores(self, features: Tensor) -> list[float]:
        """Distances of features (N, channels) in units of the limit: above 1 is out of scope."""
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
