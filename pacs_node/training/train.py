"""Training: from a data set and a recipe to the weights of the best epoch."""

from __future__ import annotations

import csv
import itertools
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

from pacs_node.analyze.architectures import ARCHITECTURES, ActivationMap
from pacs_node.errors import ConfigError, ModelError
from pacs_node.training import augment
from pacs_node.training import recipe as recipes
from pacs_node.training.dataset import Sample
from pacs_node.training.recipe import BEST, Optimization, Recipe

CHECKPOINT = "checkpoint.pt"
LARGEST_GRADIENT = 5.0
"""Gradients are clipped to this norm."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def train(
    samples: Sequence[Sample], recipe: Recipe, run: Path, console: Console, network: nn.Module | None = None
) -> Path:
    """Train, keep the epoch with the best AUC on the validation split, and return the path of its weights.

    `run` receives `best.safetensors`, `log.csv`, `recipe.json`, TensorBoard's events, and after each epoch a
    checkpoint from which the same call continues, to the same weights as without an interruption. `network`
    replaces the recipe's. Raises ConfigError if the run was started with another recipe, InputError for an
    image that cannot be read, ModelError if the initial weights do not fit.
    """
    options = recipe.optimization
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    run.mkdir(parents=True, exist_ok=True)
    recipes.record(run, recipe)

    squares = {split: read_squares(samples, split, recipe, console) for split in ("train", "val")}
    truth = np.array([square.positive for square in squares["val"]])
    network = network or ARCHITECTURES[recipe.network.architecture].build()
    if options.localization and not isinstance(network, ActivationMap):
        raise ConfigError("optimization.localization: this architecture has no map of evidence to train")
    if recipe.network.pretrained:
        initialize(network, recipe.network.pretrained)
    for module in network.modules():
        if recipe.network.dropout is not None and isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = recipe.network.dropout
    network.to(device).to(memory_format=torch.channels_last)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(options.average))  # type: ignore[no-untyped-call]
    views = augment.Views(squares["train"], recipe)
    weights = views.class_weights.to(device)
    per_epoch = len(views.order(0)) // options.batch
    optimizer, schedule = optimization(network, options, per_epoch * options.epochs)
    saved: dict[str, Any] = {
        "network": network,
        "averaged": averaged,
        "optimizer": optimizer,
        "schedule": schedule,
    }

    first, best, waited = 1, 0.0, 0
    if (run / CHECKPOINT).is_file():
        state = torch.load(run / CHECKPOINT, map_location=device, weights_only=True)
        for name, part in saved.items():
            part.load_state_dict(state[name])
        first, best, waited = state["epoch"] + 1, state["best"], state["waited"]
        console.print(f"continuing after epoch {state['epoch']}")

    with SummaryWriter(run, purge_step=first) as board:
        for epoch in range(first, options.epochs + 1):
            if options.patience and waited >= options.patience:
                console.print(f"stopped: no better AUC in {waited} epochs")
                break
            started = time.monotonic()
            # Seeded by the epoch, so that a resumed run draws the same numbers as an uninterrupted one.
            torch.manual_seed(options.seed * 1_000_003 + epoch)
            network.train()
            history: list[float] = []
            right = seen = 0
            for batch in track(
                views.batches(epoch, device),
                f"epoch {epoch}",
                total=per_epoch,
                console=console,
                transient=True,
            ):
                images, labels, marks = (part.to(device, non_blocking=True) for part in batch)
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    loss, logits = batch_loss(network, images, labels, marks, options, weights)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
                optimizer.step()
                schedule.step()
                averaged.update_parameters(network)
                history.append(loss.item())
                right += int((logits.argmax(1) == labels).sum())
                seen += len(labels)
            margin = margins(averaged.module, (square.input for square in squares["val"]), device)
            figures = {
                "loss": float(np.mean(history)),
                "accuracy": right / seen,
                "val_accuracy": float(((margin > 0) == truth).mean()),
                "val_auc": float(roc_auc_score(truth, margin)),
                "learning_rate": float(schedule.get_last_lr()[0]),
                "seconds": time.monotonic() - started,
            }
            with (run / "log.csv").open("a", newline="", encoding="utf-8") as file:
                log = csv.writer(file)
                if not file.tell():
                    log.writerow(["epoch", *figures])
                log.writerow([epoch, *(f"{value:.6g}" for value in figures.values())])
            for name, value in figures.items():
                board.add_scalar(name, value, epoch)
            console.print(f"epoch {epoch}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
            waited += 1
            if figures["val_auc"] > best:
                best, waited = figures["val_auc"], 0
                kept = averaged.module.state_dict()
                save_file({k: v.detach().cpu().contiguous() for k, v in kept.items()}, run / BEST)
            state = {name: part.state_dict() for name, part in saved.items()}
            state |= {"epoch": epoch, "best": best, "waited": waited}
            torch.save(state, run / f"{CHECKPOINT}.part")
            (run / f"{CHECKPOINT}.part").replace(run / CHECKPOINT)
    return run / BEST


def read_squares(
    samples: Sequence[Sample], split: str, recipe: Recipe, console: Console
) -> list[augment.Square]:
    """The decoded images of a split."""
    size, stretch = recipe.input.size, recipe.input.stretch
    chosen = [sample for sample in samples if sample.split == split]
    with ThreadPoolExecutor(recipe.optimization.threads) as pool:
        decoded = pool.map(lambda sample: augment.square(sample, size, stretch), chosen)
        squares = list(track(decoded, f"reading {split}", total=len(chosen), console=console, transient=True))
    console.print(f"{split}: {len(squares)} images, {sum(square.positive for square in squares)} positive")
    return squares


def initialize(network: nn.Module, pretrained: Path) -> None:
    """Load the weights of a model package, or of an RGB network, into an untrained one-channel network.

    The weights of a package are used whole. Of RGB (ImageNet) weights the head is left out, and the first
    convolution is folded: it includes the ImageNet normalization and sums its three input channels, so that a
    gray image x in 0..1 gives the features of the normalized RGB image (x, x, x), except at padded borders.
    Raises ModelError if the file does not fit.
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


