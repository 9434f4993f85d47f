"""Training images: a torchvision v2 pipeline that varies image and marks together, and an epoch's batches."""

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
from pacs_node.training import dataset, randomize
from pacs_node.training.recipe import Augmentation, Recipe
from pacs_node.training.scenes import Scene

MARK, UNSURE = 1.0, 0.5
"""Values of a view's marks: inside of a mark, and near its outline, where neither answer is wrong."""
BAND = 6
"""Width of the unsure band, in pixels."""
AT_A_MARK = 0.75
"""Share of the crops of a marked image that are placed at a mark."""
OCCASIONAL = 0.25
"""Share of the images that are blurred, and that get noise."""
LOOK = 1
"""Tells the seed of a randomised look from that of the rest of the augmentation."""
WIDEST_SHUTTER = 0.15
"""Share of the side."""

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (N, 1, side, side), labels (N,), marks (N, side, side)."""


@dataclass(frozen=True, slots=True, eq=False)
class Square:
    """A training image as the network's whole input, kept in 8 bits."""

    image: NDArray[np.uint8]
    """(size, size)."""
    outlines: tuple[NDArray[np.float32], ...]
    """Each (points, 2): x, y, from the corner of the first pixel."""
    positive: bool

    @property
    def input(self) -> NDArray[np.float32]:
        """The network's input: (size, size), 0..1."""
        return self.image.astype(np.float32) / np.float32(255)

    @property
    def scene(self) -> Scene:
        """The image without the black borders of its square."""
        outlines = tuple(points.astype(np.float64) for points in self.outlines)
        y, x = (np.flatnonzero(self.image.any(axis=axis)) for axis in (1, 0))
        if not len(x):
            return Scene(self.input, outlines)
        corner = np.array([x[0], y[0]], np.float64)
        image = self.input[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        return Scene(image, tuple(points - corner for points in outlines))


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A varied training image."""

    image: Tensor
    """(1, side, side), 0..1."""
    marks: Tensor
    """(side, side): `MARK`, `UNSURE` or 0."""
    positive: bool
    """Of a marked image: whether the middle of a mark is in the view."""


class Frame(v2.Transform):
    """Rotates, scales and shifts in one resampling; with `crop`, cuts a square from anywhere or at a mark."""

    def __init__(self, options: Augmentation) -> None:
        super().__init__()
        self.options = options

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        (image,) = (part for part in flat_inputs if isinstance(part, tv_tensors.Image))
        (middles,) = (part for part in flat_inputs if isinstance(part, tv_tensors.KeyPoints))
        options, size = self.options, image.shape[-1]
        side = options.crop or size
        angle, scale = uniform(options.rotation), math.exp(uniform(options.scale))
        if side >= size:
            away = size * uniform(options.shift, 2)
        elif len(middles) and torch.rand(()) < AT_A_MARK:
            middle = middles[torch.randint(len(middles), ())].as_subclass(Tensor)
            away = middle - size / 2 + side / scale * uniform(0.4, 2)
        else:
            away = uniform(max(0.0, size - side / scale) / 2, 2)
        cosine, sine = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
        translate = -torch.tensor([[cosine, -sine], [sine, cosine]]) @ away
        return {"angle": float(angle), "scale": scale, "translate": translate.tolist(), "side": side}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        side, affine = params["side"], {name: params[name] for name in ("angle", "scale", "translate")}
        moved = v2.functional.affine(
            inpt, **affine, shear=[0.0, 0.0], interpolation=v2.InterpolationMode.BILINEAR
        )
        return v2.functional.center_crop(moved, [side, side])


class ImageTransform(v2.Transform):
    """A random transform that changes the image and leaves marks and middles as they are."""

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, options: Augmentation) -> None:
        super().__init__()
        self.options = options


class Exposure(ImageTransform):
    """Gamma, and other black and white points; 8 bits become 0..1."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        black, white = uniform(self.options.contrast, 2).tolist()
        return {"exponent": math.exp(uniform(self.options.gamma)), "black": black, "white": white}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        black, white = params["black"], params["white"]
        curved = (inpt / 255) ** params["exponent"]
        return tv_tensors.wrap(((curved - black) / (1 + white - black)).clamp(0, 1), like=inpt)


class Noise(ImageTransform):
    """Gaussian noise of a random standard deviation."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"sigma": self.options.noise * torch.rand(()).item()}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return v2.functional.gaussian_noise(inpt, **params)


class Shutters(v2.Transform):
    """A black border, as a collimator leaves, unless it would hide part of a mark."""

    _transformed_types = (tv_tensors.Image, tv_tensors.Mask)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        (marks,) = (part for part in flat_inputs if isinstance(part, tv_tensors.Mask))
        side = marks.shape[-1]
        left, top, right, bottom = (WIDEST_SHUTTER * side * torch.rand(4)).int().tolist()
        opening = torch.zeros(marks.shape[-2:], dtype=torch.bool)
        opening[top : side - bottom, left : side - right] = True
        return {"opening": opening | bool((marks.bool() & ~opening).any())}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return tv_tensors.wrap(inpt * params["opening"], like=inpt)


def uniform(largest: float, count: int = 1) -> Tensor:
    """Random numbers between -`largest` and `largest`: (count,)."""
    return largest * (2 * torch.rand(count) - 1)


def pipeline(options: Augmentation) -> v2.Transform:
    """The augmentation of a `Square`'s tensors; see `view`."""
    flips = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()] if options.mirror else []
    sigma = max(options.blur, 0.1)
    blur = v2.GaussianBlur(2 * math.ceil(4 * sigma) + 1, (0.1, sigma))
    return v2.Compose(
        [
            Frame(options),
            *flips,
            Exposure(options),
            v2.RandomApply([blur], p=OCCASIONAL if options.blur else 0),
            v2.RandomApply([Noise(options)], p=OCCASIONAL if options.noise else 0),
            v2.RandomApply([Shutters()], p=options.collimation),
        ]
    )


