"""The audit log: what happened to every study, each event chained to the one before it by its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from pacs_node.journal.database import Database
from pacs_node.journal.schema import AuditRow
from pacs_node.records import AuditEvent

FIRST = "0" * 64


def append(
    connection: sa.Connection,
    at: float,
    event: str,
    study_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    **details: Any,
) -> None:
    """Write one event in the caller's transaction, the one that moves the state."""
    last = connection.execute(
        sa.select(AuditRow.seq, AuditRow.hash).order_by(AuditRow.seq.desc()).limit(1)
    ).one_or_none()
    values: dict[str, Any] = {
        "seq": last.seq + 1 if last else 1,
        "at": at,
        "event": event,
        "study_instance_uid": study_instance_uid,
        "sop_instance_uid": sop_instance_uid,
        "details": json.dumps(details, sort_keys=True, ensure_ascii=False),
        "prev_hash": last.hash if last else FIRST,
    }
    connection.execute(sa.insert(AuditRow).values(values | {"hash": _hash(values)}))


def events(database: Database, study_instance_uid: str | None = None) -> Iterator[AuditEvent]:
    """All events in order, or those of one study."""
    query = sa.select(AuditRow.__table__).order_by(AuditRow.seq)
    if study_instance_uid is not None:
        query = query.where(AuditRow.study_instance_uid == study_instance_uid)
    with database.read() as connection:
        for row in connection.execute(query).mappings():
            yield AuditEvent(**{**row, "details": json.loads(row["details"])})


def verify(database: Database) -> tuple[int, str | None]:
    """Check the chain: how many events there are, and what is wrong with the first bad one (None: nothing).

    It shows an altered, inserted or missing event. A log cut off at its end shows only against an exported
    copy of its last hash.
    """
    count, previous = 0, FIRST
    with database.read() as connection:
        for row in connection.execute(sa.select(AuditRow.__table__).order_by(AuditRow.seq)).mappings():
            values = {key: row[key] for key in row if key != "hash"}
            count += 1
            if row["seq"] != count:
                return count, f"event {count} is missing"
            if row["prev_hash"] != previous or row["hash"] != _hash(values):
                return count, f"event {count} was altered"
            previous = row["hash"]
    return count, None


def _hash(values: dict[str, Any]) -> str:
    canonical = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
