"""The worklist: studies as people look for them, a page at a time, newest arrival first; read only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pacs_node.journal import commitments
from pacs_node.journal.database import Database
from pacs_node.journal.schema import DeliveryRow, FindingRow, InstanceRow, ReportRow, ResultRow, StudyRow
from pacs_node.records import DeliveryState, InstanceState, StudyState

STATES = ("OPEN", "READY", "DELIVERED", "QUARANTINED", "REPORTED", "SKIPPED", "FAILED")
"""What `views.studies` shows as the state; REPORTED is what goes nowhere."""
MOST_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class Filters:
    """What is looked for; what is empty does not matter."""

    state: str = ""
    outcome: str = ""
    modality: str = ""
    body_part: str = ""
    since: float | None = None
    """Received from then on."""
    until: float | None = None
    """Received before then."""
    words: tuple[str, ...] = ()
    """Each is found in the Study Instance UID, in the summary or reason, or, for who may, in the patient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One study of the list; times are None while a stage is not done."""

    id: int
    study_instance_uid: str
    state: str
    reason: str | None
    outcome: str | None
    """Of the newest report."""
    summary: str | None
    received_at: float
    complete_at: float
    """When the last of its images came in, of those that are analyzed; else its first object."""
    analyzed_at: float | None
    reported_at: float | None
    delivered_at: float | None
    patients: tuple[tuple[str, str], ...]
    """Name and ID; more than one is an identity conflict."""
    modalities: tuple[str, ...]
    body_parts: tuple[str, ...]
    images: int
    """Received to be analyzed."""
    waiting: int
    """Of these, still to be analyzed."""
    analyzed: int
    probability: float | None
    """The highest of the images, as the newest report's model said."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the list."""

    studies: tuple[Listed, ...]
    older: int | None
    """Where the next page begins; None at the end."""
    count: int
    """How many there are in all, up to MOST_COUNTED."""


def page(
    database: Database, filters: Filters, patients: bool, before: int | None = None, limit: int = 50
) -> Page:
    """The studies before a number of `Page.older`; without `patients` nobody is named nor found by a name."""
    wanted = _conditions(filters, patients)
    with database.read() as connection:
        every = _studies().where(*wanted)
        query = every if before is None else every.where(StudyRow.id < before)
        rows = connection.execute(query.order_by(StudyRow.id.desc()).limit(limit + 1)).mappings().all()
        counted = every.with_only_columns(StudyRow.id).limit(MOST_COUNTED).subquery()
        count = connection.execute(sa.select(sa.func.count()).select_from(counted)).scalar_one()
        shown = rows[:limit]
        images = _images(connection, [row["id"] for row in shown])
        delivered = _delivered(connection, [row["id"] for row in shown if row["state"] == "DELIVERED"])
    listed = (_listed(row, images.get(row["id"], []), delivered, patients) for row in shown)
    return Page(tuple(listed), shown[-1]["id"] if len(rows) > limit else None, count)


def choices(database: Database) -> tuple[list[str], list[str]]:
    """The modalities and the body parts that there are."""
    with database.read() as connection:
        modalities, parts = (
            connection.execute(sa.select(column).where(column != "").distinct().order_by(column)).scalars()
            for column in (InstanceRow.modality, InstanceRow.body_part)
        )
        return list(modalities), list(parts)


def failed(database: Database, since: float) -> int:
    """How many studies failed that were received since then."""
    query = sa.select(sa.func.count()).where(
        StudyRow.state == StudyState.FAILED, StudyRow.last_received_at >= since
    )
    with database.read() as connection:
        return connection.execute(query).scalar_one()


def _studies() -> sa.Select[Any]:
    newest = sa.select(sa.func.max(ReportRow.id)).where(ReportRow.study_id == StudyRow.id)
    return sa.select(
        StudyRow.id,
        StudyRow.study_instance_uid,
        _state().label("state"),
        StudyRow.reason,
        StudyRow.first_received_at.label("received_at"),
        ReportRow.outcome,
        ReportRow.summary,
        ReportRow.model_id,
        ReportRow.created_at.label("reported_at"),
    ).outerjoin(ReportRow, ReportRow.id == newest.correlate(StudyRow).scalar_subquery())


def _state() -> sa.Case[Any]:
    """The state as `views.studies` computes it."""

    def has(*conditions: sa.ColumnElement[bool]) -> sa.Exists:
        found = sa.select(DeliveryRow.id).join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        return found.where(ResultRow.study_id == StudyRow.id, *conditions).correlate(StudyRow).exists()

    on_its_way = sa.or_(
        DeliveryRow.state == DeliveryState.PENDING,
        sa.and_(DeliveryRow.state == DeliveryState.SENT, ~commitments.delivered()),
    )
    return sa.case(
        (StudyRow.state != StudyState.REPORTED, StudyRow.state),
        (has(DeliveryRow.state == DeliveryState.QUARANTINED), "QUARANTINED"),
        (has(on_its_way), "READY"),
        (has(DeliveryRow.state != DeliveryState.DISCARDED), "DELIVERED"),
        else_=StudyRow.state,
    )


