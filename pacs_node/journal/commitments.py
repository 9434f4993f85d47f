"""Storage commitment: which results their archive has promised to keep (PS3.4 annex J).

A delivery that was SENT to a destination with storage commitment has an empty transaction UID until the
commitment is asked for. The transaction is then the lease and `due_at` its end: no answer by then is a matter
for a query.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from pacs_node.journal import queue
from pacs_node.journal.database import Database
from pacs_node.journal.schema import DeliveryRow, ResultRow, StudyRow
from pacs_node.records import AuditKind, CommitmentReport, DeliveryState

_SENT = DeliveryRow.state == DeliveryState.SENT


@dataclass(frozen=True, slots=True)
class Object:
    """A result that is to be kept."""

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Transaction:
    """One request for storage commitment: the results of one study at one destination."""

    uid: str
    study_instance_uid: str
    objects: tuple[Object, ...]
    sent_at: float
    """When the first of them was sent."""


def delivered() -> sa.ColumnElement[bool]:
    """The deliveries that are done: sent, and promised to be kept where the settings ask for that."""
    return sa.or_(
        DeliveryRow.state == DeliveryState.COMMITTED,
        sa.and_(_SENT, DeliveryRow.transaction_uid.is_(None)),
    )


def begin(
    database: Database, destination: str, transaction_uid: str, answer_seconds: float
) -> Transaction | None:
    """Give a transaction to what was sent of one study and still waits for its commitment; None: nothing.

    Stored before it is asked for, so that an answer finds it whatever is killed when.
    """
    other, result = aliased(DeliveryRow), aliased(ResultRow)
    # The rest of the study is on its way at this moment: one request for all of it.
    under_way = sa.exists().where(
        result.study_id == ResultRow.study_id,
        other.result_id == result.id,
        other.destination == destination,
        other.state == DeliveryState.PENDING,
        other.lease_until > database.clock(),
    )
    waiting = (
        sa.select(DeliveryRow.id, ResultRow.study_id)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .where(
            DeliveryRow.destination == destination,
            _SENT,
            DeliveryRow.transaction_uid == "",
            DeliveryRow.due_at <= database.clock(),
            ~under_way,
        )
        .order_by(DeliveryRow.due_at, DeliveryRow.id)
    )
    with database.read() as connection:
        if connection.execute(waiting.limit(1)).first() is None:
            return None
    with database.write() as t:
        first = t.execute(waiting.limit(1)).one_or_none()
        if first is None:
            return None
        of_study = waiting.where(ResultRow.study_id == first.study_id)
        ids = t.execute(queue.locked(of_study, DeliveryRow)).scalars().all()
        if not ids:
            return None
        t.execute(
            sa.update(DeliveryRow)
            .where(DeliveryRow.id.in_(ids))
            .values(transaction_uid=transaction_uid, due_at=t.now + answer_seconds)
        )
        (transaction,) = _transactions(t.connection, DeliveryRow.transaction_uid == transaction_uid)
        t.audit(
            AuditKind.COMMITMENT_REQUESTED,
            transaction.study_instance_uid,
            destination=destination,
            transaction_uid=transaction_uid,
            results=[item.sop_instance_uid for item in transaction.objects],
        )
        return transaction


def overdue(database: Database, destination: str) -> list[Transaction]:
    """Transactions of a destination whose answer did not come in time."""
    with database.read() as connection:
        return _transactions(
            connection,
            sa.and_(DeliveryRow.destination == destination, DeliveryRow.due_at <= database.clock()),
        )


def is_open(database: Database, transaction_uid: str) -> bool:
    """Whether an answer is still awaited."""
    with database.read() as connection:
        return bool(_transactions(connection, DeliveryRow.transaction_uid == transaction_uid))


def ask_again(database: Database, transaction: Transaction, seconds: float, why: str) -> None:
    """Give a transaction up: its results are due for another one after so many seconds."""
    with database.write() as t:
        changed = t.execute(
            sa.update(DeliveryRow)
            .where(_SENT, DeliveryRow.transaction_uid == transaction.uid)
            .values(due_at=t.now + seconds, transaction_uid="")
        ).rowcount
        if changed:
            uid = transaction.uid
            t.audit(
                AuditKind.COMMITMENT_POSTPONED, transaction.study_instance_uid, transaction_uid=uid, why=why
            )


def settle(
    database: Database,
    report: CommitmentReport,
    retry_seconds: Callable[[int], float],
    by_query: bool = False,
) -> bool:
    """Record what an archive says; what it does not keep is sent again. False for an unknown transaction.

    Safe to repeat. What it says of objects that were not asked for is ignored; of those that it does not
    name the answer is still awaited.
    """
    query = (
        sa.select(
            DeliveryRow.id,
            DeliveryRow.state,
            DeliveryRow.attempts,
            DeliveryRow.destination,
            ResultRow.sop_instance_uid,
            ResultRow.role,
            StudyRow.study_instance_uid,
        )
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .join(StudyRow, StudyRow.id == ResultRow.study_id)
        .where(DeliveryRow.transaction_uid == report.transaction_uid)
        .order_by(DeliveryRow.id)
        .with_for_update(of=DeliveryRow)
    )
    with database.write() as t:
        rows = t.execute(query).all() if report.transaction_uid else []
        for row in rows:
            uids = (row.study_instance_uid, row.sop_instance_uid)
            told = {"role": row.role, "destination": row.destination}
            told["transaction_uid"] = report.transaction_uid
            update = sa.update(DeliveryRow).where(DeliveryRow.id == row.id)
            kept = (DeliveryState.SENT, DeliveryState.COMMITTED)
            if row.state == DeliveryState.SENT and row.sop_instance_uid in report.committed:
                t.execute(update.values(state=DeliveryState.COMMITTED, committed_at=t.now))
                event = AuditKind.COMMITMENT_ASSUMED_BY_QUERY if by_query else AuditKind.COMMITTED
                t.audit(event, *uids, **told)
            elif row.state in kept and row.sop_instance_uid in report.failed:
                again = retry_seconds(row.attempts)
                t.execute(update.values(state=DeliveryState.PENDING, committed_at=None, due_at=t.now + again))
                why = report.failed[row.sop_instance_uid]
                t.audit(AuditKind.COMMITMENT_FAILED, *uids, **told, why=why)
        return bool(rows)


def waive(database: Database, destinations: Collection[str]) -> int:
    """Await no commitment but from these destinations; returns for how many results one was awaited."""
    owed = (_SENT, DeliveryRow.transaction_uid.is_not(None))
    others = (*owed, DeliveryRow.destination.not_in(list(destinations)))
    with database.read() as connection:
        if connection.execute(sa.select(DeliveryRow.id).where(*others).limit(1)).first() is None:
            return 0
    with database.write() as t:
        waived = t.execute(sa.update(DeliveryRow).where(*others).values(transaction_uid=None)).rowcount
        t.audit(AuditKind.COMMITMENTS_WAIVED, results=waived)
        return waived


def _transactions(connection: sa.Connection, where: sa.ColumnElement[bool]) -> list[Transaction]:
    """Those that are open, in the order in which they are due."""
    query = (
        sa.select(
            DeliveryRow.transaction_uid,
            DeliveryRow.sent_at,
            StudyRow.study_instance_uid,
            ResultRow.series_instance_uid,
            ResultRow.sop_class_uid,
            ResultRow.sop_instance_uid,
        )
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .join(StudyRow, StudyRow.id == ResultRow.study_id)
        .where(_SENT, DeliveryRow.transaction_uid > "", where)
        .order_by(DeliveryRow.due_at, DeliveryRow.id)
    )
    found: dict[str, list[Any]] = {}
    for row in connection.execute(query):
        found.setdefault(row.transaction_uid, []).append(row)
    return [_transaction(uid, rows) for uid, rows in found.items()]


def _transaction(uid: str, rows: Sequence[Any]) -> Transaction:
    objects = tuple(Object(row.series_instance_uid, row.sop_class_uid, row.sop_instance_uid) for row in rows)
    return Transaction(uid, rows[0].study_instance_uid, objects, min(row.sent_at or 0.0 for row in rows))
