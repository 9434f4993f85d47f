"""What goes out: retry, quarantine, send."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pacs_node.cli import complete
from pacs_node.cli.context import of, print_json, print_table, progress, who
from pacs_node.errors import ConfigError, PacsNodeError

if TYPE_CHECKING:
    from pacs_node.journal.database import Database
    from pacs_node.records import SendOutcome

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def retry(
    context: typer.Context,
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="Study Instance UID.", autocompletion=complete.studies)
    ],
    new: Annotated[
        bool,
        typer.Option("--new", help="Report it again in new objects with new UIDs, as an amended report."),
    ] = False,
) -> None:
    """Try a study's failed images, its failed report and its undelivered results again, at once.

    With --new, for a PACS that holds another object under a UID of ours: it keeps the first that it gets.

    Example: pacs-node retry 1.2.840.113619.2.5.1 --new
    """
    from pacs_node.journal.studies import retry_study

    if not retry_study(of(context).database(), study, who(), new):
        raise PacsNodeError(f"{study}: no such study was received; `pacs-node studies` lists them")
    Console(highlight=False, markup=False).print(f"study {study} will be tried again")


def quarantine(
    context: typer.Context,
    retry: Annotated[
        str | None, typer.Option(metavar="WHICH", help="Try deliveries again: an id, a destination, or all.")
    ] = None,
    discard: Annotated[
        str | None, typer.Option(metavar="WHICH", help="Give deliveries up: an id, a destination, or all.")
    ] = None,
    reason: Annotated[
        str, typer.Option(help="Why they are given up, for the audit log; nothing about the patient.")
    ] = "",
    json: Json = False,
) -> None:
    """List what does not get on by itself, with the reason; try it again or give it up.

    Deliveries: QUARANTINED (refused for good, or given up), STALLED (tried ten times in vain, and still
    tried), NO DESTINATION (no longer configured). Images and studies: FAILED; `retry STUDY` tries those.

    Example: pacs-node quarantine --discard 12 --reason "the PACS has it"
    """
    from pacs_node.journal import deliveries, views

    if (retry and discard) or bool(discard) != bool(reason):
        raise ConfigError("quarantine: --retry WHICH, or --discard WHICH with --reason TEXT")
    database = of(context).database()
    names = [destination.name for destination in of(context).settings().destinations]
    which = retry or discard
    if which:
        changed = (
            deliveries.retry(database, names, which, who())
            if retry
            else deliveries.discard(database, names, which, who(), reason)
        )
        if not changed:
            raise PacsNodeError(f"{which}: no such delivery is listed by `pacs-node quarantine`")
        done = "will be tried again" if retry else "given up"
        Console(highlight=False, markup=False).print(f"{changed} deliveries {done}")
        return
    rows = views.stuck(database, names)
    if json:
        print_json(rows)
        return
    columns = {
        "id": "id",
        "trouble": "trouble",
        "destination": "destination",
        "study_instance_uid": "study",
        "reason": "reason",
        "attempts": "attempts",
        "since_at": "since",
    }
    for row in rows:
        row["trouble"] = f"{row['trouble']} {row['role'] or row['what']}"
        row["reason"] = f"{_status(row['last_status'])} {row['reason']}".strip()
    print_table(rows, columns, "nothing needs attention")


def send(
    context: typer.Context,
    paths: Annotated[
        list[Path], typer.Argument(exists=True, metavar="PATH...", help="DICOM files, or folders of them.")
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="DESTINATION",
            help="Name of a configured destination.",
            autocompletion=complete.destinations,
        ),
    ],
    json: Json = False,
) -> None:
    """Send DICOM files as they are to a destination; fails where one was not taken.

    Where there is a journal, its audit log says who sent what.

    Example: pacs-node send results/*.dcm --to pacs
    """
    from pacs_node.deliver import sender
    from pacs_node.journal.database import Database
    from pacs_node.records import DeliveryState

    settings = of(context).settings()
    destination = next((one for one in settings.destinations if one.name == to), None)
    if destination is None:
        names = ", ".join(one.name for one in settings.destinations) or "none"
        raise ConfigError(f"--to {to}: no such destination; configured: {names}")
    files = sorted({file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))})
    files = [file for file in files if file.is_file()]
    database = of(context).database() if Database(settings.database_url).exists else None
    rows: list[dict[str, Any]] = []
    with closing(sender.send_files(destination, settings.node.ae_title, files)) as answers:
        for path, outcome in progress(answers, f"sending to {to}", len(files)):
            sent = sender.judge(outcome, 1) == DeliveryState.SENT
            told = {"path": str(path), "sent": sent, "status": outcome.status, "comment": outcome.comment}
            rows.append(told)
            if database and outcome.comment != sender.NOT_DICOM:
                _audit(database, path, to, outcome)
    if json:
        print_json(rows)
    else:
        columns = {"path": "file", "sent": "sent", "status": "status", "comment": "answer"}
        shown = [row | {"status": _status(row["status"])} for row in rows]
        print_table(shown, columns, "no file there")
    if not rows or not all(row["sent"] for row in rows):
        raise typer.Exit(1)


def _audit(database: Database, path: Path, destination: str, outcome: SendOutcome) -> None:
    from pydicom import dcmread

    from pacs_node.records import AuditKind

    header = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SOPInstanceUID"])
    uids = (str(header.get("StudyInstanceUID", "")), str(header.get("SOPInstanceUID", "")))
    told = {"destination": destination, "status": outcome.status, "comment": outcome.comment, "who": who()}
    database.audit(AuditKind.SENT_BY_HAND, *uids, **told)


def _status(status: int | None) -> str:
    return "" if status is None else f"0x{status:04X}"
