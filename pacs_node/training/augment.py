"""Augmentation: random views of training images and marks, a pipeline of torchvision transforms (v2)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from pacs_node.analyze import pixels
from pacs_node.training import dataset
from pacs_node.training.recipe import Augmentation, Recipe

MARK = 1.0
UNSURE = 0.5
"""Around the outline of a mark, where the evidence of the network is neither right nor wrong."""
INSIDE, MIDDLE = 1, 2
"""Values of the mask that goes through the pipeline: in a mark, and at the middle of one."""

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (N, 1, side, side), labels (N,), marks (N, side, side)."""


@dataclass(frozen=True, slots=True, eq=False)
class Square:
    """One image as the whole input of the network, kept small."""

    image: NDArray[np.uint8]
    """(size, size)."""
    outlines: tuple[NDArray[np.float32], ...]
    """Of the marks, each (points, 2): x, y, from the corner of the first pixel."""
    positive: bool

    @property
    def input(self) -> NDArray[np.float32]:
        """The image as the network's input: (size, size), 0..1."""
        return self.image.astype(np.float32) / np.float32(255)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One random view of a square."""

    image: NDArray[np.float32]
    """(side, side), 0..1."""
    marks: NDArray[np.float32]
    """(side, side): MARK inside a mark, 0 outside, UNSURE around it."""
    positive: bool
    """Whether the finding is in the view: with marks, whether the middle of one is."""


def square(sample: dataset.Sample, size: int, stretch: tuple[float, float]) -> Square:
    """A sample as the network's input. Raises InputError if it cannot be read."""
    letterboxed, placement = pixels.letterbox(dataset.display(sample.path), size, stretch)
    outlines = tuple(
        np.array([placement.to_input(point) for point in mark.polygon], np.float32) for mark in sample.marks
    )
    return Square(np.round(letterboxed * 255).astype(np.uint8), outlines, sample.positive)


def pipeline(options: Augmentation, size: int) -> v2.Compose:
    """The random transforms of an image (1, size, size) and its mask; add further ones here."""
    steps: list[Any] = [v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)]
    if options.mirror:
        steps += [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    if options.crop or options.rotation or options.scale or options.shift:
        steps += [Place(options), v2.CenterCrop(options.crop or size)]
    if options.gamma or options.contrast:
        steps.append(Expose(options))
    if options.blur:
        width = 2 * math.ceil(4 * options.blur) + 1
        steps.append(v2.RandomApply([v2.GaussianBlur(width, (0.1, max(0.1, options.blur)))], p=0.25))
    if options.noise:
        steps.append(v2.RandomApply([Grain(options)], p=0.25))
    if options.collimation:
        steps.append(v2.RandomApply([Collimate(options)], p=options.collimation))
    return v2.Compose(steps)


def view(source: Square, transform: v2.Compose, seed: Sequence[int]) -> View:
    """A view of a square, drawn from the seed alone."""
    mask, size = np.zeros(source.image.shape, np.uint8), len(source.image)
    if source.outlines:
        fine = np.zeros((2 * size, 2 * size), np.uint8)
        for outline in source.outlines:
            # OpenCV has pixel centers at whole numbers, and fills half a pixel too much on each side.
            cv2.fillPoly(fine, [np.round(2 * outline - 0.5).astype(np.int32)], 2)
        mask = np.asarray(cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA) > 1, np.uint8)
    for outline in source.outlines:
        column, row = np.floor(outline.mean(axis=0)).astype(int)
        mask[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = MIDDLE
    (state,) = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(state) >> 1)
        image, marks = transform(
            tv_tensors.Image(torch.from_numpy(source.image)[None]),
            tv_tensors.Mask(torch.from_numpy(mask)[None]),
        )
    seen = marks[0].numpy()
    around = cv2.dilate(seen, np.ones((13, 13), np.uint8))
    return View(
        image=image[0].numpy(),
        marks=np.where(seen, np.float32(MARK), np.where(around, np.float32(UNSURE), np.float32(0))),
        positive=bool((seen == MIDDLE).any()) if source.outlines else source.positive,
    )


def uniform(limit: float, *shape: int) -> Tensor:
    """Numbers between -limit and limit."""
    return (2 * torch.rand(shape) - 1) * limit


class RandomTransform(v2.Transform):
    """A transform of images with the options of the recipe; masks stay as they are."""

    def __init__(self, options: Augmentation) -> None:
        super().__init__()
        self.options = options

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        changed: Tensor = tv_tensors.wrap(self.change(inpt.as_subclass(Tensor), **params), like=inpt)
        return changed

    def change(self, image: Tensor, **params: Any) -> Tensor:
        """The changed image, with what `make_params` has drawn."""
        raise NotImplementedError


