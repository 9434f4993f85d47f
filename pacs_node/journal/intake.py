"""Registers stored objects: the first thing that the journal knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from pacs_node.journal import audit
from pacs_node.journal.database import Database
from pacs_node.journal.schema import InstanceRow, StudyRow
from pacs_node.records import Arrival, InstanceState, StudyState


def register(database: Database, arrivals: Sequence[Arrival], quiet_seconds: float) -> None:
    """Record arrivals in one transaction; safe to repeat for the same arrivals.

    An image to be analyzed opens its study again and starts the quiet period anew. The same object with the
    same bytes is audited only. A skipped object never opens a closed
    study: our own results come back.
    """
    with database.write() as connection:
        now = database.clock()
        for arrival in arrivals:
            _register(connection, arrival, now, quiet_seconds)


def _register(connection: sa.Connection, arrival: Arrival, now: float, quiet_seconds: float) -> None:
    versions = connection.execute(
        sa.select(InstanceRow.sha256).where(InstanceRow.sop_instance_uid == arrival.sop_instance_uid)
    )
    known = set(versions.scalars())
    details: dict[str, Any] = {
        "sha256": arrival.sha256,
        "size": arrival.size,
        "calling_ae_title": arrival.sender.calling_ae_title,
        "called_ae_title": arrival.sender.called_ae_title,
        "address": arrival.sender.address,
        "transfer_syntax_uid": arrival.transfer_syntax_uid,
    }
    uids = (arrival.study_instance_uid, arrival.sop_instance_uid)
    if arrival.sha256 in known:
        audit.append(connection, now, "duplicate_received", *uids, **details)
        return
    study_id = _study(connection, arrival, now, quiet_seconds)
    connection.execute(
        sa.insert(InstanceRow).values(
            study_id=study_id,
            series_instance_uid=arrival.series_instance_uid,
            sop_instance_uid=arrival.sop_instance_uid,
            sop_class_uid=arrival.sop_class_uid,
            transfer_syntax_uid=arrival.transfer_syntax_uid,
            modality=arrival.modality,
            patient_id=arrival.patient_id,
            sha256=arrival.sha256,
            size=arrival.size,
            received_at=arrival.received_at,
            calling_ae_title=arrival.sender.calling_ae_title,
            called_ae_title=arrival.sender.called_ae_title,
            address=arrival.sender.address,
            state=InstanceState.SKIPPED if arrival.skip_reason else InstanceState.RECEIVED,
            reason=arrival.skip_reason,
            due_at=now,
        )
    )
    if known:
        details["other_versions"] = sorted(known)
    audit.append(connection, now, "received", *uids, **details)
    if arrival.skip_reason:
        audit.append(connection, now, "skipped", *uids, reason=arrival.skip_reason)


def _study(connection: sa.Connection, arrival: Arrival, now: float, quiet_seconds: float) -> int:
    """The arrival's study, made or opened again as need be; returns its id."""
    to_analyze = arrival.skip_reason is None
    study = connection.execute(
        sa.select(StudyRow.id, StudyRow.state, StudyRow.revision).where(
            StudyRow.study_instance_uid == arrival.study_instance_uid
        )
    ).one_or_none()
    if study is None:
        return connection.execute(
            sa.insert(StudyRow)
            .values(
                study_instance_uid=arrival.study_instance_uid,
                state=StudyState.OPEN,
                revision=int(to_analyze),
                due_at=now + quiet_seconds,
                first_received_at=arrival.received_at,
                last_received_at=arrival.received_at,
            )
            .returning(StudyRow.id)
        ).scalar_one()
    values: dict[str, object] = {"last_received_at": arrival.received_at}
    if to_analyze:
        values |= {"state": StudyState.OPEN, "reason": None, "revision": study.revision + 1, "attempts": 0}
    if to_analyze or study.state == StudyState.OPEN:
        values["due_at"] = now + quiet_seconds
    connection.execute(sa.update(StudyRow).where(StudyRow.id == study.id).values(values))
    return int(study.id)
