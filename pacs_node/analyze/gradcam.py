"""Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

POSITIVE = 1
"""Which of the two logits is explained."""


def explain(network: nn.Module, layer: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, 2) and class activation maps of the positive one, (N, rows, columns) on the layer's grid.

    `inputs` is (N, 1, size, size). One forward pass; the backward pass ends at the layer.
    """
    features: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        features.append(output.detach().requires_grad_())
        # The next layer may work in place.
        return features[0].clone()

    handle = network.get_submodule(layer).register_forward_hook(cut)
    try:
        with torch.enable_grad():
            logits = network(inputs)
            (gradient,) = torch.autograd.grad(logits[:, POSITIVE].sum(), features)
    finally:
        handle.remove()
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return logits.detach(), normalized((weights * features[0].detach()).sum(dim=1))


def normalized(maps: Tensor) -> Tensor:
    """Each map (N, rows, columns) by its maximum: 0..1, all 0 where nothing speaks for the finding."""
    maps = torch.relu(maps)
    peaks = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(peaks > 0, maps / peaks.clamp_min(1e-30), 0)
