"""What people ask of the journal; read only. Every answer is plain data, ready for a table or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from pacs_node.journal import commitments, counting
from pacs_node.journal.database import Database
from pacs_node.journal.instances import finding_of
from pacs_node.journal.schema import DeliveryRow, FindingRow, InstanceRow, ReportRow, ResultRow, StudyRow
from pacs_node.records import DeliveryState, Finding, Instance, InstanceState, StudyState


class Answer(NamedTuple):
    """What a model said of one image, and where the image was made; see `Finding`."""

    model_id: str
    model_key: str
    station: str
    probability: float
    positive: bool
    brightness: float
    created_at: float


def answers(database: Database, since: float) -> list[Answer]:
    """What was said of images since then, oldest first; findings of before schema 0002 are left out."""
    query = (
        sa.select(*(getattr(FindingRow, name) for name in Answer._fields))
        .where(FindingRow.created_at >= since, FindingRow.station.is_not(None))
        .order_by(FindingRow.created_at, FindingRow.id)
    )
    with database.read() as connection:
        return [Answer(*row) for row in connection.execute(query)]


class Said(NamedTuple):
    """What was last said of one image, by which model, and when."""

    finding: Finding
    model_id: str
    at: float


def last_said(database: Database, instances: Sequence[Instance]) -> dict[int, Said]:
    """The newest finding of each of these images that is analyzed, of whatever model, by instance id."""
    ids = [one.id for one in instances if one.state == InstanceState.ANALYZED]
    query = sa.select(FindingRow.__table__).where(FindingRow.instance_id.in_(ids)).order_by(FindingRow.id)
    with database.read() as connection:
        return {
            row.instance_id: Said(finding_of(row), row.model_id or "", row.created_at)
            for row in connection.execute(query)
        }


def counts(database: Database) -> dict[str, dict[str, int]]:
    """How many instances, studies and deliveries are in each state."""
    tables: dict[str, Any] = {"instances": InstanceRow, "studies": StudyRow, "deliveries": DeliveryRow}
    with database.read() as connection:
        return {
            name: {
                str(state): int(count)
                for state, count in connection.execute(
                    sa.select(row.state, sa.func.count()).group_by(row.state).order_by(row.state)
                )
            }
            for name, row in tables.items()
        }


class Image(NamedTuple):
    """An X-ray as it came in."""

    received_at: float
    calling_ae_title: str
    address: str
    sha256: str


def newest_images(database: Database, limit: int) -> list[Image]:
    """The X-rays that came last, newest first; what is not analyzed is left out."""
    query = (
        sa.select(*(getattr(InstanceRow, name) for name in Image._fields))
        .where(InstanceRow.state != InstanceState.SKIPPED)
        .order_by(InstanceRow.id.desc())
        .limit(limit)
    )
    with database.read() as connection:
        return [Image(*row) for row in connection.execute(query)]


def studies(database: Database, limit: int) -> list[dict[str, Any]]:
    """The studies that were last heard of, newest first, each with its newest report's words."""
    newest = (
        sa.select(sa.func.max(ReportRow.id))
        .where(ReportRow.study_id == StudyRow.id)
        .correlate(StudyRow)
        .scalar_subquery()
    )
    images = (
        sa.select(sa.func.count())
        .where(InstanceRow.study_id == StudyRow.id)
        .correlate(StudyRow)
        .scalar_subquery()
    )
    query = (
        sa.select(
            StudyRow.id,
            StudyRow.study_instance_uid,
            StudyRow.state,
            StudyRow.reason,
            StudyRow.first_received_at,
            StudyRow.last_received_at,
            images.label("objects"),
            ReportRow.outcome,
            ReportRow.summary,
            ReportRow.created_at.label("reported_at"),
        )
        .outerjoin(ReportRow, ReportRow.id == newest)
        .order_by(StudyRow.last_received_at.desc())
        .limit(limit)
    )
    with database.read() as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
        delivered = _deliveries_by_study(connection, [row["id"] for row in rows])
    return [row | {"state": _shown(row["state"], delivered.get(row.pop("id"), set()))} for row in rows]


