"""The paper's tables, and the share of its 99.8 % that is leakage.

The public "fracture" folders hold rotated copies of the same radiographs. Here `paper-cnn` is trained twice
at the paper's settings on the very same files, originals and rotated copies, as many fractured as not: once
with all copies of a radiograph (and of its group) on one side of the split, once with the files dealt out at
random, as in a folder per class. Nothing else differs.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from pacs_node.analyze.architectures import PaperCnn
from pacs_node.analyze.package import Input
from pacs_node.training import augment, dataset
from pacs_node.training import train as training
from pacs_node.training.dataset import Sample
from pacs_node.training.recipe import Augmentation, Network, Optimization, Recipe

TABLE = {
    0: (4.3960, 0.6025, 0.5337),
    10: (0.0868, 0.9692, 0.9770),
    20: (0.0088, 0.9992, 0.9980),
    28: (0.0070, 0.9996, 0.9982),
    49: (0.0087, 0.9991, 0.9979),
}
"""The paper's Table I: epoch, and its training loss, training accuracy and test accuracy."""
SETTINGS = Recipe(
    input=Input(size=150, stretch=(0.0, 100.0)),
    network=Network(architecture="paper-cnn"),
    optimization=Optimization(
        epochs=50,
        batch=32,
        optimizer="adam",
        learning_rate=0.001,
        schedule="constant",
        l2=0.0,
        balance="none",
        average=0.0,
    ),
    augmentation=Augmentation(mirror=False, rotation=0, scale=0, shift=0, gamma=0),
)


def main(
    data: Annotated[Path, typer.Option(exists=True, file_okay=False)] = Path("../shared/data/fracatlas"),
    epochs: Annotated[int, typer.Option(min=1, help="The paper's are 50.")] = 50,
    images: Annotated[int, typer.Option(min=10, help="Radiographs, half of them fractured.")] = 400,
    copies: Annotated[int, typer.Option(min=0, help="Rotated copies of each image.")] = 4,
    angle: Annotated[float, typer.Option(help="The copies are turned by up to this, in degrees.")] = 15.0,
    study: Annotated[bool, typer.Option(help="Instead: learning rate, batch size and filters.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the figures here (JSON).")] = None,
) -> None:
    """Train and print."""
    console = Console(highlight=False)
    recipe = _with(SETTINGS, epochs=epochs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = _rotated(_balanced(dataset.load(data), images), copies, angle, folder, console)
        if study:
            results = _study(files, recipe, folder, console)
        else:
            results = {
                "copies on both sides": _run(_dealt(files), recipe, folder / "leaking", console),
                "copies on one side": _run(files, recipe, folder / "clean", console),
            }
            _table_i(results, console)
    _summary(results, console)
    if out is not None:
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _balanced(samples: Sequence[Sample], images: int) -> list[Sample]:
    """`images` at most, as many positive as negative ones in each split, which keep their shares."""
    rng = np.random.default_rng(1)
    chosen = []
    share = min(1.0, images / (2 * sum(sample.positive for sample in samples)))
    for split in ("train", "val", "test"):
        by_label = [
            [s for s in samples if s.split == split and s.positive is label] for label in (False, True)
        ]
        fewest = round(share * min(map(len, by_label)))
        chosen += [s for group in by_label for s in rng.permutation(np.array(group, object))[:fewest]]
    return chosen


def _rotated(
    samples: Sequence[Sample], copies: int, angle: float, folder: Path, console: Console
) -> list[Sample]:
    """Each image and copies of it turned by up to `angle` either way, as files."""
    rng = np.random.default_rng(2)
    files = []
    for number, sample in enumerate(track(samples, "rotating", console=console, transient=True)):
        image = dataset.display(sample.path)
        rows, columns = image.shape
        for copy in range(copies + 1):
            degrees = float(rng.uniform(-angle, angle)) if copy else 0.0
            turn = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), degrees, 1.0)
            path = folder / f"{number}-{copy}.png"
            cv2.imwrite(str(path), np.round(cv2.warpAffine(image, turn, (columns, rows)) * 255))
            files.append(replace(sample, path=path, marks=()))
    return files


