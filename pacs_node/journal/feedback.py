"""Labels given by people: what a study or an image really showed, kept with the model's finding of that time.

Labels are only ever added. Of several for one study or image the newest counts, so a correction is another
label.
"""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pacs_node.errors import InputError
from pacs_node.journal.database import Database
from pacs_node.journal.schema import (
    FeedbackRow,
    FindingRow,
    InstanceRow,
    NodeRow,
    StudyRow,
    select_instances,
)
from pacs_node.records import AuditKind, InstanceState, Point

CSV_COLUMNS = ("study_instance_uid", "sop_instance_uid", "label", "who", "when", "comment")
"""The columns that a CSV file may have. No others: accession numbers and names are the patient's."""
_AUDITED = ("digest", "label", "who", "at", "source", "model_id", "model_key", "probability", "positive")


class Label(StrEnum):
    """What a study or an image really showed."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    UNCERTAIN = "uncertain"


class Receipt(StrEnum):
    """The answer to a label that was handed in."""

    ADDED = "added"
    KNOWN = "known"
    """The same label was added before."""
    UNKNOWN = "unknown"
    """No such study or image was received, or the image does not belong to the study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """One label for a study, or for one image of it."""

    label: Label
    who: str
    study_instance_uid: str = ""
    """May stay empty if the image is named."""
    sop_instance_uid: str | None = None
    """None: the label is for the study as a whole."""
    at: float | None = None
    """When it was given; None: now."""
    region: tuple[Point, ...] = ()
    """A polygon in source pixels; empty if none was drawn."""
    comment: str = ""
    source: str = ""
    """The label's origin, such as the name of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded(Feedback):
    """A label with the model's finding at the time of recording; None if there was none."""

    recorded_at: float
    model_id: str | None
    model_key: str | None
    probability: float | None
    """The image's; for a study, the highest of its images."""
    positive: bool | None


def add(database: Database, given: Sequence[Feedback], dry_run: bool = False) -> list[Receipt]:
    """Record labels in one transaction, each with an audit event; returns a receipt for each.

    A label that was added before is not added again. A dry run gives the same receipts and records nothing.
    """
    if dry_run:
        with database.read() as connection:
            return _rows(connection, given, database.clock())[0]
    with database.write() as t:
        receipts, rows = _rows(t.connection, given, t.now)
        if rows:
            t.execute(sa.insert(FeedbackRow), rows)
        for row in rows:
            # Without the comment, which may name the patient; the digest vouches for it.
            details = {name: row[name] for name in _AUDITED}
            t.audit(AuditKind.FEEDBACK, row["study_instance_uid"], row["sop_instance_uid"], **details)
    return receipts


def current(database: Database, since: float = 0.0) -> list[Recorded]:
    """The label that counts for each study and image, of those given since then, oldest first."""
    newest = {(label.study_instance_uid, label.sop_instance_uid): label for label in every(database, since)}
    return sorted(newest.values(), key=lambda label: label.at or 0.0)


def every(database: Database, since: float = 0.0, study: str | None = None) -> list[Recorded]:
    """All labels that were given since then, or those of one StudyInstanceUID; oldest first."""
    columns = [column for column in FeedbackRow.__table__.columns if column.name not in ("id", "digest")]
    query = sa.select(*columns).where(FeedbackRow.at >= since).order_by(FeedbackRow.at, FeedbackRow.id)
    if study is not None:
        query = query.where(FeedbackRow.study_instance_uid == study)
    with database.read() as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
    for row in rows:
        region = tuple((x, y) for x, y in json.loads(row["region"] or "[]"))
        row |= {"label": Label(row["label"]), "region": region}
    return [Recorded(**row) for row in rows]


def labelled_images(database: Database) -> list[tuple[str, Label, str]]:
    """SOPInstanceUID, label and group of the analyzed images that are known to be positive or negative.

    The label of an image takes precedence over that of its study. A negative study's images are all
    negative; a positive study's image is positive only if it is the only one. Images of one patient share a
    group, whose name does not identify the patient.
    """
    labels = {
        (label.study_instance_uid, label.sop_instance_uid): label.label
        for label in current(database)
        if label.label != Label.UNCERTAIN
    }
    query = (
        select_instances(StudyRow.study_instance_uid, InstanceRow.sop_instance_uid, InstanceRow.patient_id)
        .where(
            InstanceRow.state == InstanceState.ANALYZED,
            StudyRow.study_instance_uid.in_(sa.select(FeedbackRow.study_instance_uid)),
        )
        .order_by(InstanceRow.id)
    )
    with database.read() as connection:
        namespace = connection.execute(sa.select(NodeRow.namespace)).scalar_one_or_none()
        patients = {(study, image): patient for study, image, patient in connection.execute(query)}
    images_of = Counter(study for study, _ in patients)
    labelled: list[tuple[str, Label, str]] = []
    for (study, image), patient in patients.items():
        whole = labels.get((study, None))
        if whole == Label.POSITIVE and images_of[study] > 1:
            whole = None
        label = labels.get((study, image), whole)
        if label is not None:
            group = hashlib.sha256(f"{namespace}:{patient or study}".encode()).hexdigest()[:16]
            labelled.append((image, label, group))
    return labelled