def square(sample: dataset.Sample, size: int, stretch: tuple[float, float]) -> Square:
    """A sample as the network's input. Raises InputError if it cannot be read."""
    return fitted(randomize.read(sample), sample.positive, size, stretch)


def fitted(scene: Scene, positive: bool, size: int, stretch: tuple[float, float]) -> Square:
    """A scene as the network's input."""
    letterboxed, placement = pixels.letterbox(scene.image, size, stretch)
    outlines = tuple(
        np.array([placement.to_input(point) for point in points.tolist()], np.float32)
        for points in scene.outlines
    )
    return Square(np.round(letterboxed * 255).astype(np.uint8), outlines, positive)


def view(source: Square, transform: v2.Transform, seed: Sequence[int]) -> View:
    """A varied view of a training image; the seed alone decides which."""
    shape = source.image.shape
    marks = np.zeros(shape, np.uint8)
    for points in source.outlines:
        cv2.fillPoly(marks, [np.round(points - 0.5).astype(np.int32)], 1)
    middles = np.array([points.mean(axis=0) for points in source.outlines], np.float32).reshape(-1, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
        varied = transform(
            {
                "image": tv_tensors.Image(source.image[None]),
                "marks": tv_tensors.Mask(marks[None]),
                "middles": tv_tensors.KeyPoints(middles, canvas_size=shape),
            }
        )
    image, inside, middle = (part.as_subclass(Tensor) for part in varied.values())
    near = cv2.dilate(inside[0].numpy(), np.ones((2 * BAND + 1, 2 * BAND + 1), np.uint8))
    positive = bool(((middle >= 0) & (middle < image.shape[-1])).all(dim=1).any())
    return View(
        image=image,
        marks=torch.where(inside[0].bool(), MARK, UNSURE * torch.from_numpy(near)),
        positive=positive if source.outlines else source.positive,
    )


class Views(Dataset[tuple[Tensor, int, Tensor]]):
    """The training images by (epoch, draw, index)."""

    def __init__(self, squares: Sequence[Square], recipe: Recipe) -> None:
        self._squares, self._recipe, self._options = squares, recipe, recipe.optimization
        self._transform = pipeline(recipe.augmentation)
        self._labels = np.array([square.positive for square in squares], np.int64)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int, Tensor]:
        epoch, draw, index = key
        source = self._source(index, np.random.default_rng((self._options.seed, epoch, draw, LOOK)))
        varied = view(source, self._transform, (self._options.seed, epoch, draw))
        return varied.image, int(varied.positive), varied.marks

    def _source(self, index: int, rng: np.random.Generator) -> Square:
        """An image, in the recipe's share of the draws with the look of another source."""
        square, given = self._squares[index], self._recipe.input
        if rng.random() >= self._recipe.augmentation.randomize:
            return square
        # A neighbour in the frame must not change the label.
        other = self._squares[int(rng.choice(np.flatnonzero(self._labels == square.positive)))]
        scene = randomize.vary(square.scene, rng, other.scene)
        return fitted(scene, square.positive, given.size, given.stretch)

    @property
    def class_weights(self) -> Tensor:
        """Weights of negative and positive images in the loss: (2,)."""
        if self._options.balance != "weights":
            return torch.ones(2)
        share = np.bincount(self._labels, minlength=2) / len(self._labels)
        return torch.tensor(0.5 / share, dtype=torch.float32)

    def order(self, epoch: int) -> list[tuple[int, int, int]]:
        """The keys of an epoch, in random order."""
        rng = np.random.default_rng((self._options.seed, epoch))
        balance = self._options.balance
        classes = [np.flatnonzero(self._labels == label) for label in (0, 1)]
        if balance in ("undersample", "oversample"):
            count = (min if balance == "undersample" else max)(len(members) for members in classes)
            # Within a class, each image is used equally often, give or take once.
            classes = [
                np.concatenate([rng.permutation(members) for _ in range(-(-count // len(members)))])[:count]
                for members in classes
            ]
        chosen = rng.permutation(np.concatenate(classes))
        return [(epoch, draw, int(index)) for draw, index in enumerate(chosen)]

    def batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """The epoch in batches, without an incomplete last one."""
        on_gpu = device.type == "cuda"
        return iter(
            DataLoader(
                self,
                batch_size=self._options.batch,
                sampler=self.order(epoch),
                num_workers=8 if on_gpu else 0,  # on a CPU, training itself needs all cores
                drop_last=True,
                pin_memory=on_gpu,
            )
        )