def study(database: Database, study_instance_uid: str) -> dict[str, Any] | None:
    """All that is known of one study: images, findings, reports, results and deliveries; None if unknown."""
    with database.read() as connection:
        row = (
            connection.execute(
                sa.select(StudyRow.__table__).where(StudyRow.study_instance_uid == study_instance_uid)
            )
            .mappings()
            .one_or_none()
        )
        if row is None:
            return None
        of_study = row["id"]
        instances = sa.select(
            InstanceRow.sop_instance_uid,
            InstanceRow.series_instance_uid,
            InstanceRow.modality,
            InstanceRow.state,
            InstanceRow.reason,
            InstanceRow.received_at,
            InstanceRow.calling_ae_title,
            InstanceRow.address,
            InstanceRow.sha256,
            FindingRow.probability,
            FindingRow.positive,
            FindingRow.created_at.label("analyzed_at"),
        ).outerjoin(FindingRow, FindingRow.instance_id == InstanceRow.id)
        reports = sa.select(
            ReportRow.revision,
            ReportRow.outcome,
            ReportRow.summary,
            ReportRow.model_id,
            ReportRow.created_at,
            ResultRow.sha256.label("sr_sha256"),
        ).outerjoin(ResultRow, sa.and_(ResultRow.report_id == ReportRow.id, ResultRow.role == "SR"))
        next_try = sa.case((DeliveryRow.state == DeliveryState.PENDING, DeliveryRow.due_at), else_=None)
        results = sa.select(
            ResultRow.role,
            ResultRow.sop_instance_uid,
            ResultRow.series_instance_uid,
            ResultRow.sha256,
            ResultRow.size,
            DeliveryRow.destination,
            DeliveryRow.state,
            DeliveryRow.attempts,
            next_try.label("next_try_at"),
            DeliveryRow.last_status,
            DeliveryRow.last_comment,
            DeliveryRow.sent_at,
            DeliveryRow.committed_at,
        ).outerjoin(DeliveryRow, DeliveryRow.result_id == ResultRow.id)
        delivered = _deliveries_by_study(connection, [of_study]).get(of_study, set())
        return {
            "study_instance_uid": row["study_instance_uid"],
            "state": _shown(row["state"], delivered),
            "reason": row["reason"],
            "revision": row["revision"],
            "expected": row["expected"],
            "missing": counting.missing(connection, of_study),
            "first_received_at": row["first_received_at"],
            "last_received_at": row["last_received_at"],
            "instances": _rows(connection, instances.where(InstanceRow.study_id == of_study), InstanceRow.id),
            "reports": _rows(connection, reports.where(ReportRow.study_id == of_study), ReportRow.id),
            "results": _rows(connection, results.where(ResultRow.study_id == of_study), ResultRow.id),
        }


def _rows(connection: sa.Connection, query: sa.Select[*tuple[Any, ...]], order: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query.order_by(order)).mappings()]


def _deliveries_by_study(connection: sa.Connection, ids: Sequence[int]) -> dict[int, set[str]]:
    # What was sent and is still to be promised is on its way.
    unproven = sa.and_(DeliveryRow.state == DeliveryState.SENT, ~commitments.delivered())
    state = sa.case((unproven, DeliveryState.PENDING), else_=DeliveryRow.state)
    query = (
        sa.select(ResultRow.study_id, state)
        .join(DeliveryRow, DeliveryRow.result_id == ResultRow.id)
        .where(ResultRow.study_id.in_(ids), DeliveryRow.state != DeliveryState.DISCARDED)
        .distinct()
    )
    states: dict[int, set[str]] = {}
    for study_id, state in connection.execute(query):
        states.setdefault(study_id, set()).add(state)
    return states


def _shown(state: str, deliveries: set[str]) -> str:
    """What people call READY (reported, on its way), DELIVERED and QUARANTINED is computed, never stored."""
    if state != StudyState.REPORTED or not deliveries:
        return state
    if DeliveryState.QUARANTINED in deliveries:
        return "QUARANTINED"
    return "READY" if DeliveryState.PENDING in deliveries else "DELIVERED"
