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
        for parameter in network.parameters():
            parameter.fill_(1 / parameter[0].numel() if parameter.ndim > 1 else 0)
    return network.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("size", [224, 256])
def test_a_cells_centre_is_the_centre_of_its_receptive_field(name: str, size: int) -> None:
    architecture = ARCHITECTURES[name]
    network = evened(architecture.build())
    features: list[torch.Tensor] = []
    network.get_submodule(architecture.layer).register_forward_hook(
        lambda _module, _inputs, output: features.append(output)
    )
    image = torch.ones(1, 1, size, size, requires_grad=True)
    network(image)
    row, column = 6, 8
    (gradient,) = torch.autograd.grad(features[0][0, :, row, column].sum(), image)
    for axis, cell in ((0, column), (1, row)):
        field = gradient[0, 0].sum(axis)
        centre = float((field * (torch.arange(size) + 0.5)).sum() / field.sum())
        assert centre == pytest.approx(architecture.origin + cell * architecture.stride, abs=0.01)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_channel_in_two_logits_out(name: str) -> None:
    network = ARCHITECTURES[name].build().eval()
    with torch.inference_mode():
        assert network(torch.rand(3, 1, 224, 224)).shape == (3, 2)
