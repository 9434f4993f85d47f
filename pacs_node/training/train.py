"""From a data set and ImageNet weights to the weights of the best epoch. Reads from top to bottom."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pacs_node.analyze.architectures import ARCHITECTURES
from pacs_node.errors import ModelError
from pacs_node.training import dataset

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Options:
    """What a run depends on, besides its data."""

    architecture: str = "squeezenet1_0"
    input_size: int = 256
    stretch: tuple[float, float] = (1.0, 99.0)
    """Percentiles of the letterboxed image that become 0 and 1."""
    epochs: int = 16
    batch: int = 32
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    warmup: float = 0.1
    """Part of all steps in which the learning rate rises; it falls as a cosine afterwards."""
    average: float = 0.99
    """Decay of the exponential moving average of the weights, which is what is evaluated and kept."""
    rotation: float = 20.0
    """Augmentation: largest rotation in degrees."""
    scale: float = 0.15
    """Augmentation: largest change of size, as part of it."""
    shift: float = 0.06
    """Augmentation: largest shift, as part of the input size."""
    gamma: float = 0.3
    """Augmentation: largest natural logarithm of the exponent laid on the brightness."""
    seed: int = 1
    threads: int = 2


def train(data: Path, pretrained: Path, run: Path, options: Options, console: Console) -> Path:
    """Train and keep the epoch of the best AUC on the validation split; gives the path of its weights.

    `pretrained` are weights of the same architecture as safetensors; see `initialize`. `run` receives
    `best.safetensors` (rewritten at each better epoch), `log.csv` and `options.json`, so that an interrupted
    run has its best model. Raises InputError for a bad data set, ModelError where `pretrained` does not fit.
    """
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    run.mkdir(parents=True, exist_ok=True)
    (run / "options.json").write_text(json.dumps(asdict(options), indent=2) + "\n", encoding="utf-8")

    splits = {}
    for split in ("train", "val"):
        samples = dataset.load(data, split)
        inputs = dataset.network_inputs(samples, options.input_size, options.stretch)
        splits[split] = inputs, np.array([sample.fractured for sample in samples], np.int64)
        console.print(f"{split}: {len(samples)} images, {int(splits[split][1].sum())} fractured")
    inputs, labels = splits["train"]

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = ARCHITECTURES[options.architecture].build()
    initialize(network, pretrained)
    # A folded ImageNet filter bank is as good for bones, and its gradient is a third of a step's time.
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.requires_grad_(False)
    network.to(device).to(memory_format=torch.channels_last)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(options.average))  # type: ignore[no-untyped-call]
    frequency = np.bincount(labels, minlength=2) / len(labels)
    loss_of = nn.CrossEntropyLoss(weight=torch.tensor(0.5 / frequency, dtype=torch.float32, device=device))
    optimizer = torch.optim.AdamW(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
    )
    steps = options.epochs * (len(inputs) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=steps, pct_start=options.warmup
    )

    best = 0.0
    with (run / "log.csv").open("w", newline="", encoding="utf-8", buffering=1) as file:
        log = csv.writer(file)
        log.writerow(["epoch", "loss", "val_auc", "seconds"])
        for epoch in range(1, options.epochs + 1):
            started = time.monotonic()
            network.train()
            losses = []
            batches = _batches(inputs, labels, options, rng)
            for images, targets in track(
                batches, f"epoch {epoch}", total=len(inputs) // options.batch, console=console, transient=True
            ):
                with torch.autocast(device.type, torch.bfloat16):
                    logits = network(images.to(device, memory_format=torch.channels_last))
                loss = loss_of(logits.float(), targets.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                averaged.update_parameters(network)
                losses.append(loss.item())
            margin = margins(averaged.module, splits["val"][0], device)
            auc = float(roc_auc_score(splits["val"][1], margin))
            seconds = time.monotonic() - started
            log.writerow([epoch, f"{np.mean(losses):.4f}", f"{auc:.4f}", f"{seconds:.0f}"])
            console.print(f"epoch {epoch}: loss {np.mean(losses):.4f}, val AUC {auc:.4f}, {seconds:.0f} s")
            if auc > best:
                best = auc
                save_file(_plain(averaged.module), run / "best.safetensors")
    return run / "best.safetensors"


def initialize(network: nn.Module, pretrained: Path) -> None:
    """Fill an untrained one-channel network with the weights of a model package or with RGB ones.

    Of a package, all is taken over. Of ImageNet weights the head is not: it stays untrained, and the first
    convolution takes over the ImageNet normalization and adds its three input channels up, so that it answers
    to a gray image x in 0..1 as the RGB network does to (x, x, x) normalized; exact, as it has no padding.
    Raises ModelError where the file does not fit.
    """
    state = load_file(pretrained)
    own = network.state_dict()
    if {key: value.shape for key, value in state.items()} == {k: value.shape for k, value in own.items()}:
        network.load_state_dict(state)
        return
    name, first = next((name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d))
    if any(first.padding):
        raise ModelError(
            f"{name} pads its input: the ImageNet normalization cannot be folded into it exactly"
        )
    weight, bias = f"{name}.weight", f"{name}.bias"
    std, mean = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_STD, IMAGENET_MEAN))
    try:
        state[bias] = state[bias] - (state[weight] * mean / std).sum(dim=(1, 2, 3))
        state[weight] = (state[weight] / std).sum(dim=1, keepdim=True)
        head = {key for key in own if key.startswith("classifier.")}
        missing, unexpected = network.load_state_dict(
            {key: value for key, value in state.items() if not key.startswith("classifier.")}, strict=False
        )
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{pretrained}: not weights of this architecture for RGB images: {error}") from None
    if unexpected or set(missing) != head:
        raise ModelError(f"{pretrained}: not weights of this architecture; {unexpected} is not in it")


def margins(
    network: nn.Module, inputs: NDArray[np.float32], device: torch.device, batch: int = 32
) -> NDArray[np.float64]:
    """The logit of fractured minus that of not fractured, for inputs (n, size, size): (n,)."""
    network.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(inputs), batch):
            images = torch.from_numpy(inputs[start : start + batch, None]).to(device)
            logits = network(images.contiguous(memory_format=torch.channels_last)).double().cpu().numpy()
            found.append(logits[:, 1] - logits[:, 0])
    return np.concatenate(found)


def augment(image: NDArray[np.float32], options: Options, rng: np.random.Generator) -> NDArray[np.float32]:
    """A mirrored, turned, resized, shifted, brighter or darker copy of a network input, 0..1."""
    size = image.shape[0]
    scale = np.exp(rng.uniform(-options.scale, options.scale))
    angle = rng.uniform(-options.rotation, options.rotation)
    centre = (size - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), float(angle), float(scale))
    matrix[:, 2] += rng.uniform(-options.shift, options.shift, 2) * size
    for axis in (0, 1):
        if rng.random() < 0.5:
            matrix[axis] = -matrix[axis]
            matrix[axis, 2] += size - 1
    moved = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)
    return np.power(moved, np.float32(np.exp(rng.uniform(-options.gamma, options.gamma))))


def _batches(
    inputs: NDArray[np.float32], labels: NDArray[np.int64], options: Options, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: augmented images (batch, 1, size, size) and their labels, without the last, odd batch."""
    order = rng.permutation(len(inputs))
    for start in range(0, len(order) - options.batch + 1, options.batch):
        chosen = order[start : start + options.batch]
        images = np.stack([augment(inputs[index], options, rng) for index in chosen])
        yield torch.from_numpy(images[:, None]), torch.from_numpy(labels[chosen])


def _plain(network: nn.Module) -> dict[str, Tensor]:
    """The weights as safetensors wants them."""
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
