"""The networks that a model package may name: built empty, with the geometry of their feature grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.models import get_model  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network: input (N, 1, size, size) of 0..1, output two logits (N, 2): negative, positive.

    The heat map is read at the output of `layer`. Along both axes, the centre of its cell i lies at
    `origin + i * stride` of the network's input, in pixels from the first one's corner (half-pixel rule).
    """

    build: Callable[[], nn.Module]
    layer: str
    stride: float
    origin: float
    middle: str
    """A layer of middle depth; what it sees tells of what kind an image is, see `scope`."""


class PaperCnn(nn.Module):
    """The paper's network: convolutions with ReLU and max pooling, flatten, fully connected layers.

    The paper gives the kinds of layers and an input of 150 x 150, not their sizes: `filters` of 3 x 3 with
    padding are the usual ones. Its three input channels are equal in a radiograph, so here they are one; the
    step from [0, 1] to [-1, 1] is part of the network.
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
    """SqueezeNet whose answer is the pooled value of a map of local evidence, on a grid of eight pixels.

    The last two stages meet in a feature pyramid (Lin et al. 2017, arXiv 1612.03144, section 3); a linear
    head makes of each cell a logit, and log-sum-exp, a smooth maximum over the cells, makes of these the
    image's (Pinheiro and Collobert 2015, arXiv 1411.6228, section 3.2). The pooling's gradient sums to one,
    so the Grad-CAM at `pyramid` is the map itself but for the head's bias: what is shown is what was trained.
    """

    STRIDE = 8
    ORIGIN = 9.5
    SHARPNESS = 4.0
    CHANNELS = 128

    def __init__(self) -> None:
        super().__init__()
        trunk = squeezenet1_0().get_submodule("features")
        self.features = trunk
        width = self.CHANNELS
        self.fine = nn.Sequential(nn.Conv2d(512, width, 1, bias=False), nn.BatchNorm2d(width))
        self.coarse = nn.Sequential(nn.Conv2d(512, width, 1, bias=False), nn.BatchNorm2d(width))
        self.pyramid = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.drop = nn.Dropout2d(p=0.1)
        self.head = nn.Conv2d(width, 1, kernel_size=1)
        nn.init.normal_(self.head.weight, std=0.01)
        # Nearly all places are sound: begin there (Lin et al. 2017, arXiv 1708.02002, section 3.3).
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
        """The two logits of an image from its cells': (N, rows, columns) to (N, 2)."""
        positive = torch.logsumexp(self.SHARPNESS * evidence, dim=(1, 2)) / self.SHARPNESS
        return torch.stack([torch.zeros_like(positive), positive], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.evidence(x))


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


ARCHITECTURES = {
    "paper-cnn": Architecture(PaperCnn, "features.8", 8.0, 4.0, "features.4"),
    "squeezenet1_0": Architecture(squeezenet1_0, "features.12", 16.0, 17.5, "features.7"),
    "squeezenet1_0-map": Architecture(
        ActivationMap, "pyramid", ActivationMap.STRIDE, ActivationMap.ORIGIN, "features.7"
    ),
    "resnet18": Architecture(partial(torchvision_network, "resnet18"), "layer4", 32.0, 0.5, "layer2"),
    "resnet50": Architecture(partial(torchvision_network, "resnet50"), "layer4", 32.0, 0.5, "layer2"),
    "densenet121": Architecture(
        partial(torchvision_network, "densenet121"), "features.norm5", 32.0, 14.5, "features.transition2"
    ),
    "efficientnet_b0": Architecture(
        partial(torchvision_network, "efficientnet_b0"), "features.8", 32.0, 0.5, "features.4"
    ),
}
