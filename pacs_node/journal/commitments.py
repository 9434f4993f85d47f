"""Storage commitment: which results their archive has promised to keep (PS3.4 annex J).

A result SENT to a destination with storage commitment has an empty transaction UID until its commitment is
requested. The transaction is then the lease and `due_at` its end: without an answer by then, the archive is
queried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from pacs_node.journal import queue
from pacs_node.journal.database import Database
from pacs_node.journal.schema import DeliveryRow, ResultRow, StudyRow, select_deliveries
from pacs_node.journal.transaction import Transaction
from pacs_node.records import AuditKind, CommitmentReport, DeliveryState

_SENT = DeliveryRow.state == DeliveryState.SENT


@dataclass(frozen=True, slots=True)
class CommitmentObject:
    """A result that is to be kept."""

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Commitment:
    """One request for storage commitment: the results of one study at one destination."""

    uid: str
    """The Transaction UID."""
    study_instance_uid: str
    objects: tuple[CommitmentObject, ...]
    sent_at: float
    """When the first of them was sent."""


def begin(
    database: Database, destination: str, transaction_uid: str, answer_seconds: float
) -> Commitment | None:
    """Start a transaction for the results of one study that wait for their commitment; None if none do.

    It is stored before it is requested, so that an answer finds it whatever is killed when.
    """
    other, result = aliased(DeliveryRow), aliased(ResultRow)
    # The rest of the study is being sent at this moment: one request for all of it.
    being_sent = sa.exists().where(
        result.study_id == ResultRow.study_id,
        other.result_id == result.id,
        other.destination == destination,
        other.state == DeliveryState.PENDING,
        other.lease_until > database.clock(),
    )
    due = (
        sa.select(DeliveryRow.id, ResultRow.study_id)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .where(
            DeliveryRow.destination == destination,
            _SENT,
            DeliveryRow.transaction_uid == "",
            DeliveryRow.due_at <= database.clock(),
            ~being_sent,
        )
        .order_by(DeliveryRow.due_at, DeliveryRow.id)
    )

    def pick(t: Transaction) -> Sequence[int]:
        first = t.execute(due.limit(1)).one_or_none()
        if first is None:
            return []
        of_study = due.where(ResultRow.study_id == first.study_id)
        return t.execute(queue.locked(of_study, DeliveryRow)).scalars().all()

    def hold(t: Transaction, row: Any, ids: Sequence[int]) -> str:
        values = {"transaction_uid": transaction_uid, "due_at": t.now + answer_seconds}
        t.execute(sa.update(row).where(row.id.in_(ids)).values(values))
        return transaction_uid

    def load(t: Transaction, ids: Sequence[int]) -> list[Commitment]:
        (commitment,) = _commitments(t.connection, DeliveryRow.id.in_(ids))
        t.audit(
            AuditKind.COMMITMENT_REQUESTED,
            commitment.study_instance_uid,
            destination=destination,
            transaction_uid=transaction_uid,
            results=[item.sop_instance_uid for item in commitment.objects],
        )
        return [commitment]

    claim = queue.claim(database, DeliveryRow, due, pick, load, hold)
    return claim.items[0] if claim else None


def overdue(database: Database, destination: str) -> list[Commitment]:
    """Commitments of a destination whose answer did not come in time."""
    due = sa.and_(DeliveryRow.destination == destination, DeliveryRow.due_at <= database.clock())
    with database.read() as connection:
        return _commitments(connection, due)


def is_open(database: Database, transaction_uid: str) -> bool:
    """Whether an answer is still awaited."""
    with database.read() as connection:
        return bool(_commitments(connection, DeliveryRow.transaction_uid == transaction_uid))


def ask_again(database: Database, commitment: Commitment, seconds: float, why: str) -> None:
    """Give a transaction up: a new one is due for its results after so many seconds."""
    with database.write() as t:
        update = (
            sa.update(DeliveryRow)
            .where(_SENT, DeliveryRow.transaction_uid == commitment.uid)
            .values(due_at=t.now + seconds, transaction_uid="")
        )
        if t.execute(update).rowcount:
            details = {"transaction_uid": commitment.uid, "why": why}
            t.audit(AuditKind.COMMITMENT_POSTPONED, commitment.study_instance_uid, **details)


def settle(
    database: Database,
    report: CommitmentReport,
    retry_seconds: Callable[[int], float],
    by_query: bool = False,
) -> bool:
    """Record an archive's report; results that it does not keep are sent again. False if it is unknown.

    Safe to repeat. Objects that were not asked about are ignored; for those not named, the answer is still
    awaited.
    """
    query = (
        select_deliveries(
            DeliveryRow.id,
            DeliveryRow.state,
            DeliveryRow.attempts,
            DeliveryRow.destination,
            ResultRow.sop_instance_uid,
            ResultRow.role,
            StudyRow.study_instance_uid,
        )
        .where(DeliveryRow.transaction_uid == report.transaction_uid)
        .order_by(DeliveryRow.id)
        .with_for_update(of=DeliveryRow)
    )
    with database.write() as t:
        rows = t.execute(query).all() if report.transaction_uid else []
        for row in rows:
            uids = (row.study_instance_uid, row.sop_instance_uid)
            details = {"role": row.role, "destination": row.destination}
            details["transaction_uid"] = report.transaction_uid
            update = sa.update(DeliveryRow).where(DeliveryRow.id == row.id)
            kept = (DeliveryState.SENT, DeliveryState.COMMITTED)
            if row.state == DeliveryState.SENT and row.sop_instance_uid in report.committed:
                t.execute(update.values(state=DeliveryState.COMMITTED, committed_at=t.now))
                kind = AuditKind.COMMITMENT_ASSUMED_BY_QUERY if by_query else AuditKind.COMMITTED
                t.audit(kind, *uids, **details)
            elif row.state in kept and row.sop_instance_uid in report.failed:
                due_at = t.now + retry_seconds(row.attempts)
                t.execute(update.values(state=DeliveryState.PENDING, committed_at=None, due_at=due_at))
                why = report.failed[row.sop_instance_uid]
                t.audit(AuditKind.COMMITMENT_FAILED, *uids, **details, why=why)
        return bool(rows)


def waive(database: Database, destinations: Collection[str]) -> int:
    """Await commitments of these destinations only; returns the number of results waived."""
    others = (
        _SENT,
        DeliveryRow.transaction_uid.is_not(None),
        DeliveryRow.destination.not_in(list(destinations)),
    )
    with database.read() as connection:
        if connection.execute(sa.select(DeliveryRow.id).where(*others).limit(1)).first() is None:
            return 0
    with database.write() as t:
        waived = t.execute(sa.update(DeliveryRow).where(*others).values(transaction_uid=None)).rowcount
        t.audit(AuditKind.COMMITMENTS_WAIVED, results=waived)
        return waived


def _commitments(connection: sa.Connection, where: sa.ColumnElement[bool]) -> list[Commitment]:
    """The open ones, in the order in which they are due."""
    query = (
        select_deliveries(
            DeliveryRow.transaction_uid,
            DeliveryRow.sent_at,
            StudyRow.study_instance_uid,
            ResultRow.series_instance_uid,
            ResultRow.sop_class_uid,
            ResultRow.sop_instance_uid,
        )
        .where(_SENT, DeliveryRow.transaction_uid > "", where)
        .order_by(DeliveryRow.due_at, DeliveryRow.id)
    )
    groups: dict[str, list[Any]] = {}
    for row in connection.execute(query):
        groups.setdefault(row.transaction_uid, []).append(row)
    return [
        Commitment(
            uid,
            rows[0].study_instance_uid,
            tuple(
                CommitmentObject(row.series_instance_uid, row.sop_class_uid, row.sop_instance_uid)
                for row in rows
            ),
            sent_at=min(row.sent_at or 0.0 for row in rows),
        )
        for uid, rows in groups.items()
    ]
