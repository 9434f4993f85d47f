"""Which training images an epoch shows, in which order and how varied; all of it from the seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pacs_node.training import augment
from pacs_node.training.augment import Square
from pacs_node.training.recipe import Recipe

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (N, 1, side, side), labels (N,), marks (N, side, side)."""


class Views(Dataset[tuple[NDArray[np.float32], int, NDArray[np.float32]]]):
    """The training images by (epoch, draw, index)."""

    def __init__(self, squares: Sequence[Square], recipe: Recipe) -> None:
        self._squares = squares
        self._recipe = recipe
        self._labels = np.array([square.positive for square in squares], np.int64)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[NDArray[np.float32], int, NDArray[np.float32]]:
        epoch, draw, index = key
        rng = np.random.default_rng((self._recipe.optimization.seed, epoch, draw))
        view = augment.view(self._squares[index], self._recipe.augmentation, rng)
        return view.image[None], int(view.positive), view.marks

    @property
    def class_weights(self) -> Tensor:
        """Of negative and positive in the loss: (2,)."""
        if self._recipe.optimization.balance != "weights":
            return torch.ones(2)
        share = np.bincount(self._labels, minlength=2) / len(self._labels)
        return torch.tensor(0.5 / share, dtype=torch.float32)

    def order(self, epoch: int) -> list[tuple[int, int, int]]:
        """What the epoch shows."""
        rng = np.random.default_rng((self._recipe.optimization.seed, epoch))
        balance = self._recipe.optimization.balance
        classes = [np.flatnonzero(self._labels == label) for label in (0, 1)]
        if balance in ("undersample", "oversample"):
            count = (min if balance == "undersample" else max)(len(members) for members in classes)
            # Each image as often as any other of its class, but for one.
            classes = [
                np.concatenate([rng.permutation(members) for _ in range(-(-count // len(members)))])[:count]
                for members in classes
            ]
        chosen = rng.permutation(np.concatenate(classes))
        return [(epoch, draw, int(index)) for draw, index in enumerate(chosen)]

    def batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """The epoch in batches, without the last, odd one."""
        return iter(
            DataLoader(
                self,
                batch_size=self._recipe.optimization.batch,
                sampler=self.order(epoch),
                # A CPU that trains has no core to spare.
                num_workers=8 if device.type == "cuda" else 0,
                drop_last=True,
                pin_memory=device.type == "cuda",
            )
        )
