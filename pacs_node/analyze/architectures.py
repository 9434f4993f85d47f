"""The networks that a model package may name: built empty, with the geometry of their feature grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torchvision import models


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network: input (N, 1, size, size) of 0..1, output two logits (N, 2): not fractured, fractured.

    The heat map is read at the output of `layer`. Along both axes, the centre of its cell i lies at
    `origin + i * stride` of the network's input, in pixels from the first one's corner (half-pixel rule).
    """

    build: Callable[[], nn.Module]
    layer: str
    stride: float
    origin: float


def squeezenet1_0() -> nn.Module:
    """SqueezeNet 1.0 (Iandola et al. 2016, arXiv 1602.07360) for one channel and two classes, untrained.

    Torchvision's, but for the first convolution (one channel) and the head: the ReLU that ends torchvision's
    is left out, since it would cut off negative logits.
    """
    network: nn.Module = models.squeezenet1_0(weights=None, num_classes=2)
    network.get_submodule("features").register_module("0", nn.Conv2d(1, 96, kernel_size=7, stride=2))
    head = nn.Conv2d(512, 2, kernel_size=1)
    nn.init.normal_(head.weight, std=0.01)
    network.classifier = nn.Sequential(nn.Dropout(p=0.5), head, nn.AdaptiveAvgPool2d((1, 1)))
    return network


ARCHITECTURES = {
    "squeezenet1_0": Architecture(build=squeezenet1_0, layer="features.12", stride=16.0, origin=17.5),
}
