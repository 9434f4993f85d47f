"""What the journal has to hold against what a PACS says that it has, and how a gap is closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from pacs_node.journal.database import Database
from pacs_node.journal.schema import AuditRow, DeliveryRow, InstanceRow, ResultRow, StudyRow
from pacs_node.records import AuditKind, DeliveryState

_OWED = (DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.COMMITTED)


@dataclass(frozen=True, slots=True)
class Owed:
    """A result that a destination is to have."""

    id: int
    role: str
    series_instance_uid: str
    sop_instance_uid: str
    state: str


def studies_received(database: Database, since: float, until: float) -> list[str]:
    """Study Instance UIDs of what was received in a time, the oldest first."""
    query = (
        sa.select(StudyRow.study_instance_uid)
        .where(StudyRow.last_received_at >= since, StudyRow.first_received_at < until)
        .order_by(StudyRow.id)
    )
    with database.read() as connection:
        return list(connection.execute(query).scalars())


def received(database: Database, study_instance_uid: str) -> dict[str, set[str]]:
    """SOP Instance UIDs by Series Instance UID, of all that is here of a study."""
    query = (
        sa.select(InstanceRow.series_instance_uid, InstanceRow.sop_instance_uid)
        .join(StudyRow, StudyRow.id == InstanceRow.study_id)
        .where(StudyRow.study_instance_uid == study_instance_uid)
    )
    here: dict[str, set[str]] = {}
    with database.read() as connection:
        for row in connection.execute(query):
            here.setdefault(row.series_instance_uid, set()).add(row.sop_instance_uid)
    return here


def ever_received(database: Database, study_instance_uid: str) -> set[str]:
    """SOP Instance UIDs of all that was ever received of a study, also of what was deleted since."""
    query = sa.select(AuditRow.sop_instance_uid).where(
        AuditRow.study_instance_uid == study_instance_uid, AuditRow.event == AuditKind.RECEIVED
    )
    with database.read() as connection:
        return {str(uid) for uid in connection.execute(query).scalars()}


def owed(database: Database, study_instance_uid: str, destination: str) -> list[Owed]:
    """The results of a study that a destination is to have, without those that it refused."""
    query = (
        sa.select(
            DeliveryRow.id,
            ResultRow.role,
            ResultRow.series_instance_uid,
            ResultRow.sop_instance_uid,
            DeliveryRow.state,
        )
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .join(StudyRow, StudyRow.id == ResultRow.study_id)
        .where(
            StudyRow.study_instance_uid == study_instance_uid,
            DeliveryRow.destination == destination,
            DeliveryRow.state.in_(_OWED),
        )
        .order_by(DeliveryRow.id)
    )
    with database.read() as connection:
        return [Owed(**row) for row in connection.execute(query).mappings()]


def send_again(
    database: Database, study_instance_uid: str, destination: str, results: Sequence[Owed], who: str
) -> None:
    """Let results be sent at once, the same bytes, to the destination that turned out not to have them."""
    with database.write() as t:
        t.execute(
            sa.update(DeliveryRow)
            .where(
                DeliveryRow.id.in_([one.id for one in results]),
                DeliveryRow.state.in_(_OWED),
                DeliveryRow.lease_until <= t.now,
            )
            .values(state=DeliveryState.PENDING, due_at=t.now, transaction_uid=None, committed_at=None)
        )
        for one in results:
            t.audit(
                AuditKind.RESULT_MISSED,
                study_instance_uid,
                one.sop_instance_uid,
                role=one.role,
                destination=destination,
                was=one.state,
                who=who,
            )
