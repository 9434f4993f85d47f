"""What an administrator asks: status, studies, show, retry, audit."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console

from pacs_node.cli import complete
from pacs_node.cli.context import of, print_json, print_table, progress, shown
from pacs_node.errors import PacsNodeError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StudyUid = Annotated[
    str, typer.Argument(metavar="STUDY", help="Study Instance UID.", autocompletion=complete.studies)
]

_CHECKS = ("echo", "disk")
"""The jobs of the calendar whose last answer `status` tells."""


def status(context: typer.Context, json: Json = False) -> None:
    """Show the running processes and the queues; fails unless every role is running and ready.

    Example: pacs-node status --json
    """
    from pacs_node.journal import audit, processes, views
    from pacs_node.records import AuditKind

    database = of(context).database()
    running = processes.running(database)
    names = [destination.name for destination in of(context).settings().destinations]
    counts = {**views.counts(database), "attention": views.stuck_counts(database, names)}
    missing = processes.missing(running)
    pages = next((role.address for role in running if role.role == "web" and role.ready), None)
    wanted = of(context).settings().web.enabled
    checked = [
        event.details if (event := audit.last(database, AuditKind.of_job(job))) else {} for job in _CHECKS
    ]
    unreachable, disk_low = checked[0].get("unreachable", {}), checked[1].get("low", False)
    if json:
        found = {"ready": not missing, "roles": [asdict(role) for role in running], "web": pages, **counts}
        print_json({**found, "unreachable": unreachable, "disk_low": disk_low})
    else:
        columns = {"role": "role", "host": "host", "pid": "pid", "address": "serves", "ready": "ready"}
        print_table([asdict(role) for role in running], columns, "no process is running")
        for name, states in counts.items():
            told = ", ".join(f"{count} {state}" for state, count in states.items()) or "none"
            Console(highlight=False, markup=False).print(f"{name}: {told}")
        for why in unreachable.values():
            Console(highlight=False, markup=False).print(f"unreachable: {why}")
        if disk_low:
            Console(highlight=False, markup=False).print("disk: less than twice `min_free_gb` is free")
        if missing:
            Console(highlight=False, markup=False).print(f"not running or not ready: {', '.join(missing)}")
        if wanted and not pages:
            Console(highlight=False, markup=False).print("web page: not running; the log says why")
    if missing:
        raise typer.Exit(1)


def studies(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 50,
    json: Json = False,
) -> None:
    """List the studies that were received.

    Example: pacs-node studies --limit 20
    """
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
    """Show one study: its images, results and deliveries, and its whole audit trail.

    Example: pacs-node show 1.2.840.113619.2.5.1
    """
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
    if found["expected"]:
        missing = found["missing"]
        received = f"{found['expected'] - len(missing)} of {found['expected']} images received"
        console.print(f"{received}, missing: {', '.join(missing)}" if missing else received, soft_wrap=True)
    for title, key, columns in (
        ("images", "instances", ("sop_instance_uid", "modality", "state", "probability", "reason")),
        ("reports", "reports", ("revision", "created_at", "outcome", "summary")),
        (
            "results",
            "results",
            ("role", "sop_instance_uid", "destination", "state", "attempts", "last_comment", "next_try_at"),
        ),
    ):
        console.print(f"\n{title}")
        headings = {column: column.removesuffix("_at").replace("_", " ") for column in columns}
        print_table(found[key], headings, "none")
    console.print("\naudit trail")
    for event in events:
        console.print(event_line(event), soft_wrap=True)


def event_line(event: dict[str, Any]) -> str:
    """One audit event as a line for people."""
    details = " ".join(f"{key}={value}" for key, value in event["details"].items() if value not in (None, ""))
    return f"{event['seq']:>6}  {shown('_at', event['at'])}  {event['event']:<18} {details}"


def verify(context: typer.Context, json: Json = False) -> None:
    """Check the hash chain of the audit log; fails where an event was altered or is missing.

    Example: pacs-node audit verify
    """
    from pacs_node.journal import audit

    database = of(context).database()
    total = audit.head(database)[0]
    count, problem = audit.verify(database, watch=partial(progress, what="verifying", total=total))
    if json:
        print_json({"events": count, "problem": problem})
        raise typer.Exit(1 if problem else 0)
    if problem:
        raise PacsNodeError(f"audit log: {problem}")
    Console(highlight=False, markup=False).print(f"audit log: {count} events, the chain is whole")


def export(context: typer.Context) -> None:
    """Print the audit log as JSON lines, oldest first, with its hashes.

    Example: pacs-node audit export > audit.jsonl
    """
    import json as codec
    import sys

    from pacs_node.journal import audit

    database = of(context).database()
    events = audit.events(database)
    if not sys.stdout.isatty():
        events = progress(events, "exporting", audit.head(database)[0])
    for event in events:
        sys.stdout.write(codec.dumps(asdict(event), ensure_ascii=False) + "\n")
