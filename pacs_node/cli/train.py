"""`train` and `models`: make a model package, and list the packages that are here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pacs_node.cli.context import print_json, print_table


def train(
    data: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Data set: manifest.csv, images/, regions.json."),
    ],
    pretrained: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="ImageNet's or a package's weights.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new model package; its name becomes the id.")],
    name: Annotated[str, typer.Option(help="The model's name, as reports give it.")],
    version: Annotated[str, typer.Option(help="The model's version, as reports give it.")] = "1.0.0",
    runs: Annotated[Path, typer.Option(help="Folder for the run's log and checkpoint.")] = Path("runs"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training split.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=0, help="Its highest value.")] = 3e-4,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    publish_only: Annotated[
        bool, typer.Option("--publish-only", help="Train nothing: publish the run's best weights.")
    ] = False,
    data_name: Annotated[str, typer.Option(help="Card: the data set's name.")] = "not stated",
    data_license: Annotated[str, typer.Option(help="Card: the data set's licence.")] = "not stated",
    citation: Annotated[str, typer.Option(help="Card: the data set's citation.")] = "not stated",
    pretrained_name: Annotated[str, typer.Option(help="Card: the first weights' origin.")] = "not stated",
    limit: Annotated[
        list[str] | None, typer.Option(help="Card: what is known not to hold; may be repeated.")
    ] = None,
) -> None:
    """Train a model, calibrate it, and write its package with card and figures.

    The test split is evaluated once, at the end; nothing is chosen by it.

    Example: pacs-node train --data fracatlas --pretrained squeezenet1_0.safetensors --out models/m --name M
    """
    from pacs_node.analyze import package
    from pacs_node.analyze.classifier import Classifier
    from pacs_node.training import card, evaluate, publish
    from pacs_node.training.train import Options
    from pacs_node.training.train import train as run_training

    console = Console(highlight=False)
    options = Options(epochs=epochs, learning_rate=learning_rate, seed=seed, threads=threads)
    run = runs / out.name
    weights = run / "best.safetensors"
    if not publish_only:
        weights = run_training(data, pretrained, run, options, console)
    provenance = package.Provenance(
        data=data_name,
        data_license=data_license,
        citation=citation,
        pretrained=pretrained_name,
        limits=tuple(limit or ()),
    )
    manifest = publish.publish(data, weights, out, name, version, options, provenance)
    classifier = Classifier(package.load(out))
    evaluations = [evaluate.evaluate(classifier, data, split, console) for split in ("val", "test")]
    card.write(out, manifest, evaluations)
    for evaluation in evaluations:
        console.print(f"{evaluation.metrics.split}: AUC {evaluation.metrics.auc}")
    console.print(f"wrote {out}")


def models(
    folder: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of model packages.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the model packages that can be served.

    Example: pacs-node models
    """
    import json

    from pacs_node import __file__ as here
    from pacs_node.analyze import package

    inside = Path(here).parent / "models"
    folder = folder or (inside if inside.is_dir() else Path(here).parent.parent / "models")
    rows = []
    for path in sorted(path.parent for path in folder.glob(f"*/{package.MANIFEST}")):
        manifest = package.load(path).manifest
        measured = path / "metrics.json"
        metrics = json.loads(measured.read_text(encoding="utf-8")) if measured.is_file() else {}
        rows.append(
            {
                "id": manifest.id,
                "name": manifest.name,
                "version": manifest.version,
                "architecture": manifest.architecture,
                "threshold": manifest.threshold,
                "test_auc": metrics.get("test", {}).get("auc", {}).get("value"),
                "path": str(path),
            }
        )
    if as_json:
        print_json(rows)
        return
    headings = {
        "id": "Model",
        "name": "Name",
        "version": "Version",
        "threshold": "Threshold",
        "test_auc": "Test AUC",
        "path": "Path",
    }
    print_table(rows, headings, f"no model package in {folder}")
