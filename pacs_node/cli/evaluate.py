"""`evaluate`: what a model package is worth, through the classifier that serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pacs_node.cli.context import print_table


def evaluate(
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the model package.")],
    data: Annotated[
        list[Path] | None, typer.Option(exists=True, file_okay=False, help="Data set; may be repeated.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="train, val, test or all; may be repeated. Without it test.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Labels of a folder of DICOM files.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for report.html, figures and tables.")] = None,
    robustness: Annotated[
        int, typer.Option(min=0, help="So many images, drawn at random, are also disturbed; 0 = none.")
    ] = 100,
    card: Annotated[
        bool, typer.Option("--card", help="Write the package's metrics.json, figures and CARD.md.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print metrics.json instead of a table.")] = False,
) -> None:
    """Measure a model on labelled images; several data sets or splits stand side by side.

    With --card and no data, the card is made again from the package's metrics.json.

    Example: pacs-node evaluate --model models/m --data fracatlas --split test --out evaluation
    """
    if not data and not card:
        raise typer.BadParameter("nothing to do without --data or --card")
    from pacs_node.analyze import package
    from pacs_node.analyze.classifier import Classifier
    from pacs_node.training import card as cards
    from pacs_node.training import dataset, metrics, page
    from pacs_node.training.evaluate import evaluate as measure
    from pacs_node.training.evaluate import examples

    loaded = package.load(model)
    if not data:
        cards.renew(model, loaded.manifest)
        return
    classifier = Classifier(loaded)
    console = Console(stderr=True)
    wanted = [(folder, part) for folder in data for part in split or ["test"]]
    sets = {
        f"{folder.resolve().name} {part}" if len(data) > 1 else part: (folder, part)
        for folder, part in wanted
    }
    if len(sets) < len(wanted):
        raise typer.BadParameter(f"two sets of one name: {', '.join(sets)}")
    evaluations = []
    for name, (folder, part) in sets.items():
        samples = dataset.load(folder, None if part == "all" else part, labels)
        evaluations.append(measure(classifier, samples, name, console, robustness))
    measured = {evaluation.metrics.name: evaluation.metrics for evaluation in evaluations}
    if out:
        shown = [examples(classifier, evaluation) for evaluation in evaluations]
        page.write(out, classifier.identity, evaluations, shown)
    if card:
        cards.write(model, loaded.manifest, evaluations)
    if as_json:
        typer.echo(metrics.to_json(measured), nl=False)
        return
    rows = [
        {"": name, **dict(zip(measured, cells, strict=True))}
        for name, cells in metrics.summary(measured).items()
    ]
    print_table(rows, {"": "", **{name: name for name in measured}}, "")
