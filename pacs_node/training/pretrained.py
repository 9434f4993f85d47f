"""Weights to start from."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from pacs_node.errors import ModelError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def initialize(network: nn.Module, pretrained: Path) -> None:
    """Fill an untrained one-channel network with the weights of a model package or with RGB ones.

    Of a package, all is taken over. Of ImageNet weights the head is not: it stays untrained, and the first
    convolution takes over the ImageNet normalization and adds its three input channels up, so that it answers
    to a gray image x in 0..1 as the RGB network does to (x, x, x) normalized; where it pads, all but the
    outermost pixels. Raises ModelError where the file does not fit.
    """
    state = load_file(pretrained)
    own = network.state_dict()
    if {key: value.shape for key, value in state.items()} == {k: value.shape for k, value in own.items()}:
        network.load_state_dict(state)
        return
    name, first = next((name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d))
    weight, bias = f"{name}.weight", f"{name}.bias"
    std, mean = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_STD, IMAGENET_MEAN))
    try:
        if first.bias is not None:
            state[bias] = state[bias] - (state[weight] * mean / std).sum(dim=(1, 2, 3))
        state[weight] = (state[weight] / std).sum(dim=1, keepdim=True)
        fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
        network.load_state_dict(fitting, strict=False)
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{pretrained}: not weights of this architecture for RGB images: {error}") from None
    trunk = {key for key in own if key.startswith(name.partition(".")[0])}
    if missing := sorted(trunk - fitting.keys()):
        raise ModelError(f"{pretrained}: not weights of this architecture: {missing[0]} is missing")
