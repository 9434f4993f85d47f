"""Registers stored objects: the first thing that the journal knows of them.

Batches are written with few statements: the intake shares its process with the storage SCP, and one statement
for each row would cost the SCP half its speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from pacs_node.journal.database import Database, insert_new
from pacs_node.journal.schema import InstanceRow, StudyRow
from pacs_node.journal.transaction import Transaction
from pacs_node.records import Arrival, AuditKind, InstanceState, StudyState

_TOLD = (
    *("sha256", "size", "modality", "calling_ae_title", "called_ae_title", "address"),
    "transfer_syntax_uid",
)


def register(database: Database, arrivals: Sequence[Arrival], quiet_seconds: float) -> None:
    """Record arrivals in one transaction; safe to repeat for the same arrivals, also by several at once.

    An arrival is known by its object, its bytes and its time: one that was registered before is passed over.
    An image to be analyzed opens its study again and starts the quiet period anew. The same object with the
    same bytes is audited only. A skipped object never opens a closed study: our own results come back.
    """
    with database.write() as t:
        studies = _studies(t, arrivals)
        # Asked while the studies are locked: what others registered before is seen, and nothing comes after.
        versions = _versions(t, arrivals)
        rows = []
        for arrival in arrivals:
            known = versions.setdefault(arrival.sop_instance_uid, {})
            if arrival.sha256 in known:
                if known[arrival.sha256] == arrival.received_at:
                    continue
                _audit(t, AuditKind.DUPLICATE_RECEIVED, arrival, _told(arrival))
                continue
            study = studies[arrival.study_instance_uid]
            _reopen(study, arrival, t.now + quiet_seconds)
            rows.append(_row(arrival, study["id"], t.now))
            others = {"other_versions": sorted(known)} if known else {}
            _audit(t, AuditKind.RECEIVED, arrival, _told(arrival) | others)
            if arrival.skip_reason:
                _audit(t, AuditKind.SKIPPED, arrival, {"reason": arrival.skip_reason})
            known[arrival.sha256] = arrival.received_at
        if rows:
            t.execute(sa.insert(InstanceRow), rows)
            _update(t, studies.values())


def _versions(t: Transaction, arrivals: Sequence[Arrival]) -> dict[str, dict[str, float]]:
    """What is known of each SOP Instance UID: the digests, and when each was received first."""
    uids = {arrival.sop_instance_uid for arrival in arrivals}
    query = sa.select(InstanceRow.sop_instance_uid, InstanceRow.sha256, InstanceRow.received_at).where(
        InstanceRow.sop_instance_uid.in_(uids)
    )
    versions: dict[str, dict[str, float]] = {}
    for uid, sha256, received_at in t.execute(query):
        versions.setdefault(uid, {})[sha256] = received_at
    return versions


def _studies(t: Transaction, arrivals: Sequence[Arrival]) -> dict[str, dict[str, Any]]:
    """The arrivals' studies by their UID, locked; those that are new are made.

    Everyone takes them in the order of their UIDs, so that no two wait for each other for ever.
    """
    first = {arrival.study_instance_uid: arrival for arrival in reversed(arrivals)}
    uids = sorted(first)
    columns = (
        StudyRow.study_instance_uid,
        StudyRow.id,
        StudyRow.state,
        StudyRow.reason,
        StudyRow.revision,
        StudyRow.attempts,
        StudyRow.due_at,
        StudyRow.last_received_at,
    )
    query = sa.select(*columns).where(StudyRow.study_instance_uid.in_(uids))
    known = {row["study_instance_uid"] for row in t.execute(query).mappings()}
    made = [
        {
            "study_instance_uid": uid,
            "state": StudyState.OPEN,
            "revision": 0,
            "due_at": 0.0,
            "first_received_at": first[uid].received_at,
            "last_received_at": first[uid].received_at,
        }
        for uid in uids
        if uid not in known
    ]
    if made:
        t.execute(insert_new(t, StudyRow), made)
    ours = query.order_by(StudyRow.study_instance_uid).with_for_update()
    return {row["study_instance_uid"]: dict(row) for row in t.execute(ours).mappings()}


def _reopen(study: dict[str, Any], arrival: Arrival, due_at: float) -> None:
    study["last_received_at"] = arrival.received_at
    if arrival.skip_reason is None:
        study.update(state=StudyState.OPEN, reason=None, attempts=0, revision=study["revision"] + 1)
    if study["state"] == StudyState.OPEN:
        study["due_at"] = due_at


def _update(t: Transaction, studies: Iterable[dict[str, Any]]) -> None:
    changed = ("state", "reason", "revision", "attempts", "due_at", "last_received_at")
    statement = (
        sa.update(StudyRow)
        .where(StudyRow.id == sa.bindparam("study_id"))
        .values({key: sa.bindparam(f"new_{key}") for key in changed})
    )
    rows = [{"study_id": s["id"], **{f"new_{key}": s[key] for key in changed}} for s in studies]
    t.execute(statement, rows)


def _row(arrival: Arrival, study_id: int, now: float) -> dict[str, Any]:
    row = arrival.received() | {"study_id": study_id, "reason": arrival.skip_reason, "due_at": now}
    del row["study_instance_uid"]
    return row | {"state": InstanceState.SKIPPED if arrival.skip_reason else InstanceState.RECEIVED}


def _told(arrival: Arrival) -> dict[str, Any]:
    values = arrival.received()
    return {key: values[key] for key in _TOLD}


def _audit(t: Transaction, kind: AuditKind, arrival: Arrival, details: dict[str, Any]) -> None:
    t.audit(kind, arrival.study_instance_uid, arrival.sop_instance_uid, **details)
