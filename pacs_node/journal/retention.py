"""Deletion of studies that have been kept long enough, and which files the journal names."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import sqlalchemy as sa

from pacs_node.journal.database import Database
from pacs_node.journal.schema import DeliveryRow, FindingRow, InstanceRow, ReportRow, ResultRow, StudyRow
from pacs_node.records import AuditKind, DeliveryState, StudyState

_DONE = (DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.DISCARDED)
_CLOSED = (StudyState.REPORTED, StudyState.SKIPPED)
_OBJECTS: tuple[type[InstanceRow] | type[ResultRow], ...] = (InstanceRow, ResultRow)
_PAGE = 500


def expired(database: Database, before: float, committing: Collection[str]) -> Iterator[tuple[int, str]]:
    """Id and StudyInstanceUID of the studies that `purge` would delete, oldest first."""
    query = (
        sa.select(StudyRow.id, StudyRow.study_instance_uid)
        .where(_is_expired(before, committing))
        .order_by(StudyRow.id)
        .limit(_PAGE)
    )
    after = 0
    while True:
        with database.read() as connection:
            page = [
                (row.id, row.study_instance_uid)
                for row in connection.execute(query.where(StudyRow.id > after))
            ]
        if not page:
            return
        yield from page
        after = page[-1][0]


def digests(database: Database, study_id: int) -> set[str]:
    """The files that a study's rows name, by their sha256."""
    queries = (sa.select(row.sha256).where(row.study_id == study_id) for row in _OBJECTS)
    with database.read() as connection:
        return {sha256 for query in queries for sha256 in connection.execute(query).scalars()}


def named(database: Database, sha256s: Collection[str]) -> set[str]:
    """Those of these files that any row names."""
    ordered, result = sorted(sha256s), set[str]()
    with database.read() as connection:
        for start in range(0, len(ordered), _PAGE):
            for row in _OBJECTS:
                query = sa.select(row.sha256).where(row.sha256.in_(ordered[start : start + _PAGE]))
                result.update(connection.execute(query).scalars())
    return result


def purge(database: Database, study_id: int, before: float, committing: Collection[str]) -> bool:
    """Delete all rows of a study with one audit event; the audit log and labels stay.

    False if the study may not be deleted (any more): it is open or failed, something of it was received or
    delivered since `before`, or a result is not delivered yet; to a destination of `committing`, committed.
    """
    with database.write() as t:
        study = t.execute(
            sa.select(StudyRow.study_instance_uid)
            .where(StudyRow.id == study_id, _is_expired(before, committing))
            .with_for_update(of=StudyRow)
        ).scalar_one_or_none()
        if study is None:
            return False
        received, results = (
            sorted(
                f"{uid} {sha256}"
                for uid, sha256 in t.execute(
                    sa.select(row.sop_instance_uid, row.sha256).where(row.study_id == study_id)
                )
            )
            for row in _OBJECTS
        )
        instance_ids, result_ids = (sa.select(row.id).where(row.study_id == study_id) for row in _OBJECTS)
        t.execute(sa.delete(FindingRow).where(FindingRow.instance_id.in_(instance_ids)))
        t.execute(sa.delete(DeliveryRow).where(DeliveryRow.result_id.in_(result_ids)))
        t.execute(sa.delete(ResultRow).where(ResultRow.study_id == study_id))
        t.execute(sa.delete(ReportRow).where(ReportRow.study_id == study_id))
        t.execute(sa.delete(InstanceRow).where(InstanceRow.study_id == study_id))
        t.execute(sa.delete(StudyRow).where(StudyRow.id == study_id))
        t.audit(AuditKind.PURGED, study, instances=received, results=results)
        return True


def _is_expired(before: float, committing: Collection[str]) -> sa.ColumnElement[bool]:
    uncommitted = sa.and_(
        DeliveryRow.state == DeliveryState.SENT, DeliveryRow.destination.in_(list(committing))
    )
    needed = (
        sa.exists()
        .where(
            ResultRow.study_id == StudyRow.id,
            DeliveryRow.result_id == ResultRow.id,
            sa.or_(
                DeliveryRow.state.not_in(_DONE),
                uncommitted,
                DeliveryRow.sent_at >= before,
                DeliveryRow.committed_at >= before,
            ),
        )
        .correlate(StudyRow)
    )
    return sa.and_(StudyRow.state.in_(_CLOSED), StudyRow.last_received_at < before, ~needed)
