"""What training makes small."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pacs_node.analyze.architectures import ActivationMap
from pacs_node.training import augment
from pacs_node.training.recipe import Optimization


def of_batch(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    marks: Tensor,
    options: Optimization,
    class_weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """The loss of a batch, and its logits (N, 2)."""
    images = images.contiguous(memory_format=torch.channels_last)
    targets = functional.one_hot(labels, 2).float()
    if options.mixup:
        part = torch.distributions.Beta(options.mixup, options.mixup).sample().item()
        images = part * images + (1 - part) * images.flip(0)
        targets = part * targets + (1 - part) * targets.flip(0)
    local = images.new_zeros(())
    if options.localization:
        assert isinstance(network, ActivationMap)
        evidence = network.evidence(images).float()
        local = localization(evidence, marks)
        logits = network.pool(evidence)
    else:
        logits = network(images).float()
    log_p = functional.log_softmax(logits, dim=1)
    if options.loss == "focal":
        log_p = (1 - log_p.exp()).square() * log_p
    weighted = targets * class_weights
    loss = -(weighted * log_p).sum() / weighted.sum() + options.localization * local
    if options.l1:
        loss = loss + options.l1 * sum(weight.abs().sum() for weight in network.parameters())
    return loss, logits.detach()


def localization(evidence: Tensor, marks: Tensor) -> Tensor:
    """Focal loss of cells' logits (N, rows, columns) against marks (N, side, side), by marked cell.

    Cells at a mark's outline count for nothing; of a mark too small to fill a cell, the cell that has most
    of it is right (Lin et al. 2017, arXiv 1708.02002; gamma 2).
    """
    stride, first = ActivationMap.STRIDE, int(ActivationMap.ORIGIN - ActivationMap.STRIDE / 2)
    rows, columns = (first + stride * cells for cells in evidence.shape[-2:])
    side = marks.shape[-1]
    marks = functional.pad(marks, (0, max(0, columns - side), 0, max(0, rows - side)))
    marks = marks[:, first:rows, first:columns]
    covered = functional.avg_pool2d((marks == augment.MARK).float(), stride)
    near = functional.max_pool2d(marks, stride) > 0
    most = covered.amax(dim=(1, 2), keepdim=True)
    right = (covered >= 0.5) | ((covered == most) & (most > 0))
    wrong = ~near
    p = evidence.sigmoid()
    focal = torch.where(
        right,
        (1 - p).square() * functional.softplus(-evidence),
        torch.where(wrong, p.square() * functional.softplus(evidence), 0),
    )
    return focal.sum() / right.sum().clamp_min(1)
