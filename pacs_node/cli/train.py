"""`train` and `models`: make a model package, and list the packages that are here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pacs_node.cli.context import print_json, print_table, working
from pacs_node.errors import InputError


def train(
    data: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Data set: a table, a folder per class, or DICOM."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new model package; its name becomes the id.")],
    recipe: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The run's settings (TOML); without: the default."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Labels of a folder of DICOM (CSV).")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder for the run's log and checkpoints.")] = Path("runs"),
    positive: Annotated[
        str | None, typer.Option(help="Folder or label of what is looked for, where it has another name.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only examine the data set.")] = False,
    mend: Annotated[
        bool, typer.Option("--mend", help="Leave out of train what val or test have too, and go on.")
    ] = False,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Train although images are in several splits.")
    ] = False,
    ensemble: Annotated[
        list[str] | None,
        typer.Option(help="Another run whose best weights join the package; may be repeated."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --check: print what was found as JSON.")
    ] = False,
    publish_only: Annotated[
        bool, typer.Option("--publish-only", help="Train nothing: publish the run's best weights.")
    ] = False,
) -> None:
    """Examine a data set, train a model on it, and write the model's package with card and figures.

    An interrupted run goes on when the same command is given again. The test split is evaluated once, at the
    end; nothing is chosen by it.

    Example: pacs-node train --data fracatlas --recipe recipe.toml --out models/my-model
    """
    import shutil

    from pacs_node.analyze import package
    from pacs_node.analyze.classifier import Classifier
    from pacs_node.training import card, dataset, doctor, evaluate, publish
    from pacs_node.training import recipe as recipes
    from pacs_node.training.train import train as run_training

    console = Console(highlight=False, stderr=as_json)
    chosen = recipes.load(recipe)
    samples = dataset.load(data, labels=labels, positive=positive)
    if not publish_only:
        report = doctor.examine(samples, console)
        report.show(console)
        if as_json:
            print_json(report.as_dict())
        if check:
            raise typer.Exit(1 if report.leaks else 0)
        if report.leaks and not (mend or allow_leaks):
            raise InputError(
                f"{data}: {len(report.leaks)} leaks between splits or labels (see above) would make every "
                "figure a lie; correct the split, or say --mend or --allow-leaks"
            )
        samples = report.mended() if mend else samples
        run_training(samples, chosen, runs / out.name, console)
    manifest = publish.publish(samples, [runs / name for name in (out.name, *(ensemble or ()))], out, chosen)
    if recipe is not None:
        shutil.copyfile(recipe, out / "recipe.toml")
    classifier = Classifier(package.load(out))
    evaluations = [
        evaluate.evaluate(classifier, [sample for sample in samples if sample.split == split], split, console)
        for split in ("val", "test")
    ]
    card.write(out, manifest, evaluations)
    for evaluation in evaluations:
        console.print(f"{evaluation.metrics.name}: AUC {evaluation.metrics.auc}")
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

    with working("reading the packages"):
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