def _conditions(filters: Filters, patients: bool) -> list[sa.ColumnElement[bool]]:
    of_study = InstanceRow.study_id == StudyRow.id
    wanted: list[sa.ColumnElement[bool]] = []
    if filters.state:
        wanted.append(_state() == filters.state)
    if filters.outcome:
        wanted.append(ReportRow.outcome == filters.outcome)
    if filters.modality:
        wanted.append(sa.exists().where(of_study, InstanceRow.modality == filters.modality))
    if filters.body_part:
        wanted.append(sa.exists().where(of_study, InstanceRow.body_part == filters.body_part))
    if filters.since is not None:
        wanted.append(StudyRow.first_received_at >= filters.since)
    if filters.until is not None:
        wanted.append(StudyRow.first_received_at < filters.until)
    for word in filters.words:
        places = [_has(StudyRow.study_instance_uid, word), _has(ReportRow.summary, word)]
        places.append(_has(StudyRow.reason, word))
        if patients:
            named = sa.or_(_has(InstanceRow.patient_name, word), _has(InstanceRow.patient_id, word))
            places.append(sa.exists().where(of_study, named))
        wanted.append(sa.or_(*places))
    return wanted


def _has(column: Any, word: str) -> sa.ColumnElement[bool]:
    # SQLite knows the case of ASCII only; names are mostly written in capitals.
    return sa.or_(*(column.icontains(one, autoescape=True) for one in sorted({word.lower(), word.upper()})))


def _images(connection: sa.Connection, ids: Sequence[int]) -> dict[int, list[Any]]:
    """The objects of each study, the newest of each SOPInstanceUID, each with its findings' rows."""
    query = (
        sa.select(
            InstanceRow.study_id,
            InstanceRow.id,
            InstanceRow.sop_instance_uid,
            InstanceRow.state,
            InstanceRow.received_at,
            InstanceRow.modality,
            InstanceRow.body_part,
            InstanceRow.patient_name,
            InstanceRow.patient_id,
            FindingRow.probability,
            FindingRow.model_id,
            FindingRow.created_at,
        )
        .outerjoin(FindingRow, FindingRow.instance_id == InstanceRow.id)
        .where(InstanceRow.study_id.in_(ids))
        .order_by(InstanceRow.id, FindingRow.id)
    )
    found: dict[int, dict[str, list[Any]]] = {}
    for row in connection.execute(query):
        versions = found.setdefault(row.study_id, {})
        before = versions.get(row.sop_instance_uid, [])
        same = bool(before) and before[0].id == row.id
        versions[row.sop_instance_uid] = [*before, row] if same else [row]
    return {study: [row for rows in objects.values() for row in rows] for study, objects in found.items()}


def _delivered(connection: sa.Connection, ids: Sequence[int]) -> dict[int, float]:
    """When the last result of each study was delivered."""
    done = sa.func.max(sa.func.coalesce(DeliveryRow.committed_at, DeliveryRow.sent_at))
    query = (
        sa.select(ResultRow.study_id, done)
        .join(DeliveryRow, DeliveryRow.result_id == ResultRow.id)
        .where(ResultRow.study_id.in_(ids))
        .group_by(ResultRow.study_id)
    )
    return dict(iter(connection.execute(query)))


def _listed(
    row: sa.RowMapping, objects: Sequence[Any], delivered: dict[int, float], patients: bool
) -> Listed:
    """One study from its row and its objects' rows, of which an object has one for each of its findings."""
    images = [one for one in objects if one.state != InstanceState.SKIPPED]
    said = {one.id: one for one in images if one.probability is not None}
    of_report = [one.probability for one in said.values() if one.model_id == row["model_id"]]
    return Listed(
        **{name: row[name] for name in row if name != "model_id"},
        complete_at=max((one.received_at for one in images), default=row["received_at"]),
        analyzed_at=max((one.created_at for one in said.values()), default=None),
        delivered_at=delivered.get(row["id"]),
        patients=tuple(sorted({(one.patient_name, one.patient_id) for one in objects})) if patients else (),
        modalities=tuple(sorted({one.modality for one in images or objects} - {""})),
        body_parts=tuple(sorted({one.body_part for one in images or objects} - {""})),
        images=len({one.id for one in images}),
        waiting=len({one.id for one in images if one.state == InstanceState.RECEIVED}),
        analyzed=len({one.id for one in images if one.state == InstanceState.ANALYZED}),
        probability=max(of_report, default=None),
    )
