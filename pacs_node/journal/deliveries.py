"""The queue of results on their way to their destinations."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa

from pacs_node.journal import audit, queue
from pacs_node.journal.database import Database
from pacs_node.journal.queue import Claim
from pacs_node.journal.schema import AuditRow, DeliveryRow, ResultRow, StudyRow, select_deliveries
from pacs_node.journal.transaction import Transaction
from pacs_node.records import AuditEvent, AuditKind, Delivery, DeliveryState, ResultRole, Study

STALLED_ATTEMPTS = 10
"""After so many failed attempts, which with the back-off take about an hour, a delivery needs attention."""
UNDELIVERED = (DeliveryState.PENDING, DeliveryState.QUARANTINED)


class Trouble(StrEnum):
    """Why a delivery, an image or a study needs attention."""

    QUARANTINED = "QUARANTINED"
    """Refused for good, or given up."""
    NO_DESTINATION = "NO DESTINATION"
    """For a destination that is no longer configured."""
    STALLED = "STALLED"
    """Still tried, so far in vain."""
    FAILED = "FAILED"
    """An image or a study."""


class Waiting(NamedTuple):
    """Results that wait for a destination."""

    pending: int = 0
    oldest_at: float | None = None
    """When the oldest pending result was made."""
    stalled: int = 0
    """Pending ones that need attention."""
    quarantined: int = 0


def waiting(database: Database) -> dict[str, Waiting]:
    """The results not delivered yet by destination, without destinations that got everything."""
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
        .where(DeliveryRow.state.in_(UNDELIVERED))
        .group_by(DeliveryRow.destination)
    )
    with database.read() as connection:
        return {name: Waiting(*counts) for name, *counts in connection.execute(query)}


def claim_deliveries(database: Database, destination: str, limit: int) -> Claim[Delivery] | None:
    """Due results of one study for one destination, Secondary Captures before the SR."""
    due = sa.and_(
        DeliveryRow.destination == destination,
        queue.claimable(DeliveryRow, DeliveryState.PENDING, database.clock()),
    )
    oldest = select_deliveries(StudyRow.id).where(due).order_by(DeliveryRow.due_at, DeliveryRow.id).limit(1)

    def pick(t: Transaction) -> list[int]:
        # The study is locked, so that two processes do not share its results between them.
        study_id = t.execute(queue.locked(oldest, StudyRow)).scalar_one_or_none()
        # `due` is evaluated as a column: as a condition, it makes SQLite look at everything that is due.
        of_study = (
            sa.select(DeliveryRow.id, due.label("is_due"))
            .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
            .where(ResultRow.study_id == study_id)
            .order_by(ResultRow.role, DeliveryRow.id)
        )
        rows = t.execute(queue.locked(of_study, DeliveryRow)).all()
        return [row.id for row in rows if row.is_due][:limit]

    def load(t: Transaction, ids: Sequence[int]) -> list[Delivery]:
        query = (
            select_deliveries(
                DeliveryRow.id,
                DeliveryRow.result_id,
                DeliveryRow.destination,
                DeliveryRow.attempts,
                ResultRow.study_id,
                ResultRow.role,
                ResultRow.sop_instance_uid,
                ResultRow.sop_class_uid,
                ResultRow.sha256,
                StudyRow.study_instance_uid,
            )
            .where(DeliveryRow.id.in_(ids))
            .order_by(ResultRow.role, DeliveryRow.id)
        )
        rows = t.execute(query).mappings()
        return [Delivery(**{**row, "role": ResultRole(row["role"])}) for row in rows]

    return queue.claim(database, DeliveryRow, oldest, pick, load)


def informed(database: Database, study: Study) -> set[str]:
    """The destinations of a study's earlier reports."""
    query = (
        sa.select(DeliveryRow.destination)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .where(
            ResultRow.study_id == study.id,
            ResultRow.role == ResultRole.SR,
            DeliveryRow.state != DeliveryState.DISCARDED,
        )
        .distinct()
    )
    with database.read() as connection:
        return set(connection.execute(query).scalars())


def add(t: Transaction, uids: Sequence[str], role: str, destination: str) -> None:
    """Let the results of this role among `uids` go to a destination that has not got them."""
    there = sa.exists().where(DeliveryRow.result_id == ResultRow.id, DeliveryRow.destination == destination)
    values = {"destination": destination, "state": DeliveryState.PENDING, "due_at": t.now}
    lacking = (
        sa.select(ResultRow.id, *map(sa.literal, values.values()))
        .where(ResultRow.sop_instance_uid.in_(uids), ResultRow.role == role, ~there)
        .order_by(ResultRow.id)
    )
    t.execute(sa.insert(DeliveryRow).from_select(["result_id", *values], lacking))


def was_sent(database: Database, delivery: Delivery) -> bool:
    """Whether the audit log, which outlives a purge, has this UID as sent to this destination."""
    query = sa.select(AuditRow.details).where(
        AuditRow.study_instance_uid == delivery.study_instance_uid,
        AuditRow.sop_instance_uid == delivery.sop_instance_uid,
        AuditRow.event == AuditKind.SENT,
    )
    with database.read() as connection:
        sent = connection.execute(query).scalars()
        return any(json.loads(details)["destination"] == delivery.destination for details in sent)


def reach(database: Database, destination: str) -> AuditEvent | None:
    """The event by which a destination became reachable or unreachable; None if it was never unreachable."""
    kinds = (AuditKind.DESTINATION_UNREACHABLE, AuditKind.DESTINATION_REACHABLE)
    return audit.last(database, *kinds, destination=destination)