def _rows(
    connection: sa.Connection, given: Sequence[Feedback], now: float
) -> tuple[list[Receipt], list[dict[str, Any]]]:
    """A receipt for each label, and the rows of those that are new."""
    receipts, rows = [], []
    known = set(connection.execute(sa.select(FeedbackRow.digest)).scalars())
    for label in given:
        study = _study(connection, label)
        if study is None:
            receipts.append(Receipt.UNKNOWN)
            continue
        label = replace(label, study_instance_uid=study)
        # All but the source, which makes no other label of it.
        identity = [
            study,
            label.sop_instance_uid,
            label.label,
            label.who,
            label.at,
            label.region,
            label.comment,
        ]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        receipts.append(Receipt.KNOWN if digest in known else Receipt.ADDED)
        if digest not in known:
            known.add(digest)
            rows.append(_row(connection, label, digest, now))
    return receipts, rows


def _study(connection: sa.Connection, label: Feedback) -> str | None:
    """The study that a label is for; None if it, or the image, was never received."""
    query = sa.select(StudyRow.study_instance_uid).order_by(StudyRow.id.desc()).limit(1)
    if label.study_instance_uid:
        query = query.where(StudyRow.study_instance_uid == label.study_instance_uid)
    if label.sop_instance_uid:
        query = query.join(InstanceRow, InstanceRow.study_id == StudyRow.id).where(
            InstanceRow.sop_instance_uid == label.sop_instance_uid
        )
    return connection.execute(query).scalar_one_or_none()


def _row(connection: sa.Connection, label: Feedback, digest: str, now: float) -> dict[str, Any]:
    """A label as a row, with the newest model's finding in its study or image."""
    query = (
        select_instances(
            InstanceRow.sop_instance_uid,
            FindingRow.model_id,
            FindingRow.model_key,
            FindingRow.probability,
            FindingRow.positive,
        )
        .join(FindingRow, FindingRow.instance_id == InstanceRow.id)
        .where(StudyRow.study_instance_uid == label.study_instance_uid)
        .order_by(FindingRow.id)
    )
    if label.sop_instance_uid:
        query = query.where(InstanceRow.sop_instance_uid == label.sop_instance_uid)
    rows = connection.execute(query).all()
    newest = {row.sop_instance_uid: row for row in rows if row.model_key == rows[-1].model_key}
    findings = list(newest.values())
    return {
        "digest": digest,
        "recorded_at": now,
        "study_instance_uid": label.study_instance_uid,
        "sop_instance_uid": label.sop_instance_uid,
        "label": label.label,
        "who": label.who,
        "at": now if label.at is None else label.at,
        "region": json.dumps(label.region) if label.region else None,
        "comment": label.comment,
        "source": label.source,
        "model_id": findings[0].model_id if findings else None,
        "model_key": findings[0].model_key if findings else None,
        "probability": max((row.probability for row in findings), default=None),
        "positive": any(row.positive for row in findings) if findings else None,
    }


def read_csv(path: Path, by: str | None = None) -> list[tuple[int, Feedback]]:
    """The labels of a CSV file (`CSV_COLUMNS`), each with its line; `by` is who gave those without a name.

    Times are ISO 8601, without an offset local. Raises InputError with one line for each wrong line.
    """
    labels, wrong = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or ()
            if set(names) - set(CSV_COLUMNS) or not {"label"} < set(names) & set(CSV_COLUMNS[:3]):
                raise InputError(
                    f"{path}: its columns must be label and study_instance_uid or sop_instance_uid; "
                    f"{', '.join(CSV_COLUMNS)} are known, no others"
                )
            for row in reader:
                try:
                    labels.append((reader.line_num, _parsed(row, by, path.name)))
                except ValueError as error:
                    wrong.append(f"{path}:{reader.line_num}: {error}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV in UTF-8 ({type(error).__name__})") from error
    if wrong:
        raise InputError("\n".join(wrong))
    return labels


def _parsed(row: dict[str, str | None], by: str | None, source: str) -> Feedback:
    """One row of a CSV file. Raises ValueError with advice."""
    study, image, label, who, when, comment = ((row.get(name) or "").strip() for name in CSV_COLUMNS)
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
