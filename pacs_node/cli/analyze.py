"""`analyze`: the node's pipeline on files, with no network and no journal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pacs_node.cli.context import of, progress, working


def analyze(
    context: typer.Context,
    paths: Annotated[
        list[Path], typer.Argument(exists=True, metavar="PATH...", help="DICOM, JPEG or PNG; or folders.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; without it beside the images.")
    ] = None,
) -> None:
    """Analyze images: writes SR, SC, PNG and JSON, and prints the reports.

    Example: pacs-node analyze wrist-pa.dcm wrist-lat.dcm --out results
    """
    with working("starting"):
        from pacs_node.filemode import analyze_files
        from pacs_node.roles.worker import served_classifier

    settings = of(context).settings()
    console = Console(highlight=False, markup=False, soft_wrap=True)
    with working("loading the model"):
        classifier = served_classifier(settings)
    found = sorted({file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))})
    files = [file for file in found if file.is_file()]
    failed = False
    answers = analyze_files(files, settings, classifier, out)
    for study in progress(answers, "analyzing", len(files), lambda study: study.files):
        failed = failed or study.failed
        console.print(study.text)
    if failed:
        raise typer.Exit(1)
