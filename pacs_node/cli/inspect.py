"""What an administrator asks: status, studies, show, retry, audit."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console

from pacs_node.cli.context import of, print_json, print_table, shown
from pacs_node.errors import PacsNodeError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StudyUid = Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")]


def status(context: typer.Context, json: Json = False) -> None:
    """Show the running processes and the queues; fails unless every role is running and ready."""
    from pacs_node.journal import roles, views

    database = of(context).database()
    running = roles.running(database)
    counts = views.counts(database)
    missing = roles.missing(running)
    if json:
        print_json({"ready": not missing, "roles": [asdict(role) for role in running], **counts})
    else:
        columns = {"role": "role", "host": "host", "pid": "pid", "address": "serves", "ready": "ready"}
        print_table([asdict(role) for role in running], columns, "no process is running")
        for name, states in counts.items():
            told = ", ".join(f"{count} {state}" for state, count in states.items()) or "none"
            Console(highlight=False, markup=False).print(f"{name}: {told}")
        if missing:
            Console(highlight=False, markup=False).print(f"not running or not ready: {', '.join(missing)}")
    if missing:
        raise typer.Exit(1)


def studies(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 50,
    json: Json = False,
) -> None:
    """List the studies that were received."""
    from pacs_node.journal import views

    rows = views.studies(of(context).database(), limit)
    if json:
        print_json(rows)
        return
    columns = {
        "study_instance_uid": "study",
        "state": "state",
        "objects": "objects",
        "last_received_at": "last received",
        "reported_at": "reported",
        "summary": "result",
        "reason": "reason",
    }
    print_table(rows, columns, "no study was received yet")


def show(context: typer.Context, study: StudyUid, json: Json = False) -> None:
    """Show one study: its images, results and deliveries, and its whole audit trail."""
    from pacs_node.journal import audit, views

    database = of(context).database()
    found = views.study(database, study)
    if found is None:
        raise PacsNodeError(f"{study}: no such study was received; `pacs-node studies` lists them")
    events = [asdict(event) for event in audit.events(database, study)]
    if json:
        print_json({**found, "events": events})
        return
    console = Console(highlight=False, markup=False)
    console.print(f"study {found['study_instance_uid']}: {found['state']} {found['reason'] or ''}")
    for title, key, columns in (
        ("images", "instances", ("sop_instance_uid", "modality", "state", "probability", "reason")),
        ("reports", "reports", ("revision", "created_at", "outcome", "summary")),
        (
            "results",
            "results",
            ("role", "sop_instance_uid", "destination", "state", "last_comment"),
        ),
    ):
        console.print(f"\n{title}")
        print_table(found[key], {column: column.replace("_", " ") for column in columns}, "none")
    console.print("\naudit trail")
    for event in events:
        console.print(event_line(event), soft_wrap=True)


def event_line(event: dict[str, Any]) -> str:
    """One audit event as a line for people."""
    details = " ".join(f"{key}={value}" for key, value in event["details"].items() if value not in (None, ""))
    return f"{event['seq']:>6}  {shown('_at', event['at'])}  {event['event']:<18} {details}"


def retry(context: typer.Context, study: StudyUid) -> None:
    """Try a study's failed images, its failed report and its undelivered results again, at once."""
    from pacs_node.journal.studies import retry as retry_study

    if not retry_study(of(context).database(), study):
        raise PacsNodeError(f"{study}: no such study was received; `pacs-node studies` lists them")
    Console(highlight=False, markup=False).print(f"study {study} will be tried again")


def verify(context: typer.Context) -> None:
    """Check the hash chain of the audit log; fails where an event was altered or is missing."""
    from pacs_node.journal.audit import verify as verify_chain

    count, problem = verify_chain(of(context).database())
    if problem:
        raise PacsNodeError(f"audit log: {problem}")
    Console(highlight=False, markup=False).print(f"audit log: {count} events, the chain is whole")


def export(context: typer.Context) -> None:
    """Print the audit log as JSON lines, oldest first, with its hashes."""
    import json as codec
    import sys

    from pacs_node.journal import audit

    for event in audit.events(of(context).database()):
        sys.stdout.write(codec.dumps(asdict(event), ensure_ascii=False) + "\n")
