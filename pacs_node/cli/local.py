"""Commands that need no PACS: `analyze` and `demo`."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from pacs_node.cli.context import PathsArgument, console, files_in, invocation, progress, working


def analyze(
    context: typer.Context,
    paths: PathsArgument,
    out: Annotated[Path | None, Option(help="Folder for the results; default: beside the images.")] = None,
) -> None:
    """Analyze DICOM, JPEG and PNG files: write SR, SC, PNG and JSON, and print the reports.

    Example: pacs-node analyze wrist-pa.dcm wrist-lat.dcm --out results
    """
    with working("starting"):
        from pacs_node.filemode import analyze_files
        from pacs_node.roles.worker import served_classifier

    settings = invocation(context).settings
    with working("loading the model"):
        classifier = served_classifier(settings)
    files = files_in(paths)
    failed = False
    answers = analyze_files(files, settings, classifier, out)
    for study in progress(answers, "analyzing", len(files), lambda study: study.files):
        failed = failed or study.failed
        typer.echo(study.text)
    if failed:
        raise typer.Exit(1)


class PacsChoice(StrEnum):
    """The PACS of the demo."""

    AUTO = "auto"
    ORTHANC = "orthanc"
    DOCKER = "docker"
    STAND_IN = "stand-in"


def demo(
    inputs: Annotated[
        list[Path] | None,
        Option("--input", exists=True, help="DICOM, JPEG, PNG or folder; repeatable."),
    ] = None,
    out: Annotated[Path, Option(help="Folder for results and logs.")] = Path("demo-output"),
    pacs: Annotated[PacsChoice, Option(help="auto: Orthanc, else its container, else a stand-in.")] = (
        PacsChoice.AUTO
    ),
    keep: Annotated[bool, Option("--keep", help="Keep the storage of PACS and node.")] = False,
) -> None:
    """Run a PACS and the node on this machine: the PACS forwards X-rays, the node answers into their studies.

    Without --input the X-rays are phantoms. Everything runs on loopback ports with temporary storage and is
    stopped at the end.

    Example: pacs-node demo --input wrist.jpg
    """
    from pacs_node.demo.run import Demo

    # SIGTERM unwinds like Ctrl-C, so that all processes are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not Demo(inputs or [], out, pacs.value, keep, console()).run():
        raise typer.Exit(1)
