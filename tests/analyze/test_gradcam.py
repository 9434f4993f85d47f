"""Grad-CAM against captum's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pacs_node.analyze.architectures import ARCHITECTURES
from pacs_node.analyze.networks import grad_cam

captum = pytest.importorskip("captum.attr")


def deep_head(inplace: bool = False) -> nn.Module:
    """A network whose map differs from cell to cell in more than a channel weighting."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, stride=4),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(inplace=inplace),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(72, 2),
    )


@pytest.mark.parametrize(
    ("build", "layer"), [(ARCHITECTURES["squeezenet1_0"].build, "features.12"), (deep_head, "0")]
)
def test_maps_are_captums(build: object, layer: str) -> None:
    torch.manual_seed(4)
    assert callable(build)
    network: nn.Module = build().eval()
    inputs = torch.rand(3, 1, 128, 128)
    logits, maps = grad_cam(network, layer, inputs)
    oracle = captum.LayerGradCam(network, network.get_submodule(layer))
    expected = oracle.attribute(inputs, target=1, relu_attributions=True).detach()[:, 0]
    peaks = expected.amax(dim=(1, 2), keepdim=True)
    assert (peaks > 0).any()
    torch.testing.assert_close(maps, torch.where(peaks > 0, expected / peaks, 0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits, network(inputs).detach())
    assert maps.amin() >= 0


def test_nothing_that_speaks_for_a_fracture_is_an_empty_map() -> None:
    first, last = nn.Conv2d(1, 2, 1), nn.Linear(2, 2)
    network = nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    with torch.no_grad():
        first.weight.fill_(1)
        last.weight.fill_(-1)
    _, maps = grad_cam(network, "1", torch.rand(1, 1, 8, 8))
    assert not maps.any()


def test_works_without_gradients_and_leaves_no_trace() -> None:
    network = deep_head(inplace=True).eval().requires_grad_(False)
    with torch.inference_mode(False), torch.no_grad():
        _, maps = grad_cam(network, "2", torch.rand(1, 1, 64, 64))
    assert maps.max() == 1
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.get_submodule("2")._forward_hooks
