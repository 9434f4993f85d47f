"""The geometry of each architecture's feature grid, measured on the network itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pacs_node.analyze.architectures import ARCHITECTURES


def evened(network: nn.Module) -> nn.Module:
    """The same network with equal positive weights and means for maxima: every path counts alike."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            parent, _, child = name.rpartition(".")
            mean = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)
            setattr(network.get_submodule(parent), child, mean)
    with torch.no_grad():
        for module in network.modules():
            for parameter in module.parameters(recurse=False):
                even = 1 / parameter[0].numel() if parameter.ndim > 1 else 0
                parameter.fill_(even)
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1)
    return network.eval()


MEASURED = [
    ("paper-cnn", 150, 0.01),
    ("squeezenet1_0", 224, 0.01),
    ("squeezenet1_0", 256, 0.01),
    # Its two grids are not quite in register.
    ("squeezenet1_0-map", 256, 1.5),
    ("squeezenet1_0-map", 448, 1.5),
    # Their receptive fields reach over the image's edge, all around the middle one's.
    ("resnet18", 449, 1.0),
    ("resnet50", 449, 1.0),
    ("densenet121", 480, 1.0),
    ("efficientnet_b0", 449, 1.0),
]


@pytest.mark.parametrize(("name", "size", "tolerance"), MEASURED)
def test_a_cells_centre_is_the_centre_of_its_receptive_field(name: str, size: int, tolerance: float) -> None:
    architecture = ARCHITECTURES[name]
    network = evened(architecture.build())
    features: list[torch.Tensor] = []
    network.get_submodule(architecture.grid.layer).register_forward_hook(
        lambda _module, _inputs, output: features.append(output)
    )
    image = torch.ones(1, 1, size, size, requires_grad=True)
    network(image)
    row, column = (cells // 2 for cells in features[0].shape[-2:])
    (gradient,) = torch.autograd.grad(features[0][0, :, row, column].sum(), image)
    for axis, cell in ((0, column), (1, row)):
        field = gradient[0, 0].sum(axis)
        centre = float((field * (torch.arange(size) + 0.5)).sum() / field.sum())
        assert centre == pytest.approx(
            architecture.grid.origin + cell * architecture.grid.stride, abs=tolerance
        )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_channel_in_two_logits_out(name: str) -> None:
    network = ARCHITECTURES[name].build().eval()
    with torch.inference_mode():
        size = 150 if name == "paper-cnn" else 224
        assert network(torch.rand(3, 1, size, size)).shape == (3, 2)


def test_every_architecture_has_its_grid_measured() -> None:
    assert {name for name, _, _ in MEASURED} == set(ARCHITECTURES)
