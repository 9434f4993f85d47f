"""`analyze`: the node's pipeline on files, with no network and no journal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pacs_node.cli.context import of


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
    from pacs_node.filemode import analyze_files
    from pacs_node.node import served_classifier

    settings = of(context).settings()
    console = Console(highlight=False, markup=False, soft_wrap=True)
    with console.status("loading the model"):
        classifier = served_classifier(settings)
    files = sorted({file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))})
    failed = False
    with console.status(f"analyzing {len(files)} files"):
        for study in analyze_files([file for file in files if file.is_file()], settings, classifier, out):
            failed = failed or study.failed
            console.print(study.text)
    if failed:
        raise typer.Exit(1)
