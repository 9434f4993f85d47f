"""The networks that a model package may name, untrained, with the geometry of their feature grids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.models import get_model


class HeatMapGrid(BaseModel):
    """`[heat_map]` of `model.toml`: the layer of the heat map and the position of its cells.

    Along both axes, the center of cell i lies at `origin + i * stride` of the network's input, in pixels from
    the corner of the first pixel. For ONNX, `layer` is an output of the network or "occlusion".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: Annotated[str, Field(min_length=1)]
    stride: float = Field(gt=0)
    origin: float


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network: input (N, 1, size, size) of 0..1, output two logits (N, 2): negative, positive."""

    build: Callable[[], nn.Module]
    grid: HeatMapGrid
    middle: str
    """A layer of middle depth, whose features show the kind of an image; see `scope`."""


class PaperCnn(nn.Module):
    """The paper's network: convolutions with ReLU and max pooling, flatten, fully connected layers.

    The paper states the kinds of layers and an input of 150 x 150, not their sizes; these are the usual ones.
    One channel instead of three equal ones; the step from [0, 1] to [-1, 1] is part of the network.
    """

    def __init__(self, filters: tuple[int, ...] = (32, 64, 128), side: int = 150, hidden: int = 128) -> None:
        super().__init__()
        features: list[nn.Module] = []
        channels = 1
        for width in filters:
            features += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels, side = width, side // 2
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * side * side, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(2 * x - 1))
        return logits


class ActivationMap(nn.Module):
    """SqueezeNet whose logit is the smooth maximum (log-sum-exp) of a map of local evidence.

    A feature pyramid joins the last two stages (Lin et al. 2017, arXiv 1612.03144, section 3); a linear head
    gives a logit for each cell (Pinheiro and Collobert 2015, arXiv 1411.6228, section 3.2). The gradient of
    the pooling sums to one, so that the Grad-CAM at `pyramid` is the trained map itself but for the bias.
    """

    STRIDE = 8
    ORIGIN = 9.5
    SHARPNESS = 4.0
    CHANNELS = 128

    def __init__(self) -> None:
        super().__init__()
        self.features = squeezenet1_0().get_submodule("features")
        width = self.CHANNELS
        self.fine = nn.Sequential(nn.Conv2d(512, width, 1, bias=False), nn.BatchNorm2d(width))
        self.coarse = nn.Sequential(nn.Conv2d(512, width, 1, bias=False), nn.BatchNorm2d(width))
        self.pyramid = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.drop = nn.Dropout2d(p=0.1)
        self.head = nn.Conv2d(width, 1, kernel_size=1)
        nn.init.normal_(self.head.weight, std=0.01)
        # Nearly all cells are negative: begin there (Lin et al. 2017, arXiv 1708.02002, section 3.3).
        nn.init.constant_(self.head.bias, -4.0)  # type: ignore[arg-type]

    def evidence(self, x: Tensor) -> Tensor:
        """The logit of each cell: (N, 1, size, size) to (N, rows, columns)."""
        fine = self.features[:11](x)  # type: ignore[index]
        coarse = functional.interpolate(
            self.coarse(self.features[11:](fine)),  # type: ignore[index]
            size=fine.shape[-2:],
            mode="bilinear",
        )
        logits: Tensor = self.head(self.drop(self.pyramid(self.fine(fine) + coarse)))
        return logits[:, 0]

    def pool(self, evidence: Tensor) -> Tensor:
        """The two logits of an image from those of its cells: (N, rows, columns) to (N, 2)."""
        positive = torch.logsumexp(self.SHARPNESS * evidence, dim=(1, 2)) / self.SHARPNESS
        return torch.stack([torch.zeros_like(positive), positive], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.evidence(x))


def squeezenet1_0() -> nn.Module:
    """SqueezeNet 1.0 (Iandola et al. 2016, arXiv 1602.07360) for one channel and two classes, untrained.

    Without the ReLU at the end of torchvision's head, which would cut off negative logits.
    """
    network: nn.Module = models.squeezenet1_0(weights=None, num_classes=2)
    network.get_submodule("features").register_module("0", nn.Conv2d(1, 96, kernel_size=7, stride=2))
    head = nn.Conv2d(512, 2, kernel_size=1)
    nn.init.normal_(head.weight, std=0.01)
    network.classifier = nn.Sequential(nn.Dropout(p=0.5), head, nn.AdaptiveAvgPool2d((1, 1)))
    return network


def torchvision_network(name: str) -> nn.Module:
    """One of torchvision's classifiers for one channel and two classes, untrained."""
    network: nn.Module = get_model(name, weights=None, num_classes=2)
    path, first = next((path, m) for path, m in network.named_modules() if isinstance(m, nn.Conv2d))
    parent, _, attribute = path.rpartition(".")
    gray = nn.Conv2d(
        1,
        first.out_channels,
        kernel_size=first.kernel_size,  # type: ignore[arg-type]
        stride=first.stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    network.get_submodule(parent).register_module(attribute, gray)
    return network


def _architecture(
    build: Callable[[], nn.Module], layer: str, stride: float, origin: float, middle: str
) -> Architecture:
    return Architecture(build, HeatMapGrid(layer=layer, stride=stride, origin=origin), middle)


ARCHITECTURES = {
    "paper-cnn": _architecture(PaperCnn, "features.8", 8, 4, "features.4"),
    "squeezenet1_0": _architecture(squeezenet1_0, "features.12", 16, 17.5, "features.7"),
    "squeezenet1_0-map": _architecture(
        ActivationMap, "pyramid", ActivationMap.STRIDE, ActivationMap.ORIGIN, "features.7"
    ),
    **{
        name: _architecture(partial(torchvision_network, name), *geometry)
        for name, geometry in {
            "resnet18": ("layer4", 32.0, 0.5, "layer2"),
            "resnet50": ("layer4", 32.0, 0.5, "layer2"),
            "densenet121": ("features.norm5", 32.0, 14.5, "features.transition2"),
            "efficientnet_b0": ("features.8", 32.0, 0.5, "features.4"),
        }.items()
    },
}
