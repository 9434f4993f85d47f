"""`feedback import | list | export`, and `validate`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pacs_node.cli.context import of, print_json, print_table, working

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", exists=True, dir_okay=False)],
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who, where a row names nobody.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be added; add nothing.")] = False,
    json: Json = False,
) -> None:
    """Record labels that came back: a row for each study or image, with what was really there.

    Columns: study_instance_uid and/or sop_instance_uid, label (positive, negative, uncertain), and if you
    like who, when (ISO 8601, else now) and comment (nothing about the patient). A wrong row refuses the
    whole file; rows of studies that were never received are named and left out. The same row twice is
    recorded once; to correct a label, add another row.

    Example: pacs-node feedback import labels.csv --by "Dr. Li"
    """
    from pacs_node.journal import feedback

    rows = feedback.read_csv(file, by)
    receipts = feedback.add(of(context).database(), [one for _, one in rows], dry_run)
    strangers = [
        {"line": line, "study_instance_uid": one.study_instance_uid, "sop_instance_uid": one.sop_instance_uid}
        for (line, one), receipt in zip(rows, receipts, strict=True)
        if receipt == feedback.Receipt.UNKNOWN
    ]
    counts = Counter(receipts)
    if json:
        told = {str(receipt): counts[receipt] for receipt in feedback.Receipt}
        print_json({"dry_run": dry_run, **told, "never_received": strangers})
        return
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for row in strangers:
        uid = row["sop_instance_uid"] or row["study_instance_uid"]
        console.print(f"line {row['line']}: {uid} was never received; left out")
    console.print(
        f"{counts[feedback.Receipt.ADDED]} {'would be added' if dry_run else 'added'}, "
        f"{counts[feedback.Receipt.KNOWN]} known before, {len(strangers)} never received"
    )


def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 50,
    json: Json = False,
) -> None:
    """List the labels that came back, each with what had been said.

    Example: pacs-node feedback list --limit 20
    """
    from pacs_node.journal import feedback

    rows = [asdict(one) for one in feedback.every(of(context).database())[: -limit - 1 : -1]]
    if json:
        print_json(rows)
        return
    headings = {
        "recorded_at": "recorded",
        "who": "who",
        "label": "label",
        "study_instance_uid": "study",
        "sop_instance_uid": "image",
        "model_id": "model",
        "probability": "had said",
    }
    print_table(rows, headings, "no label came back yet")


def export(context: typer.Context) -> None:
    """Print the labels as CSV for training: sop_instance_uid, label (1, 0) and group, on standard output.

    A study's label stands for its images where it says what they show; uncertain ones are left out.

    Example: pacs-node feedback export > labels.csv
    """
    import csv
    import sys

    from pacs_node.journal import feedback

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("sop_instance_uid", "label", "group"))
    for image, label, group in feedback.labelled_images(of(context).database()):
        writer.writerow((image, int(label == feedback.Label.POSITIVE), group))


def validate(context: typer.Context, json: Json = False) -> None:
    """Compare the labels that came back with what was said, and look for drift; fails on an alarm.

    Runs at once what housekeep runs by the schedule; the limits are those of the configuration.

    Example: pacs-node validate
    """
    with working("comparing"):
        from pacs_node.operate import validation

        found = validation.run(of(context).database(), of(context).settings().validation)
    if json:
        print_json(asdict(found))
    else:
        columns = ("model", "where", "what", "n", "value", "interval", "limit", "verdict")
        rows = [_shown(asdict(check)) for check in found.checks]
        print_table(rows, {name: name for name in columns}, "nothing to judge")
        Console(highlight=False, markup=False, soft_wrap=True).print(
            f"{found.days} days: {found.verdict.replace('_', ' ')}; {found.compared} labels compared, "
            f"{found.uncertain} uncertain, {found.unanswered} for what no model had spoken of"
        )
    if found.verdict == validation.Verdict.ALARM:
        raise typer.Exit(1)


def _shown(check: dict[str, Any]) -> dict[str, Any]:
    interval = "" if check["low"] is None else f"{check['low']:.3f} to {check['high']:.3f}"
    value = "" if check["value"] is None else f"{check['value']:.3f}"
    return check | {"value": value, "interval": interval, "verdict": check["verdict"].replace("_", " ")}
