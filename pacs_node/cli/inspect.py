"""Commands that look into the journal: `status`, `studies`, `show` and `audit verify | export`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer
from typer import Option

from pacs_node.cli.context import JsonOption, StudyArgument, Table, cell, emit, invocation, progress
from pacs_node.errors import PacsNodeError


def status(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show the processes, the queues and all problems; fails unless every role is running and ready.

    Example: pacs-node status --json
    """
    from pacs_node.files import FileStore
    from pacs_node.journal import processes, views
    from pacs_node.operate.problems import ProblemKind, problems

    settings, database = invocation(context).settings, invocation(context).database
    running = processes.running(database)
    listed = problems(settings, database, FileStore(settings.storage.path))
    attention: Counter[str] = Counter()
    for problem in listed:
        attention[problem.kind.upper()] += problem.count
    counts = {**views.counts(database), "attention": attention}
    missing = processes.missing(running)
    rows = [asdict(role) for role in running]
    lines = [
        f"{queue}: {', '.join(f'{count} {state}' for state, count in states.items()) or 'none'}"
        for queue, states in counts.items()
    ]
    lines += [str(problem) for problem in listed]
    state = {
        "ready": not missing,
        "roles": rows,
        "web": next((role.address for role in running if role.role == "web" and role.ready), None),
        **counts,
        "unreachable": {
            each.subject: each.message for each in listed if each.kind == ProblemKind.DESTINATION
        },
        "disk_low": any(problem.kind == ProblemKind.DISK for problem in listed),
        "problems": [asdict(problem) for problem in listed],
    }
    columns = ("role", "host", "pid", "address", "ready")
    emit(state, as_json, Table(rows, columns, "no process is running"), *lines)
    if missing:
        raise typer.Exit(1)


def studies(
    context: typer.Context,
    limit: Annotated[int, Option(min=1, help="Number of studies, newest first.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the studies that were received.

    Example: pacs-node studies --limit 20
    """
    from pacs_node.journal import views

    rows = views.studies(invocation(context).database, limit)
    columns = (
        "study_instance_uid",
        "state",
        "objects",
        "last_received_at",
        "reported_at",
        "summary",
        "reason",
    )
    emit(rows, as_json, Table(rows, columns, "no study was received yet"))


def show(context: typer.Context, study: StudyArgument, as_json: JsonOption = False) -> None:
    """Show one study: its images, results, deliveries and audit trail.

    Example: pacs-node show 1.2.840.113619.2.5.1
    """
    from pacs_node.journal import audit, views

    database = invocation(context).database
    details = views.study(database, study)
    if details is None:
        raise PacsNodeError(f"{study}: no such study was received; `pacs-node studies` lists them")
    events = [asdict(event) for event in audit.events(database, study)]
    parts: list[str | Table] = [
        f"study {details['study_instance_uid']}: {details['state']} {details['reason'] or ''}"
    ]
    if details["expected"]:
        missing = details["missing"]
        received = f"{details['expected'] - len(missing)} of {details['expected']} images received"
        parts.append(f"{received}, missing: {', '.join(missing)}" if missing else received)
    for title, key, columns in (
        ("images", "instances", "sop_instance_uid modality state probability reason"),
        ("reports", "reports", "revision created_at outcome summary"),
        ("results", "results", "role sop_instance_uid destination state attempts last_comment next_try_at"),
    ):
        parts += [f"\n{title}", Table(details[key], columns.split(), "none")]
    parts.append("\naudit trail")
    for event in events:
        values = (f"{key}={value}" for key, value in event["details"].items() if value not in (None, ""))
        parts.append(
            f"{event['seq']:>6}  {cell('_at', event['at'])}  {event['event']:<18} {' '.join(values)}"
        )
    emit({**details, "events": events}, as_json, *parts)


def verify(context: typer.Context, as_json: JsonOption = False) -> None:
    """Check the hash chain of the audit log; fails if an event was altered or is missing.

    Example: pacs-node audit verify
    """
    from pacs_node.journal import audit

    database = invocation(context).database
    total = audit.head(database)[0]
    count, problem = audit.verify(database, watch=partial(progress, label="verifying", total=total))
    if problem and not as_json:
        raise PacsNodeError(f"audit log: {problem}")
    emit(
        {"events": count, "problem": problem}, as_json, f"audit log: {count} events, the hash chain is intact"
    )
    if problem:
        raise typer.Exit(1)


def export(context: typer.Context) -> None:
    """Print the audit log as JSON lines, oldest first, with its hashes.

    Example: pacs-node audit export > audit.jsonl
    """
    from pacs_node.journal import audit

    database = invocation(context).database
    events = audit.events(database)
    if not sys.stdout.isatty():
        events = progress(events, "exporting", audit.head(database)[0])
    for event in events:
        sys.stdout.write(json.dumps(asdict(event), ensure_ascii=False) + "\n")
