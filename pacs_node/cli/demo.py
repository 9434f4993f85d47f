"""`demo`: a PACS and the node together, on this machine alone."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


class PacsChoice(StrEnum):
    """Which PACS the demo uses."""

    AUTO = "auto"
    ORTHANC = "orthanc"
    DOCKER = "docker"
    STAND_IN = "stand-in"


def demo(
    inputs: Annotated[
        list[Path] | None,
        typer.Option("--input", exists=True, help="DICOM, JPEG or PNG, file or folder; may be repeated."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for results and logs.")] = Path("demo-output"),
    pacs: Annotated[
        PacsChoice, typer.Option(help="auto: Orthanc if it is here, else its container, else a stand-in.")
    ] = PacsChoice.AUTO,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the PACS's and the node's storage.")] = False,
) -> None:
    """Show the whole way: a PACS forwards X-rays, the node answers into their studies. Phantoms by default.

    Everything runs on loopback ports with temporary storage, and is stopped at the end.

    Example: pacs-node demo --input wrist.jpg
    """
    from pacs_node.demo.run import Demo

    # SIGTERM unwinds like Ctrl-C, so that what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not Demo(inputs or [], out, pacs.value, keep, Console()).run():
        raise typer.Exit(1)
