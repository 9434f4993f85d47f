"""Labels that come back: what a study or an image really showed, kept beside what had been said of it.

Labels are only ever added. Of several for one study or image the newest counts, so a correction is one more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from pacs_node.journal.database import Database
from pacs_node.journal.schema import FeedbackRow, FindingRow, InstanceRow, NodeRow, StudyRow
from pacs_node.records import AuditKind, InstanceState, Point

_AUDITED = ("digest", "label", "who", "at", "source", "model_id", "model_key", "probability", "positive")


class Label(StrEnum):
    """What was really there."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    UNCERTAIN = "uncertain"


class Receipt(StrEnum):
    """What came of a label that was handed in."""

    ADDED = "added"
    KNOWN = "known"
    """The very same was added before."""
    UNKNOWN = "unknown"
    """No such study or image was received, or the image is not of the study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """One label for a study, or for one image of it."""

    label: Label
    who: str
    study_instance_uid: str = ""
    """May stay empty where the image is named."""
    sop_instance_uid: str | None = None
    """None: the label is for the study as a whole."""
    at: float | None = None
    """When it was given; None: now."""
    region: tuple[Point, ...] = ()
    """Where, as a polygon in source pixels; empty where nobody drew it."""
    comment: str = ""
    source: str = ""
    """How it came, such as the name of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded(Feedback):
    """A label with what had been said when it was recorded; None where nothing had been said."""

    recorded_at: float
    model_id: str | None
    model_key: str | None
    probability: float | None
    """Of the image; for a study, the highest of its images."""
    positive: bool | None


def add(database: Database, given: Sequence[Feedback], dry_run: bool = False) -> list[Receipt]:
    """Record labels in one transaction, each with an audit event; says of each what came of it.

    What was added before is not added again. A dry run says the same and records nothing.
    """
    if dry_run:
        with database.read() as connection:
            return _judge(connection, given, database.clock())[0]
    with database.write() as t:
        receipts, rows = _judge(t.connection, given, t.now)
        if rows:
            t.execute(sa.insert(FeedbackRow), rows)
        for row in rows:
            # Without the comment, which may speak of the patient; the digest vouches for it.
            t.audit(
                AuditKind.FEEDBACK,
                row["study_instance_uid"],
                row["sop_instance_uid"],
                **{name: row[name] for name in _AUDITED},
            )
    return receipts


def _judge(
    connection: sa.Connection, given: Sequence[Feedback], now: float
) -> tuple[list[Receipt], list[dict[str, Any]]]:
    receipts, rows = [], []
    known = set(connection.execute(sa.select(FeedbackRow.digest)).scalars())
    for one in given:
        study = _study(connection, one)
        if study is None:
            receipts.append(Receipt.UNKNOWN)
            continue
        label = replace(one, study_instance_uid=study)
        digest = _digest(label)
        receipts.append(Receipt.KNOWN if digest in known else Receipt.ADDED)
        if digest not in known:
            known.add(digest)
            rows.append({"digest": digest, **_row(connection, label, now)})
    return receipts, rows


def current(database: Database, since: float = 0.0) -> list[Recorded]:
    """The label that counts for each study and image, of those given since then, oldest first."""
    newest = {(one.study_instance_uid, one.sop_instance_uid): one for one in every(database, since)}
    return sorted(newest.values(), key=lambda one: one.at or 0.0)


def every(database: Database, since: float = 0.0, study: str | None = None) -> list[Recorded]:
    """All labels that were given since then, or those of one StudyInstanceUID; oldest first."""
    query = (
        sa.select(FeedbackRow.__table__)
        .where(FeedbackRow.at >= since)
        .order_by(FeedbackRow.at, FeedbackRow.id)
    )
    if study is not None:
        query = query.where(FeedbackRow.study_instance_uid == study)
    with database.read() as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
    for row in rows:
        del row["id"], row["digest"]
        region = tuple((x, y) for x, y in json.loads(row["region"] or "[]"))
        row |= {"label": Label(row["label"]), "region": region}
    return [Recorded(**row) for row in rows]


