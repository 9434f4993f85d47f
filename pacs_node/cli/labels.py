"""Commands about labels: `feedback import | list | export` and `validate`."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from pacs_node.cli.context import JsonOption, Table, emit, invocation, working


def import_labels(
    context: typer.Context,
    file: Annotated[Path, Argument(metavar="FILE.csv", exists=True, dir_okay=False)],
    by: Annotated[str | None, Option(metavar="NAME", help="Author of rows that name none.")] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Only report what would be added.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Record labels: a row for each study or image, with what was really there.

    Columns: study_instance_uid and/or sop_instance_uid, label (positive, negative, uncertain), and optionally
    who, when (ISO 8601, default: now) and comment (nothing about the patient). One invalid row refuses the
    whole file; rows of studies that were never received are listed and left out. Identical rows are recorded
    once; to correct a label, add another row.

    Example: pacs-node feedback import labels.csv --by "Dr. Li"
    """
    from pacs_node.journal import feedback

    rows = feedback.read_csv(file, by)
    receipts = feedback.add(invocation(context).database, [label for _, label in rows], dry_run)
    unknown, lines = [], []
    for (number, label), receipt in zip(rows, receipts, strict=True):
        if receipt == feedback.Receipt.UNKNOWN:
            image, study = label.sop_instance_uid, label.study_instance_uid
            unknown.append({"line": number, "study_instance_uid": study, "sop_instance_uid": image})
            lines.append(f"line {number}: {image or study} was never received; left out")
    counts = Counter(receipts)
    totals = {str(receipt): counts[receipt] for receipt in feedback.Receipt}
    lines.append(
        f"{counts[feedback.Receipt.ADDED]} {'would be added' if dry_run else 'added'}, "
        f"{counts[feedback.Receipt.KNOWN]} already known, {len(unknown)} never received"
    )
    emit({"dry_run": dry_run, **totals, "never_received": unknown}, as_json, *lines)


def list_labels(
    context: typer.Context,
    limit: Annotated[int, Option(min=1, help="Number of labels, newest first.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the labels, each with the model's answer.

    Example: pacs-node feedback list --limit 20
    """
    from pacs_node.journal import feedback

    rows = [asdict(label) for label in feedback.every(invocation(context).database)[: -limit - 1 : -1]]
    columns = (
        "recorded_at",
        "who",
        "label",
        "study_instance_uid",
        "sop_instance_uid",
        "model_id",
        "probability",
    )
    emit(rows, as_json, Table(rows, columns, "no labels yet"))


def export_labels(context: typer.Context) -> None:
    """Print the labels as CSV for training: sop_instance_uid, label (1, 0) and group.

    A study's label applies to its images if it determines what they show; uncertain labels are left out.

    Example: pacs-node feedback export > labels.csv
    """
    from pacs_node.journal import feedback

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("sop_instance_uid", "label", "group"))
    for image, label, group in feedback.labelled_images(invocation(context).database):
        writer.writerow((image, int(label == feedback.Label.POSITIVE), group))


def validate(context: typer.Context, as_json: JsonOption = False) -> None:
    """Compare the model's answers with the labels, and look for drift; fails on an alarm.

    This is the scheduled job `validation`, run at once; [validation] has its limits.

    Example: pacs-node validate
    """
    with working("comparing"):
        from pacs_node.operate import validation

        result = validation.run(invocation(context).database, invocation(context).settings.validation)
    rows = [_formatted(asdict(check)) for check in result.checks]
    columns = ("model", "where", "what", "n", "value", "interval", "limit", "verdict")
    emit(
        asdict(result),
        as_json,
        Table(rows, columns, "nothing to evaluate"),
        f"{result.days} days: {result.verdict.replace('_', ' ')}; {result.compared} labels compared, "
        f"{result.uncertain} uncertain, {result.unanswered} without an answer from a model",
    )
    if result.verdict == validation.Verdict.ALARM:
        raise typer.Exit(1)


def _formatted(check: dict[str, Any]) -> dict[str, Any]:
    interval = "" if check["low"] is None else f"{check['low']:.3f} to {check['high']:.3f}"
    value = "" if check["value"] is None else f"{check['value']:.3f}"
    return check | {"value": value, "interval": interval, "verdict": check["verdict"].replace("_", " ")}