def _dealt(files: Sequence[Sample]) -> list[Sample]:
    """The same files at random in splits of the same sizes."""
    order = np.random.default_rng(3).permutation(len(files))
    return [replace(sample, split=files[place].split) for sample, place in zip(files, order, strict=True)]


def _run(
    files: Sequence[Sample],
    recipe: Recipe,
    run: Path,
    console: Console,
    filters: tuple[int, ...] = (32, 64, 128),
) -> dict[str, object]:
    """Train; the figures of each epoch, and of the best one (by AUC on validation) on the test split."""
    weights = training.train(files, recipe, run, console, PaperCnn(filters))
    with (run / "log.csv").open(encoding="utf-8") as file:
        epochs = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    network = PaperCnn(filters)
    network.load_state_dict(load_file(weights))
    squares = [
        augment.square(sample, recipe.input.size, recipe.input.stretch)
        for sample in files
        if sample.split == "test"
    ]
    inputs = (square.input for square in squares)
    margin = training.margins(network, inputs, torch.device("cpu"))
    truth = np.array([square.positive for square in squares])
    return {
        "images": {split: sum(s.split == split for s in files) for split in ("train", "val", "test")},
        "epochs": epochs,
        "test": {
            "accuracy": float(((margin > 0) == truth).mean()),
            "sensitivity": float((margin[truth] > 0).mean()),
            "specificity": float((margin[~truth] <= 0).mean()),
            "auc": float(roc_auc_score(truth, margin)),
        },
    }


def _study(
    files: Sequence[Sample], recipe: Recipe, folder: Path, console: Console
) -> dict[str, dict[str, object]]:
    """Learning rate, batch size and filters around the paper's settings, on the clean split."""
    rates = {f"learning rate {r:g}": _with(recipe, learning_rate=r) for r in (0.0001, 0.001, 0.01)}
    batches = {f"batch {b}": _with(recipe, batch=b) for b in (64, 128, 256)}
    results = {
        name: _run(files, changed, folder / name, console) for name, changed in {**rates, **batches}.items()
    }
    for filters in ((16, 32, 64), (32, 64, 128, 256)):
        results[f"filters {filters}"] = _run(files, recipe, folder / str(filters), console, filters)
    return results


def _with(recipe: Recipe, **changed: object) -> Recipe:
    return recipe.model_copy(update={"optimization": recipe.optimization.model_copy(update=changed)})


def _table_i(results: dict[str, dict[str, object]], console: Console) -> None:
    table = Table(title="Table I: training loss, training accuracy, accuracy on images kept apart")
    for heading in ("epoch", "paper", *results):
        table.add_column(heading, justify="right")
    for epoch, paper in TABLE.items():
        cells = [" ".join(f"{value:.4f}" for value in paper)]
        for result in results.values():
            epochs = result["epochs"]
            assert isinstance(epochs, list)
            row = epochs[epoch] if epoch < len(epochs) else None
            cells.append(f"{row['loss']:.4f} {row['accuracy']:.4f} {row['val_accuracy']:.4f}" if row else "-")
        table.add_row(str(epoch), *cells)
    console.print(table)


def _summary(results: dict[str, dict[str, object]], console: Console) -> None:
    table = Table(title="Best epoch by AUC on validation, on the test split (the paper: 0.9985, 0.9982)")
    for heading in ("", "images", "accuracy", "sensitivity", "specificity", "AUC"):
        table.add_column(heading, justify="right")
    for name, result in results.items():
        test, images = result["test"], result["images"]
        assert isinstance(test, dict)
        assert isinstance(images, dict)
        values = (test[key] for key in ("accuracy", "sensitivity", "specificity", "auc"))
        table.add_row(name, " + ".join(map(str, images.values())), *(f"{value:.4f}" for value in values))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
