"""What /metrics asks of the journal; read only, no patient data, and cheap however many studies there are.

What happened is read from the audit log, of which only new events are read: their numbers are given out in
the order in which transactions commit, so that none is passed over, as one of the ids of a table might be.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa

from pacs_node.journal.database import Database
from pacs_node.journal.schema import AuditRow, DeliveryRow, InstanceRow, ResultRow, StudyRow
from pacs_node.records import AuditEvent, AuditKind, DeliveryState, InstanceState, StudyState

_PAGE = 1000


class Happened(NamedTuple):
    """An audit event, and how many seconds the stage took that it ended; None where it ends none."""

    event: AuditEvent
    seconds: float | None


class Queues(NamedTuple):
    """How many are in each state, and since when the oldest waits: seconds since the epoch."""

    instances: dict[str, int]
    studies: dict[str, int]
    deliveries: dict[tuple[str, str], int]
    """By destination and state."""
    due: dict[str, float]
    """Of "instances" and "studies", those that wait for a worker: since when the oldest is due."""
    outbox: dict[str, float]
    """By destination: when the oldest result was made that it has not got yet."""


def newest(database: Database, until: int, names: Collection[str]) -> Iterator[AuditEvent]:
    """The newest event of each of these names up to a number; reads the whole log."""
    seqs = sa.select(sa.func.max(AuditRow.seq)).where(AuditRow.seq <= until, AuditRow.event.in_(names))
    query = sa.select(AuditRow.__table__).where(AuditRow.seq.in_(seqs.group_by(AuditRow.event)))
    with database.read() as connection:
        for row in connection.execute(query.order_by(AuditRow.seq)).mappings().all():
            yield _event(row)


def happened(database: Database, after: int) -> Iterator[Happened]:
    """The audit events after a number, in their order; read in pages.

    The stages: "analyzed", from the image's receipt; "reported", from that of the last image before it;
    "sent", from the making of the result; "committed", from its sending.
    """
    query = sa.select(AuditRow.__table__, _began().label("began")).order_by(AuditRow.seq).limit(_PAGE)
    more = True
    while more:
        with database.read() as connection:
            page = connection.execute(query.where(AuditRow.seq > after)).mappings().all()
        for row in page:
            began = row["began"]
            yield Happened(_event(row), None if began is None else max(0.0, row["at"] - began))
        more = len(page) == _PAGE
        after = page[-1]["seq"] if page else after


def queues(database: Database) -> Queues:
    """Where everything stands now."""
    with database.read() as connection:
        now = database.clock()
        instances, studies = (
            dict(iter(connection.execute(sa.select(row.state, sa.func.count()).group_by(row.state))))
            for row in (InstanceRow, StudyRow)
        )
        by = (DeliveryRow.destination, DeliveryRow.state)
        deliveries = connection.execute(sa.select(*by, sa.func.count()).group_by(*by))
        due = {
            name: connection.scalar(
                sa.select(sa.func.min(row.due_at)).where(row.state == state, row.due_at <= now)
            )
            for name, row, state in (
                ("instances", InstanceRow, InstanceState.RECEIVED),
                ("studies", StudyRow, StudyState.OPEN),
            )
        }
        # The first of them by number is the oldest: found without a look at every result that waits.
        oldest = (
            sa.select(sa.func.min(DeliveryRow.id))
            .where(DeliveryRow.state == DeliveryState.PENDING)
            .group_by(DeliveryRow.destination)
        )
        outbox = connection.execute(
            sa.select(DeliveryRow.destination, ResultRow.created_at)
            .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
            .where(DeliveryRow.id.in_(oldest))
        )
        return Queues(
            instances=instances,
            studies=studies,
            deliveries={(destination, state): count for destination, state, count in deliveries},
            due={name: at for name, at in due.items() if at is not None},
            outbox=dict(iter(outbox)),
        )


def _began() -> sa.Case[Any]:
    """When that began which an audit event ends."""
    received = sa.select(sa.func.max(InstanceRow.received_at)).where(InstanceRow.received_at <= AuditRow.at)
    image = received.where(InstanceRow.sop_instance_uid == AuditRow.sop_instance_uid)
    images = received.join(StudyRow, StudyRow.id == InstanceRow.study_id).where(
        StudyRow.study_instance_uid == AuditRow.study_instance_uid,
        InstanceRow.state != InstanceState.SKIPPED,
    )
    result = sa.select(ResultRow.created_at).where(ResultRow.sop_instance_uid == AuditRow.sop_instance_uid)
    sent = (
        sa.select(sa.func.max(DeliveryRow.sent_at))
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .where(
            ResultRow.sop_instance_uid == AuditRow.sop_instance_uid, DeliveryRow.committed_at == AuditRow.at
        )
    )
    began = {
        AuditKind.ANALYZED: image,
        AuditKind.REPORTED: images,
        AuditKind.SENT: result,
        AuditKind.COMMITTED: sent,
    }
    return sa.case(
        {name: query.correlate(AuditRow).scalar_subquery() for name, query in began.items()},
        value=AuditRow.event,
    )


def _event(row: sa.RowMapping) -> AuditEvent:
    values = {key: row[key] for key in row if key != "began"}
    return AuditEvent(**{**values, "details": json.loads(row["details"])})
