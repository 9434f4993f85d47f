"""Labels that come back as a CSV file."""

from __future__ import annotations

import csv
import time
from datetime import datetime
from pathlib import Path

from pacs_node.errors import InputError
from pacs_node.journal.feedback import Feedback, Label

COLUMNS = ("study_instance_uid", "sop_instance_uid", "label", "who", "when", "comment")
"""What a CSV may hold. No others: accession numbers and names are the patient's."""


def read(path: Path, by: str | None = None) -> list[tuple[int, Feedback]]:
    """The labels of a CSV file (`COLUMNS`), each with its line; `by` is who, where a row names nobody.

    Times are ISO 8601, without an offset local. Raises InputError with one line for each wrong line.
    """
    found, wrong = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or ()
            if set(names) - set(COLUMNS) or not {"label"} < set(names) & set(COLUMNS[:3]):
                raise InputError(
                    f"{path}: its columns must be label and study_instance_uid or sop_instance_uid; "
                    f"{', '.join(COLUMNS)} are known, no others"
                )
            for row in reader:
                try:
                    found.append((reader.line_num, _parsed(row, by, path.name)))
                except ValueError as error:
                    wrong.append(f"{path}:{reader.line_num}: {error}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV in UTF-8 ({type(error).__name__})") from error
    if wrong:
        raise InputError("\n".join(wrong))
    return found


def _parsed(row: dict[str, str | None], by: str | None, source: str) -> Feedback:
    """One row of a CSV. Raises ValueError saying what would be right."""
    study, image, label, who, when, comment = ((row.get(name) or "").strip() for name in COLUMNS)
    if None in row:
        raise ValueError("more values than columns; put a comment with commas into quotes")
    if not study and not image:
        raise ValueError("neither study_instance_uid nor sop_instance_uid; one is needed")
    if label.lower() not in list(Label):
        raise ValueError(f"label is {label!r}; it must be one of {', '.join(Label)}")
    if not who and not by:
        raise ValueError("nobody is named; fill in the column who, or give --by NAME")
    try:
        at = datetime.fromisoformat(when).timestamp() if when else None
    except ValueError:
        raise ValueError(f"when is {when!r}; it must be a time such as 2026-03-01T14:30:00+01:00") from None
    if at is not None and at > time.time():
        raise ValueError(f"when is {when!r}; that is in the future")
    return Feedback(
        label=Label(label.lower()),
        who=who or by or "",
        study_instance_uid=study,
        sop_instance_uid=image or None,
        at=at,
        comment=comment,
        source=source,
    )
