"""What a PACS says of how many images a study has, beside what was received of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pacs_node.journal.database import Database
from pacs_node.journal.schema import InstanceRow, StudyRow
from pacs_node.records import AuditKind, InstanceState, StudyState


@dataclass(frozen=True, slots=True)
class Uncounted:
    """A study in its quiet period, with what is here of it."""

    id: int
    study_instance_uid: str
    revision: int
    here: Mapping[str, set[str]]
    """SOP Instance UIDs by Series Instance UID, of all that was received."""
    images: int
    """How many of them have an accepted modality."""
    senders: frozenset[str]
    """Calling AE titles of the images, or of whatever came where there is no image."""


def due(database: Database, quiet_seconds: float, modalities: Sequence[str]) -> Uncounted | None:
    """A study whose PACS is to be asked: quiet for a quarter of the period, nothing of it left to analyze.

    Each revision is asked for once.
    """
    now = database.clock()
    waiting = sa.exists().where(
        InstanceRow.study_id == StudyRow.id, InstanceRow.state == InstanceState.RECEIVED
    )
    query = (
        sa.select(StudyRow.id, StudyRow.study_instance_uid, StudyRow.revision)
        .where(
            StudyRow.state == StudyState.OPEN,
            StudyRow.due_at > now,
            StudyRow.last_received_at <= now - quiet_seconds / 4,
            StudyRow.counted_revision.is_distinct_from(StudyRow.revision),
            ~waiting,
        )
        .order_by(StudyRow.due_at)
        .limit(1)
    )
    with database.read() as connection:
        study = connection.execute(query).one_or_none()
        if study is None:
            return None
        objects = connection.execute(
            sa.select(
                InstanceRow.series_instance_uid,
                InstanceRow.sop_instance_uid,
                InstanceRow.modality,
                InstanceRow.calling_ae_title,
                InstanceRow.state,
            ).where(InstanceRow.study_id == study.id)
        ).all()
    here: dict[str, set[str]] = {}
    for item in objects:
        here.setdefault(item.series_instance_uid, set()).add(item.sop_instance_uid)
    images = {item.sop_instance_uid for item in objects if item.modality in modalities}
    relevant = [item for item in objects if item.state != InstanceState.SKIPPED] or objects
    senders = frozenset(item.calling_ae_title for item in relevant)
    return Uncounted(study.id, study.study_instance_uid, study.revision, here, len(images), senders)


def record(
    database: Database,
    study: Uncounted,
    quiet_seconds: float,
    destination: str,
    expected: int,
    missing: Sequence[str],
) -> bool:
    """Keep what a destination said; where all is here, a quarter of the quiet period is enough.

    False where an image came in since, or somebody else was faster.
    """
    # Where the PACS has fewer than we, it is still receiving, or it is not where the images come from.
    complete = not missing and expected >= study.images > 0
    enough = StudyRow.last_received_at + quiet_seconds / 4
    values = {
        "expected": expected,
        "missing": json.dumps(list(missing)),
        "due_at": sa.case((StudyRow.due_at > enough, enough), else_=StudyRow.due_at),
    }
    if not complete:
        del values["due_at"]
    return _record(
        database,
        study,
        values,
        AuditKind.STUDY_COUNTED,
        destination=destination,
        expected=expected,
        received=study.images,
        missing=list(missing),
        complete=complete,
    )


def record_failure(database: Database, study: Uncounted, why: str) -> bool:
    """Keep that nobody could be asked; the quiet period runs on."""
    return _record(database, study, {}, AuditKind.STUDY_NOT_COUNTED, why=why)


def _record(
    database: Database, study: Uncounted, values: dict[str, Any], event: AuditKind, **details: Any
) -> bool:
    uncounted = sa.and_(
        StudyRow.id == study.id,
        StudyRow.state == StudyState.OPEN,
        StudyRow.revision == study.revision,
        StudyRow.counted_revision.is_distinct_from(study.revision),
    )
    with database.write() as t:
        update = sa.update(StudyRow).where(uncounted).values(counted_revision=study.revision, **values)
        if t.execute(update).rowcount == 0:
            return False
        t.audit(
            event,
            study.study_instance_uid,
            revision=study.revision,
            **details,
        )
        return True


def missing(connection: sa.Connection, study_id: int) -> list[str]:
    """SOP Instance UIDs that the PACS has, as far as it was asked, and that have still not come."""
    listed = connection.execute(sa.select(StudyRow.missing).where(StudyRow.id == study_id)).scalar_one()
    uids = json.loads(listed)
    if not uids:
        return []
    query = sa.select(InstanceRow.sop_instance_uid).where(InstanceRow.study_id == study_id)
    here = set(connection.execute(query).scalars())
    return [uid for uid in uids if uid not in here]


def missing_images(database: Database, study_id: int) -> int:
    """How many images the PACS has of a study, as far as it was asked, that have still not come."""
    with database.read() as connection:
        return len(missing(connection, study_id))
