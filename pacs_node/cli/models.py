"""Commands about model packages: `train`, `evaluate` and `models`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from pacs_node import __file__ as package_file
from pacs_node.cli.context import JsonOption, Table, console, emit, working
from pacs_node.errors import ConfigError, InputError


def folder_option(help: str) -> Any:
    return Option(exists=True, file_okay=False, help=help)


def file_option(help: str) -> Any:
    return Option(exists=True, dir_okay=False, help=help)


def train(
    data: Annotated[Path, folder_option("Data set: a table, a folder per class, or DICOM.")],
    out: Annotated[Path | None, Option(help="Folder of the new model package, named as its id.")] = None,
    recipe: Annotated[Path | None, file_option("Settings of the run (TOML); default: the built-in.")] = None,
    labels: Annotated[Path | None, file_option("Labels of a folder of DICOM files (CSV).")] = None,
    runs: Annotated[Path, Option(help="Folder for the run's log and checkpoints.")] = Path("runs"),
    positive: Annotated[str | None, Option(help="Folder or label of the positive class.")] = None,
    check: Annotated[bool, Option("--check", help="Only examine the data set; needs no --out.")] = False,
    mend: Annotated[bool, Option("--mend", help="Leave what leaks out of the earlier split.")] = False,
    looks: Annotated[Path | None, Option(help="Only draw the randomised looks (.png, .jpg).")] = None,
    allow_leaks: Annotated[bool, Option("--allow-leaks", help="Train in spite of leaks.")] = False,
    ensemble: Annotated[
        list[str] | None, Option(help="Another run that joins the package; may be repeated.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="With --check: print the result as JSON.")] = False,
    publish_only: Annotated[
        bool, Option("--publish-only", help="Do not train; publish the run's best weights.")
    ] = False,
) -> None:
    """Examine a data set, train a model on it, and write its package with card and figures.

    An interrupted run continues when the same command is given again. The test split is evaluated once, at
    the end; nothing is chosen by it.

    Example: pacs-node train --data fracatlas --recipe recipe.toml --out models/my-model
    """
    if not (out or check or looks):
        raise typer.BadParameter("--out is needed, except with --check or --looks")
    from pacs_node.analyze import package
    from pacs_node.analyze.classifier import Classifier
    from pacs_node.training import data_doctor, dataset, evaluate, figures, model_card, publish
    from pacs_node.training import recipe as recipes
    from pacs_node.training.train import train as run_training

    terminal = console(stderr=as_json)
    out = out or Path()
    chosen = recipes.load(recipe)
    samples = dataset.load(data, labels=labels, positive=positive, names=chosen.labels)
    if looks:
        figures.draw_looks([sample for sample in samples if sample.split == "train"]).savefig(looks, dpi=110)
        return
    is_default = not positive or positive.lower() in dataset.Classes(chosen.labels, None).positives
    if not (check or is_default or "finding" in chosen.model_fields_set):
        raise ConfigError(
            f"--positive {positive}: the recipe has no [finding], and the default one is for "
            f"{chosen.labels[1]!r}; state the code and phrases of the finding in the recipe"
        )
    if check or not publish_only:
        report = data_doctor.examine(samples, terminal)
        report.show(terminal)
        if as_json:
            emit(report.as_dict(), as_json)
        if check:
            raise typer.Exit(1 if report.leaks else 0)
        if report.leaks and not (mend or allow_leaks):
            raise InputError(
                f"{data}: {len(report.leaks)} leaks between splits or labels (see above) would make every "
                "figure too good; correct the split, or use --mend or --allow-leaks"
            )
        samples = report.mended() if mend else samples
        run_training(samples, chosen, runs / out.name, terminal)
    manifest = publish.publish(samples, [runs / name for name in (out.name, *(ensemble or ()))], out, chosen)
    if recipe is not None:
        shutil.copyfile(recipe, out / "recipe.toml")
    classifier = Classifier(package.load(out))
    evaluations = [
        evaluate.evaluate(
            classifier, [sample for sample in samples if sample.split == split], split, terminal
        )
        for split in ("val", "test")
    ]
    model_card.write_card(out, manifest, evaluations)
    for evaluation in evaluations:
        terminal.print(f"{evaluation.metrics.name}: AUC {evaluation.metrics.auc}")
    terminal.print(f"wrote {out}")


def evaluate(
    model: Annotated[Path, folder_option("Folder of the model package.")],
    data: Annotated[list[Path] | None, folder_option("Data set; may be repeated.")] = None,
    split: Annotated[list[str] | None, Option(help="train, val, test (default) or all; repeatable.")] = None,
    labels: Annotated[Path | None, file_option("Labels of a folder of DICOM files (CSV).")] = None,
    out: Annotated[Path | None, Option(help="Folder for report.html, figures and tables.")] = None,
    robustness: Annotated[int, Option(min=0, help="Number of random images to disturb.")] = 100,
    shift: Annotated[
        int | None, Option(min=0, help="Also measure under randomised looks of this seed.")
    ] = None,
    card: Annotated[bool, Option("--card", help="Write the package's figures and CARD.md.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print metrics.json instead of a table.")] = False,
) -> None:
    """Measure a model on labelled images; several data sets or splits stand side by side.

    With --shift, "SPLIT shifted" and "SPLIT unseen" stand beside each split: the same images as other
    hospitals might show them, with looks that training can use and with others.

    With --card and no data, the card is made again from the package's metrics.json.

    Example: pacs-node evaluate --model models/m --data fracatlas --split test --out evaluation
    """
    if not data and not card:
        raise typer.BadParameter("nothing to do without --data or --card")
    from pacs_node.analyze import package
    from pacs_node.analyze.classifier import Classifier
    from pacs_node.training import dataset, model_card, model_metrics
    from pacs_node.training.evaluate import Look, examples
    from pacs_node.training.evaluate import evaluate as measure
    from pacs_node.training.randomize import LOOKS

    loaded = package.load(model)
    if not data:
        model_card.renew_card(model, loaded.manifest)
        return
    classifier = Classifier(loaded)
    pairs = [(folder, part) for folder in data for part in split or ["test"]]
    sets = {
        f"{folder.resolve().name} {part}" if len(data) > 1 else part: (folder, part) for folder, part in pairs
    }
    if len(sets) < len(pairs):
        raise typer.BadParameter(f"two data sets have the same name: {', '.join(sets)}")
    evaluations = []
    for name, (folder, part) in sets.items():
        samples = dataset.load(folder, None if part == "all" else part, labels, names=loaded.manifest.labels)
        for look in (None, *(Look(look, shift) for look in LOOKS if shift is not None)):
            title = f"{name} {look.name}" if look else name
            evaluations.append(measure(classifier, samples, title, console(stderr=True), robustness, look))
    measured = {evaluation.metrics.name: evaluation.metrics for evaluation in evaluations}
    if out:
        shown = [examples(classifier, evaluation) for evaluation in evaluations]
        model_card.write_report(out, classifier.identity, evaluations, shown)
    if card:
        model_card.write_card(model, loaded.manifest, evaluations)
    if as_json:
        typer.echo(model_metrics.to_json(measured), nl=False)
        return
    table = model_metrics.summary(measured)
    emit(None, False, Table([dict(zip(table.head, row, strict=True)) for row in table.rows], table.head, ""))


def list_models(
    folder: Annotated[Path | None, folder_option("Folder of model packages.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the model packages that can be served.

    Example: pacs-node models
    """
    with working("reading the packages"):
        from pacs_node.analyze import package

    installed = Path(package_file).parent / "models"
    folder = folder or (installed if installed.is_dir() else installed.parents[1] / "models")
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
    columns = ("id", "name", "version", "threshold", "test_auc", "path")
    emit(rows, as_json, Table(rows, columns, f"no model package in {folder}"))