def batch_loss(
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
        local = localization_loss(evidence, marks)
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


def localization_loss(evidence: Tensor, marks: Tensor) -> Tensor:
    """Focal loss of the cells' logits (N, rows, columns) against marks (N, side, side), per marked cell.

    Cells at a mark's outline are ignored. A mark too small to fill any cell counts for the cell with the
    largest part of it (Lin et al. 2017, arXiv 1708.02002; gamma 2).
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
    p = evidence.sigmoid()
    focal = torch.where(
        right,
        (1 - p).square() * functional.softplus(-evidence),
        torch.where(near, 0, p.square() * functional.softplus(evidence)),
    )
    return focal.sum() / right.sum().clamp_min(1)


def margins(
    network: nn.Module, inputs: Iterable[NDArray[np.float32]], device: torch.device, batch: int = 16
) -> NDArray[np.float64]:
    """The positive logit minus the negative one, for inputs (size, size) of 0..1: (n,)."""
    network.eval()
    parts = []
    remaining = iter(inputs)
    with torch.inference_mode():
        while some := list(itertools.islice(remaining, batch)):
            images = torch.from_numpy(np.stack(some)[:, None]).to(device)
            logits = network(images.contiguous(memory_format=torch.channels_last))
            parts.append((logits[:, 1] - logits[:, 0]).double().cpu().numpy())
    return np.concatenate(parts)


def optimization(
    network: nn.Module, options: Optimization, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimizer, and the schedule of its learning rate over `steps` steps."""
    parameters, rate = list(network.parameters()), options.learning_rate
    optimizer: torch.optim.Optimizer
    if options.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=options.l2)
    else:
        kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(parameters, rate, weight_decay=options.l2)
    schedulers = torch.optim.lr_scheduler
    match options.schedule:
        case "one-cycle":
            return optimizer, schedulers.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
        case "cosine":
            return optimizer, schedulers.CosineAnnealingLR(optimizer, steps)
        case "step":
            return optimizer, schedulers.MultiStepLR(optimizer, [steps // 2, steps * 3 // 4])
        case "constant":
            return optimizer, schedulers.ConstantLR(optimizer, factor=1)
