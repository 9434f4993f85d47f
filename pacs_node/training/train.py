"""From a data set and a recipe to the weights of the best epoch. Reads from top to bottom."""

from __future__ import annotations

import csv
import itertools
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

from pacs_node.analyze.architectures import ARCHITECTURES, ActivationMap
from pacs_node.errors import ConfigError
from pacs_node.training import augment, losses, pretrained
from pacs_node.training import recipe as recipes
from pacs_node.training.augment import Square
from pacs_node.training.dataset import Sample
from pacs_node.training.recipe import BEST, Optimization, Recipe

CHECKPOINT = "checkpoint.pt"
LARGEST_GRADIENT = 5.0
"""Longer ones are cut to this norm."""


def train(
    samples: Sequence[Sample], recipe: Recipe, run: Path, console: Console, network: nn.Module | None = None
) -> Path:
    """Train and keep the epoch of the best AUC on the validation split; gives the path of its weights.

    `run` receives `best.safetensors`, `log.csv`, `recipe.json`, TensorBoard's events, and after each epoch a
    checkpoint from which the same call goes on, to the same weights as without a break. `network` replaces
    the recipe's, for studies of its shape. Raises ConfigError where the run was begun with another recipe,
    InputError for an image that cannot be read, ModelError where the first weights do not fit.
    """
    options = recipe.optimization
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    run.mkdir(parents=True, exist_ok=True)
    recipes.record(run, recipe)

    squares = {split: _squares(samples, split, recipe, console) for split in ("train", "val")}
    network = network or ARCHITECTURES[recipe.network.architecture].build()
    if options.localization and not isinstance(network, ActivationMap):
        raise ConfigError("optimization.localization: this architecture has no map of evidence to train")
    if recipe.network.pretrained:
        pretrained.initialize(network, recipe.network.pretrained)
    for module in network.modules():
        if recipe.network.dropout is not None and isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = recipe.network.dropout
    network.to(device).to(memory_format=torch.channels_last)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(options.average))  # type: ignore[no-untyped-call]
    views = augment.Views(squares["train"], recipe)
    weights = views.class_weights.to(device)
    per_epoch = len(views.order(0)) // options.batch
    optimizer = _optimizer(network, options)
    schedule = _schedule(optimizer, options, per_epoch * options.epochs)

    first, best, waited = 1, 0.0, 0
    if (run / CHECKPOINT).is_file():
        state = torch.load(run / CHECKPOINT, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first, best, waited = state["epoch"] + 1, state["best"], state["waited"]
        console.print(f"going on after epoch {state['epoch']}")

    with SummaryWriter(run, purge_step=first) as board:
        for epoch in range(first, options.epochs + 1):
            if options.patience and waited >= options.patience:
                console.print(f"stopped: no better AUC in {waited} epochs")
                break
            started = time.monotonic()
            # From the epoch alone, so that a resumed run draws what an uninterrupted one does.
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
                    loss, logits = losses.of_batch(network, images, labels, marks, options, weights)
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
            truth = np.array([square.positive for square in squares["val"]])
            figures: dict[str, float] = {
                "loss": float(np.mean(history)),
                "accuracy": right / seen,
                "val_accuracy": float(((margin > 0) == truth).mean()),
                "val_auc": float(roc_auc_score(truth, margin)),
                "learning_rate": float(schedule.get_last_lr()[0]),
                "seconds": time.monotonic() - started,
            }
            _record(run / "log.csv", board, epoch, figures)
            console.print(f"epoch {epoch}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
            waited += 1
            if figures["val_auc"] > best:
                best, waited = figures["val_auc"], 0
                save_file(_plain(averaged.module), run / BEST)
            state = {
                "network": network.state_dict(),
                "averaged": averaged.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "epoch": epoch,
                "best": best,
                "waited": waited,
            }
            torch.save(state, run / f"{CHECKPOINT}.part")
            (run / f"{CHECKPOINT}.part").replace(run / CHECKPOINT)
    return run / BEST


def margins(
    network: nn.Module, inputs: Iterable[NDArray[np.float32]], device: torch.device, batch: int = 16
) -> NDArray[np.float64]:
    """The logit of positive minus that of negative, for inputs (size, size) of 0..1: (n,)."""
    network.eval()
    found = []
    remaining = iter(inputs)
    with torch.inference_mode():
        while some := list(itertools.islice(remaining, batch)):
            images = torch.from_numpy(np.stack(some)[:, None]).to(device)
            logits = network(images.contiguous(memory_format=torch.channels_last))
            found.append((logits[:, 1] - logits[:, 0]).double().cpu().numpy())
    return np.concatenate(found)


def _squares(samples: Sequence[Sample], split: str, recipe: Recipe, console: Console) -> list[Square]:
    """The images of a split, decoded once."""
    size, stretch = recipe.input.size, recipe.input.stretch
    chosen = [sample for sample in samples if sample.split == split]
    with ThreadPoolExecutor(recipe.optimization.threads) as pool:
        decoded = pool.map(lambda sample: augment.square(sample, size, stretch), chosen)
        squares = list(track(decoded, f"reading {split}", total=len(chosen), console=console, transient=True))
    console.print(f"{split}: {len(squares)} images, {sum(square.positive for square in squares)} positive")
    return squares


def _optimizer(network: nn.Module, options: Optimization) -> torch.optim.Optimizer:
    parameters = list(network.parameters())
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, options.learning_rate, momentum=0.9, weight_decay=options.l2)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, options.learning_rate, weight_decay=options.l2)


def _schedule(
    optimizer: torch.optim.Optimizer, options: Optimization, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    schedulers = torch.optim.lr_scheduler
    match options.schedule:
        case "one-cycle":
            return schedulers.OneCycleLR(optimizer, options.learning_rate, total_steps=steps, pct_start=0.1)
        case "cosine":
            return schedulers.CosineAnnealingLR(optimizer, steps)
        case "step":
            return schedulers.MultiStepLR(optimizer, [steps // 2, steps * 3 // 4])
        case "constant":
            return schedulers.ConstantLR(optimizer, factor=1)


def _record(path: Path, board: SummaryWriter, epoch: int, figures: dict[str, float]) -> None:
    """One epoch's figures into the log and onto TensorBoard."""
    begun = path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        log = csv.writer(file)
        if not begun:
            log.writerow(["epoch", *figures])
        log.writerow([epoch, *(f"{value:.6g}" for value in figures.values())])
    for name, value in figures.items():
        board.add_scalar(name, value, epoch)


def _plain(network: nn.Module) -> dict[str, Tensor]:
    """The weights as safetensors wants them."""
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
