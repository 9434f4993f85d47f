"""The queue of results on their way to their destinations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from pacs_node.journal import queue
from pacs_node.journal.database import Database
from pacs_node.journal.schema import (
    AuditRow,
    DeliveryRow,
    ResultRow,
    StudyRow,
)
from pacs_node.journal.transaction import Transaction
from pacs_node.records import (
    AuditKind,
    Delivery,
    DeliveryState,
    Study,
)

STALLED_ATTEMPTS = 10
"""Tried in vain so often, which with the back-off takes about an hour, a delivery needs somebody's eye."""


class Waiting(NamedTuple):
    """What waits for a destination."""

    pending: int = 0
    oldest_at: float | None = None
    """When the oldest of these results was made."""
    stalled: int = 0
    """Of these, tried in vain so often that somebody should look."""
    quarantined: int = 0


def waiting(database: Database) -> dict[str, Waiting]:
    """What has not got to each destination, by its name; without those that have got everything."""
    pending = DeliveryRow.state == DeliveryState.PENDING
    stalled = sa.and_(pending, DeliveryRow.attempts >= STALLED_ATTEMPTS)
    query = (
        sa.select(
            DeliveryRow.destination,
            sa.func.count(sa.case((pending, 1))),
            sa.func.min(sa.case((pending, ResultRow.created_at))),
            sa.func.count(sa.case((stalled, 1))),
            sa.func.count(sa.case((DeliveryRow.state == DeliveryState.QUARANTINED, 1))),
        )
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .where(DeliveryRow.state.in_((DeliveryState.PENDING, DeliveryState.QUARANTINED)))
        .group_by(DeliveryRow.destination)
    )
    with database.read() as connection:
        return {name: Waiting(*told) for name, *told in connection.execute(query)}


def claim_deliveries(database: Database, destination: str, limit: int) -> queue.Claim[Delivery] | None:
    """What is due for one destination, of one study, Secondary Captures before the SR."""
    due = sa.and_(
        DeliveryRow.destination == destination,
        queue.claimable(DeliveryRow, DeliveryState.PENDING, database.clock()),
    )
    oldest = (
        sa.select(StudyRow.id)
        .join(ResultRow, ResultRow.study_id == StudyRow.id)
        .join(DeliveryRow, DeliveryRow.result_id == ResultRow.id)
        .where(due)
        .order_by(DeliveryRow.due_at, DeliveryRow.id)
        .limit(1)
    )
    with database.read() as connection:
        if connection.execute(oldest).first() is None:
            return None
    with database.write() as t:
        # The study is locked, so that two processes do not share its results between them.
        study_id = t.execute(queue.locked(oldest, StudyRow)).scalar_one_or_none()
        # What is due is told apart here: as a condition, it has SQLite look at all that is due.
        of_study = (
            sa.select(DeliveryRow.id, due.label("is_due"))
            .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
            .where(ResultRow.study_id == study_id)
            .order_by(ResultRow.role, DeliveryRow.id)
        )
        rows = t.execute(queue.locked(of_study, DeliveryRow)).all()
        ids = [row.id for row in rows if row.is_due][:limit]
        if not ids:
            return None
        token = queue.lease(t, DeliveryRow, ids)
        query = (
            sa.select(
                DeliveryRow.id,
                DeliveryRow.attempts,
                DeliveryRow.result_id,
                ResultRow.study_id,
                ResultRow.role,
                ResultRow.sop_instance_uid,
                ResultRow.sop_class_uid,
                ResultRow.sha256,
                StudyRow.study_instance_uid,
            )
            .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
            .join(StudyRow, StudyRow.id == ResultRow.study_id)
            .where(DeliveryRow.id.in_(ids))
            .order_by(ResultRow.role, DeliveryRow.id)
        )
        items = tuple(Delivery(destination=destination, **row) for row in t.execute(query).mappings())
        return queue.Claim(token, items)


def informed(database: Database, study: Study) -> set[str]:
    """The destinations that an earlier report of a study went or is to go to."""
    query = (
        sa.select(DeliveryRow.destination)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .where(
            ResultRow.study_id == study.id,
            ResultRow.role == "SR",
            DeliveryRow.state != DeliveryState.DISCARDED,
        )
        .distinct()
    )
    with database.read() as connection:
        return set(connection.execute(query).scalars())


def add(t: Transaction, uids: Sequence[str], role: str, destination: str) -> None:
    """Let the results of this role among `uids` that a destination has not got go there.

    In the caller's transaction, the one that commits their report.
    """
    there = sa.exists().where(DeliveryRow.result_id == ResultRow.id, DeliveryRow.destination == destination)
    lacking = (
        sa.select(ResultRow.id)
        .where(ResultRow.sop_instance_uid.in_(uids), ResultRow.role == role, ~there)
        .order_by(ResultRow.id)
    )
    rows = [
        {"result_id": id_, "destination": destination, "state": DeliveryState.PENDING, "due_at": t.now}
        for id_ in t.execute(lacking).scalars()
    ]
    if rows:
        t.execute(sa.insert(DeliveryRow), rows)


def was_sent(database: Database, delivery: Delivery) -> bool:
    """Whether the audit log, which outlives a purge, says that this UID was sent to this destination."""
    query = sa.select(AuditRow.details).where(
        AuditRow.study_instance_uid == delivery.study_instance_uid,
        AuditRow.sop_instance_uid == delivery.sop_instance_uid,
        AuditRow.event == AuditKind.SENT,
    )
    with database.read() as connection:
        told = connection.execute(query).scalars()
        return any(json.loads(details)["destination"] == delivery.destination for details in told)


def is_stalled(attempts: int) -> bool:
    """Whether an attempt in vain is one to raise the alarm at."""
    return attempts % STALLED_ATTEMPTS == 0


def finish_delivery(
    database: Database,
    token: str,
    delivery: Delivery,
    state: DeliveryState,
    status: int | None,
    comment: str,
    retry_after: float = 0.0,
    commitment: bool = False,
) -> bool:
    """Record what a destination answered; a delivery that stays PENDING is due again after `retry_after`.

    With `commitment`, one that was sent is delivered only once the archive has committed to keep it.
    """
    event = {
        DeliveryState.PENDING: AuditKind.DELIVERY_STALLED
        if is_stalled(delivery.attempts)
        else AuditKind.DELIVERY_FAILED,
        DeliveryState.SENT: AuditKind.SENT,
        DeliveryState.QUARANTINED: AuditKind.DELIVERY_QUARANTINED,
    }[state]
    with database.write() as t:
        values: dict[str, Any] = {
            "state": state,
            "last_status": status,
            "last_comment": comment,
            "due_at": t.now + retry_after,
        }
        if state == DeliveryState.SENT:
            values |= {"sent_at": t.now, "transaction_uid": "" if commitment else None}
        if not queue.finish(t, DeliveryRow, delivery.id, token, **values):
            return False
        t.audit(
            event,
            delivery.study_instance_uid,
            delivery.sop_instance_uid,
            role=delivery.role,
            destination=delivery.destination,
            status=None if status is None else f"0x{status:04X}",
            comment=comment,
            attempt=delivery.attempts,
        )
        return True