def record_reach(database: Database, destination: str, why: str | None) -> AuditKind | None:
    """Audit that a destination became unreachable, with the reason, or reachable again, without one."""
    last = reach(database, destination)
    was_up = last is None or last.event == AuditKind.DESTINATION_REACHABLE
    if was_up == (why is None):
        return None
    kind = AuditKind.DESTINATION_REACHABLE if why is None else AuditKind.DESTINATION_UNREACHABLE
    database.audit(kind, destination=destination, **({} if why is None else {"why": why}))
    return kind


def is_stalled(attempts: int) -> bool:
    """Whether this failed attempt is one to raise the alarm at."""
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
    """Record a destination's answer; a delivery that stays PENDING is due again after `retry_after`.

    With `commitment`, a sent result counts as delivered only once the archive has committed to keep it.
    """
    failed = AuditKind.DELIVERY_STALLED if is_stalled(delivery.attempts) else AuditKind.DELIVERY_FAILED
    kind = {
        DeliveryState.PENDING: failed,
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
            kind,
            delivery.study_instance_uid,
            delivery.sop_instance_uid,
            role=delivery.role,
            destination=delivery.destination,
            status=None if status is None else f"0x{status:04X}",
            comment=comment,
            attempt=delivery.attempts,
        )
        return True


def trouble(destinations: Collection[str]) -> sa.Case[str | None]:
    """The Trouble of an undelivered result, if any, as SQL; `destinations` are those configured."""
    return sa.case(
        (DeliveryRow.state == DeliveryState.QUARANTINED, Trouble.QUARANTINED),
        (DeliveryRow.destination.not_in(destinations), Trouble.NO_DESTINATION),
        (DeliveryRow.attempts >= STALLED_ATTEMPTS, Trouble.STALLED),
        else_=None,
    )


def select_stuck(destinations: Collection[str], *columns: Any) -> sa.Select[Any]:
    """Columns of the deliveries that need attention."""
    return select_deliveries(*columns).where(
        DeliveryRow.state.in_(UNDELIVERED), trouble(destinations).is_not(None)
    )


def retry(database: Database, destinations: Collection[str], which: str, who: str) -> int:
    """Retry stuck deliveries at once: one by its number, a destination's by its name, or "all".

    Returns their number. Earlier attempts stay counted: a duplicate is then recognized as the node's own.
    """
    values = {"state": DeliveryState.PENDING}
    return _change(database, destinations, which, values, AuditKind.DELIVERY_RETRIED, who=who)


def discard(database: Database, destinations: Collection[str], which: str, who: str, reason: str) -> int:
    """Give up stuck deliveries, chosen as for `retry`; returns their number."""
    values = {"state": DeliveryState.DISCARDED, "last_comment": f"discarded by {who}: {reason}"}
    kind = AuditKind.DELIVERY_DISCARDED
    return _change(database, destinations, which, values, kind, who=who, reason=reason)


def _change(
    database: Database,
    destinations: Collection[str],
    which: str,
    values: dict[str, Any],
    kind: AuditKind,
    **details: Any,
) -> int:
    query = select_stuck(
        destinations,
        DeliveryRow.id,
        DeliveryRow.destination,
        DeliveryRow.attempts,
        ResultRow.role,
        ResultRow.sop_instance_uid,
        StudyRow.study_instance_uid,
    ).order_by(DeliveryRow.id)
    if which.isdecimal():
        query = query.where(DeliveryRow.id == int(which))
    elif which != "all":
        query = query.where(DeliveryRow.destination == which)
    with database.write() as t:
        rows = t.execute(query.with_for_update(of=DeliveryRow)).all()
        if rows:
            free = {"due_at": t.now, "lease_token": None, "lease_until": 0.0}
            update = sa.update(DeliveryRow).where(DeliveryRow.id == sa.bindparam("row_id"))
            t.execute(update.values(**values, **free), [{"row_id": row.id} for row in rows])
        for row in rows:
            t.audit(
                kind,
                row.study_instance_uid,
                row.sop_instance_uid,
                destination=row.destination,
                role=row.role,
                attempts=row.attempts,
                **details,
            )
        return len(rows)


@dataclass(frozen=True, slots=True)
class ExpectedResult:
    """A result that a destination should have."""

    id: int
    role: str
    series_instance_uid: str
    sop_instance_uid: str
    state: str


_EXPECTED = (DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.COMMITTED)


def expected_results(database: Database, study_instance_uid: str, destination: str) -> list[ExpectedResult]:
    """The results of a study that a destination should have, without those that it refused."""
    query = (
        select_deliveries(
            DeliveryRow.id,
            ResultRow.role,
            ResultRow.series_instance_uid,
            ResultRow.sop_instance_uid,
            DeliveryRow.state,
        )
        .where(
            StudyRow.study_instance_uid == study_instance_uid,
            DeliveryRow.destination == destination,
            DeliveryRow.state.in_(_EXPECTED),
        )
        .order_by(DeliveryRow.id)
    )
    with database.read() as connection:
        return [ExpectedResult(**row) for row in connection.execute(query).mappings()]


def send_again(
    database: Database,
    study_instance_uid: str,
    destination: str,
    results: Sequence[ExpectedResult],
    who: str,
) -> None:
    """Send results, the same bytes, at once to a destination that turned out not to have them."""
    with database.write() as t:
        t.execute(
            sa.update(DeliveryRow)
            .where(
                DeliveryRow.id.in_([result.id for result in results]),
                DeliveryRow.state.in_(_EXPECTED),
                DeliveryRow.lease_until <= t.now,
            )
            .values(state=DeliveryState.PENDING, due_at=t.now, transaction_uid=None, committed_at=None)
        )
        for result in results:
            t.audit(
                AuditKind.RESULT_MISSED,
                study_instance_uid,
                result.sop_instance_uid,
                role=result.role,
                destination=destination,
                was=result.state,
                who=who,
            )