class Place(RandomTransform):
    """Rotate, scale and shift; of a crop, the place is anywhere, and mostly around a mark."""

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, Any]:
        options, mask = self.options, flat_inputs[1]
        size = mask.shape[-1]
        side = options.crop or size
        angle, factor = uniform(options.rotation).item(), math.exp(uniform(options.scale).item())
        middles = (mask[0] == MIDDLE).nonzero().flip(1) + 0.5
        if side >= size:
            off_center = uniform(options.shift, 2) * size
        elif len(middles) and torch.rand(()) < 0.75:
            chosen = middles[torch.randint(len(middles), ())]
            off_center = chosen - size / 2 + uniform(0.4, 2) * side / factor
        else:
            off_center = uniform(max(0.0, (size - side / factor) / 2), 2)
        x, y = off_center.tolist()
        cosine, sine = math.cos(math.radians(angle)) * factor, math.sin(math.radians(angle)) * factor
        translate = [sine * y - cosine * x, -sine * x - cosine * y]
        return {"angle": angle, "translate": translate, "scale": factor, "shear": [0.0, 0.0]}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        placed: Tensor = v2.functional.affine(inpt, **params, interpolation=v2.InterpolationMode.BILINEAR)
        return placed


class Expose(RandomTransform):
    """Another exposure: gamma, and other black and white levels."""

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, Any]:
        black, white = uniform(self.options.contrast, 2).tolist()
        return {"gamma": math.exp(uniform(self.options.gamma).item()), "black": black, "white": white}

    def change(self, image: Tensor, *, gamma: float, black: float, white: float) -> Tensor:  # type: ignore[override]
        return ((image.pow(gamma) - black) / (1 + white - black)).clamp(0, 1)


class Grain(RandomTransform):
    """Noise of a random standard deviation."""

    def change(self, image: Tensor) -> Tensor:  # type: ignore[override]
        return (image + torch.randn_like(image) * torch.rand(()) * self.options.noise).clamp(0, 1)


class Collimate(RandomTransform):
    """A black border that hides no mark."""

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, Any]:
        mask = flat_inputs[1][0]
        side = mask.shape[-1]
        left, top, right, bottom = (torch.rand(4) * 0.15 * side).int().tolist()
        inside = torch.zeros_like(mask, dtype=torch.bool)
        inside[top : side - bottom, left : side - right] = True
        return {"inside": torch.ones_like(inside) if (mask[~inside] > 0).any() else inside}

    def change(self, image: Tensor, *, inside: Tensor) -> Tensor:  # type: ignore[override]
        return image * inside


class Views(Dataset[tuple[NDArray[np.float32], int, NDArray[np.float32]]]):
    """Random views of the training images, by (epoch, draw, index); all of it from the seed of the recipe."""

    def __init__(self, squares: Sequence[Square], recipe: Recipe) -> None:
        self._squares, self._recipe = squares, recipe
        self._transform = pipeline(recipe.augmentation, recipe.input.size)
        self._labels = np.array([square.positive for square in squares], np.int64)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[NDArray[np.float32], int, NDArray[np.float32]]:
        epoch, draw, index = key
        seed = self._recipe.optimization.seed, epoch, draw
        drawn = view(self._squares[index], self._transform, seed)
        return drawn.image[None], int(drawn.positive), drawn.marks

    @property
    def class_weights(self) -> Tensor:
        """Weights (2,) of negative and positive images in the loss."""
        if self._recipe.optimization.balance != "weights":
            return torch.ones(2)
        share = np.bincount(self._labels, minlength=2) / len(self._labels)
        return torch.tensor(0.5 / share, dtype=torch.float32)

    def order(self, epoch: int) -> list[tuple[int, int, int]]:
        """The keys of an epoch, shuffled and balanced."""
        rng = np.random.default_rng((self._recipe.optimization.seed, epoch))
        balance = self._recipe.optimization.balance
        classes = [np.flatnonzero(self._labels == label) for label in (0, 1)]
        if balance in ("undersample", "oversample"):
            count = (min if balance == "undersample" else max)(len(members) for members in classes)
            # Each image occurs as often as any other of its class, or once more.
            classes = [
                np.concatenate([rng.permutation(members) for _ in range(-(-count // len(members)))])[:count]
                for members in classes
            ]
        chosen = rng.permutation(np.concatenate(classes))
        return [(epoch, draw, int(index)) for draw, index in enumerate(chosen)]

    def batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """The batches of an epoch, without an incomplete last one."""
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
