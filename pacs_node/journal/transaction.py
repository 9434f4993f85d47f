"""One transaction of the journal: statements and audit events that are committed together."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa

from pacs_node.errors import JournalError
from pacs_node.journal.schema import AuditHeadRow, AuditRow
from pacs_node.records import AuditKind

FIRST_HASH = "0" * 64
"""The hash that the first event is chained to."""


class Transaction:
    """Made by `Database.write`; `now` is when it began, in seconds since the epoch."""

    def __init__(self, connection: sa.Connection, now: float) -> None:
        self.connection = connection
        self.execute = connection.execute
        self.now = now
        self._events: list[dict[str, Any]] = []

    def audit(
        self,
        kind: AuditKind,
        study_instance_uid: str | None = None,
        sop_instance_uid: str | None = None,
        /,
        **details: Any,
    ) -> None:
        """Add an event to the audit log; it is written at the end of the transaction."""
        self._events.append(
            {
                "at": self.now,
                "event": kind,
                "study_instance_uid": study_instance_uid,
                "sop_instance_uid": sop_instance_uid,
                "details": json.dumps(details, sort_keys=True, ensure_ascii=False),
            }
        )

    def chain_events(self) -> None:
        """Chain the events to the log, as the last step before the commit.

        The head of the log stays locked until then: all writers meet there, so nothing else may be waited for
        while holding it. Raises JournalError if the log has no head.
        """
        if not self._events:
            return
        head = self.execute(sa.select(AuditHeadRow.seq, AuditHeadRow.hash).with_for_update()).one_or_none()
        if head is None:
            raise JournalError("the audit log has lost its head (table audit_head): restore a backup")
        seq, previous = head.seq, head.hash
        for event in self._events:
            seq += 1
            event |= {"seq": seq, "prev_hash": previous}
            previous = event["hash"] = event_hash(event)
        self.execute(sa.insert(AuditRow), self._events)
        self.execute(sa.update(AuditHeadRow).values(seq=seq, hash=previous))


def event_hash(values: dict[str, Any]) -> str:
    """SHA-256 of an event's other columns, its predecessor's hash among them."""
    canonical = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