def labelled_images(database: Database) -> list[tuple[str, Label, str]]:
    """SOPInstanceUID, label and group of the analyzed images that are known to be positive or negative.

    A label of the image goes before that of its study. A negative study's images are all negative; a positive
    study tells of its image only where it has one. Images of one patient share a group, whose name does not
    tell who it is.
    """
    labels = {
        (one.study_instance_uid, one.sop_instance_uid): one.label
        for one in current(database)
        if one.label != Label.UNCERTAIN
    }
    query = (
        sa.select(StudyRow.study_instance_uid, InstanceRow.sop_instance_uid, InstanceRow.patient_id)
        .join(StudyRow, StudyRow.id == InstanceRow.study_id)
        .where(
            InstanceRow.state == InstanceState.ANALYZED,
            StudyRow.study_instance_uid.in_(sa.select(FeedbackRow.study_instance_uid)),
        )
        .order_by(InstanceRow.id)
    )
    with database.read() as connection:
        namespace = connection.execute(sa.select(NodeRow.namespace)).scalar_one_or_none()
        images = {(study, image): patient for study, image, patient in connection.execute(query)}
    of_study: dict[str, list[str]] = {}
    for study, image in images:
        of_study.setdefault(study, []).append(image)
    found: list[tuple[str, Label, str]] = []
    for (study, image), patient in images.items():
        whole = labels.get((study, None))
        if whole == Label.POSITIVE and len(of_study[study]) > 1:
            whole = None
        label = labels.get((study, image), whole)
        group = hashlib.sha256(f"{namespace}:{patient or study}".encode()).hexdigest()[:16]
        if label is not None:
            found.append((image, label, group))
    return found


def _digest(one: Feedback) -> str:
    """What makes two labels the same one: all but how they came."""
    said = [one.study_instance_uid, one.sop_instance_uid, one.label, one.who, one.at, one.region, one.comment]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _study(connection: sa.Connection, one: Feedback) -> str | None:
    """The study that a label is for; None where it, or the image, was never received."""
    query = sa.select(StudyRow.study_instance_uid).order_by(StudyRow.id.desc()).limit(1)
    if one.study_instance_uid:
        query = query.where(StudyRow.study_instance_uid == one.study_instance_uid)
    if one.sop_instance_uid:
        query = query.join(InstanceRow, InstanceRow.study_id == StudyRow.id).where(
            InstanceRow.sop_instance_uid == one.sop_instance_uid
        )
    return connection.execute(query).scalar_one_or_none()


def _row(connection: sa.Connection, one: Feedback, now: float) -> dict[str, Any]:
    """A label as a row, with what the newest model to speak had said of its study or image."""
    query = (
        sa.select(
            InstanceRow.sop_instance_uid,
            FindingRow.model_id,
            FindingRow.model_key,
            FindingRow.probability,
            FindingRow.positive,
        )
        .join(InstanceRow, InstanceRow.id == FindingRow.instance_id)
        .join(StudyRow, StudyRow.id == InstanceRow.study_id)
        .where(StudyRow.study_instance_uid == one.study_instance_uid)
        .order_by(FindingRow.id)
    )
    if one.sop_instance_uid:
        query = query.where(InstanceRow.sop_instance_uid == one.sop_instance_uid)
    rows = connection.execute(query).all()
    newest = {row.sop_instance_uid: row for row in rows if row.model_key == rows[-1].model_key}
    said = list(newest.values())
    return {
        "recorded_at": now,
        "study_instance_uid": one.study_instance_uid,
        "sop_instance_uid": one.sop_instance_uid,
        "label": one.label,
        "who": one.who,
        "at": now if one.at is None else one.at,
        "region": json.dumps(one.region) if one.region else None,
        "comment": one.comment,
        "source": one.source,
        "model_id": said[0].model_id if said else None,
        "model_key": said[0].model_key if said else None,
        "probability": max((row.probability for row in said), default=None),
        "positive": any(row.positive for row in said) if said else None,
    }
