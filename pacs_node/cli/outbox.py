"""Commands about deliveries: `retry`, `quarantine`, `send` and `reconcile`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from pacs_node.cli.context import (
    JsonOption,
    PathsArgument,
    StudyArgument,
    Table,
    complete_destination,
    emit,
    files_in,
    invocation,
    progress,
    user_name,
)
from pacs_node.errors import ConfigError, PacsNodeError

if TYPE_CHECKING:
    from pacs_node.journal.database import Database
    from pacs_node.records import SendOutcome


_DAY = "%Y-%m-%d"


def retry(
    context: typer.Context,
    study: StudyArgument,
    new: Annotated[bool, Option("--new", help="Report again in new objects, as an amended report.")] = False,
) -> None:
    """Try a study's failed images, its failed report and its undelivered results again, at once.

    Use --new if the PACS holds another object under the UID of a result: it keeps the first that it received.

    Example: pacs-node retry 1.2.840.113619.2.5.1 --new
    """
    from pacs_node.journal.studies import retry_study

    if not retry_study(invocation(context).database, study, user_name(), new):
        raise PacsNodeError(f"{study}: no such study was received; `pacs-node studies` lists them")
    typer.echo(f"study {study} will be tried again")


def quarantine(
    context: typer.Context,
    retry: Annotated[str | None, Option(metavar="WHICH", help="Retry an id, a destination, or all.")] = None,
    discard: Annotated[str | None, Option(metavar="WHICH", help="Discard these; see --reason.")] = None,
    reason: Annotated[str, Option(help="For the audit log; nothing about the patient.")] = "",
    as_json: JsonOption = False,
) -> None:
    """List stuck deliveries, images and studies with the reason; retry or discard deliveries.

    Deliveries: QUARANTINED (refused, or all attempts used up), STALLED (at least ten failed attempts,
    continuing), NO DESTINATION (no longer configured). Images and studies: FAILED; `retry STUDY` tries these.

    Example: pacs-node quarantine --discard 12 --reason "the PACS has it"
    """
    from pacs_node.journal import deliveries, views

    if (retry and discard) or bool(discard) != bool(reason):
        raise ConfigError("quarantine: use either --retry WHICH, or --discard WHICH with --reason TEXT")
    database = invocation(context).database
    names = [destination.name for destination in invocation(context).settings.destinations]
    if which := retry or discard:
        if retry:
            changed = deliveries.retry(database, names, which, user_name())
        else:
            changed = deliveries.discard(database, names, which, user_name(), reason)
        if not changed:
            raise PacsNodeError(f"{which}: no such delivery is listed by `pacs-node quarantine`")
        typer.echo(f"{changed} deliveries {'will be tried again' if retry else 'discarded'}")
        return
    rows = views.stuck(database, names)
    columns = ("id", "trouble", "destination", "study_instance_uid", "reason", "attempts", "since_at")
    table = [{**row, "trouble": f"{row['trouble']} {row['role'] or row['what']}"} for row in rows]
    for row in table:
        row["reason"] = f"{_hexadecimal(row['last_status'])} {row['reason']}".strip()
    emit(rows, as_json, Table(table, columns, "nothing needs attention"))


def send(
    context: typer.Context,
    paths: PathsArgument,
    to: Annotated[str, Option(metavar="DESTINATION", autocompletion=complete_destination)],
    as_json: JsonOption = False,
) -> None:
    """Send DICOM files unchanged to a destination; fails unless it accepts all of them.

    If there is a journal, its audit log records who sent what.

    Example: pacs-node send results/*.dcm --to pacs
    """
    from pacs_node.deliver import sender
    from pacs_node.records import DeliveryState

    settings = invocation(context).settings
    destination = invocation(context).destination("--to", to)
    database = invocation(context).database if invocation(context).has_journal else None
    files = files_in(paths)
    rows = []
    with closing(sender.send_files(destination, settings.node.ae_title, files)) as answers:
        for path, outcome in progress(answers, f"sending to {to}", len(files)):
            sent = sender.judge(outcome, 1) == DeliveryState.SENT
            row = {"path": str(path), "sent": sent, "status": outcome.status, "comment": outcome.comment}
            rows.append(row)
            if database and sender.is_dicom(path):
                _audit(database, path, to, outcome)
    table = [row | {"status": _hexadecimal(row["status"])} for row in rows]
    emit(rows, as_json, Table(table, ("path", "sent", "status", "comment"), "no files"))
    if not rows or not all(row["sent"] for row in rows):
        raise typer.Exit(1)


def _audit(database: Database, path: Path, destination: str, outcome: SendOutcome) -> None:
    from pydicom import dcmread

    from pacs_node.records import AuditKind

    header = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SOPInstanceUID"])
    database.audit(
        AuditKind.SENT_BY_HAND,
        str(header.get("StudyInstanceUID", "")),
        str(header.get("SOPInstanceUID", "")),
        destination=destination,
        status=outcome.status,
        comment=outcome.comment,
        who=user_name(),
    )


def _hexadecimal(status: object) -> str:
    return f"0x{status:04X}" if isinstance(status, int) else ""


def reconcile(
    context: typer.Context,
    days: Annotated[int, Option(min=0, help="Number of days before today, which is included.")] = 1,
    since: Annotated[datetime | None, Option(formats=[_DAY], help="First day, instead of --days.")] = None,
    until: Annotated[datetime | None, Option(formats=[_DAY], help="Last day, instead of today.")] = None,
    destination: Annotated[
        str | None, Option(help="Only this one; default: all.", autocompletion=complete_destination)
    ] = None,
    fix: Annotated[bool, Option("--fix", help="Send missing results, request missing images.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask the PACS for every study of some days and list what is missing on either side.

    Lists X-rays that the PACS has and the node never received, results that the PACS does not have, and
    failed or quarantined objects. Fails if something is missing and not fixed. To send missing images, the
    PACS must know the node's AE title and address.

    Example: pacs-node reconcile --days 7 --fix
    """
    from pacs_node.operate.reconcile import reconcile as compare

    settings = invocation(context).settings
    last = until.date() if until else datetime.now().astimezone().date()
    first = since.date() if since else last - timedelta(days=days)
    if first > last:
        raise ConfigError(f"--since {first} is after --until {last}")
    candidates = settings.destinations
    if destination is not None:
        candidates = (invocation(context).destination("--destination", destination),)
    queried = [candidate for candidate in candidates if candidate.query_address]
    if not queried:
        raise ConfigError("--destination: no destination with an AE to query is configured")
    watch = partial(progress, label="asking for studies")
    database = invocation(context).database
    gaps = compare(settings, database, queried, first, last, user_name(), fix, watch)
    columns = ("missing", "destination", "study_instance_uid", "sop_instance_uid", "detail", "fixed")
    rows = [asdict(gap) for gap in gaps]
    emit(rows, as_json, Table(rows, columns, f"nothing is missing from {first} to {last}"))
    if not all(gap.fixed for gap in gaps):
        typer.echo(f"{sum(not gap.fixed for gap in gaps)} not fixed", err=True)
        raise typer.Exit(1)
