"""The queue of results on their way to their destinations."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from pacs_node.journal import audit, queue
from pacs_node.journal.database import Database
from pacs_node.journal.schema import (
    DeliveryRow,
    ResultRow,
    StudyRow,
)
from pacs_node.records import (
    Delivery,
    DeliveryState,
)


def claim_deliveries(database: Database, destination: str, limit: int) -> queue.Claim[Delivery] | None:
    """What is due for one destination, of one study, Secondary Captures before the SR."""
    due = (
        sa.select(DeliveryRow.id, ResultRow.study_id)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .where(
            DeliveryRow.destination == destination,
            queue.claimable(DeliveryRow, DeliveryState.PENDING, database.clock()),
        )
        .order_by(DeliveryRow.due_at, DeliveryRow.id)
    )
    with database.read() as connection:
        if connection.execute(due.limit(1)).first() is None:
            return None
    with database.write() as connection:
        first = connection.execute(due.limit(1)).one_or_none()
        if first is None:
            return None
        of_study = due.where(ResultRow.study_id == first.study_id).order_by(None)
        ids = (
            connection.execute(of_study.order_by(ResultRow.role, DeliveryRow.id).limit(limit)).scalars().all()
        )
        token = queue.lease(connection, DeliveryRow, ids, database.clock())
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
        items = tuple(
            Delivery(destination=destination, **row) for row in connection.execute(query).mappings()
        )
        return queue.Claim(token, items)


def finish_delivery(
    database: Database,
    token: str,
    delivery: Delivery,
    state: DeliveryState,
    status: int | None,
    comment: str,
    retry_after: float = 0.0,
) -> bool:
    """Record what a destination answered; a delivery that stays PENDING is due again after `retry_after`."""
    event = {
        DeliveryState.PENDING: "delivery_failed",
        DeliveryState.SENT: "sent",
        DeliveryState.QUARANTINED: "delivery_quarantined",
    }[state]
    with database.write() as connection:
        now = database.clock()
        values: dict[str, Any] = {
            "state": state,
            "last_status": status,
            "last_comment": comment,
            "due_at": now + retry_after,
        }
        if state == DeliveryState.SENT:
            values["sent_at"] = now
        if not queue.finish(connection, DeliveryRow, delivery.id, token, **values):
            return False
        audit.append(
            connection,
            now,
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
