"""The audit log: what happened to every study, each event chained to the one before it by its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pacs_node.errors import JournalError
from pacs_node.journal.schema import AuditHeadRow, AuditRow
from pacs_node.records import AuditEvent

if TYPE_CHECKING:
    from pacs_node.journal.database import Database

FIRST = "0" * 64
QUEUE = "pacs_node_audit"
"""The execution option under which a writing connection carries the events of its transaction."""

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """An event that is to be written."""

    event: str
    study_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


Queued = tuple[float, Entry]
"""When it happened, and what."""


def append(
    connection: sa.Connection,
    at: float,
    event: str,
    study_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    **details: Any,
) -> None:
    """Write one event with the caller's transaction, the one that moves the state."""
    append_all(connection, at, [Entry(event, study_instance_uid, sop_instance_uid, details)])


def append_all(connection: sa.Connection, at: float, entries: Sequence[Entry]) -> None:
    """Write events in their order with the caller's transaction, of `Database.write`."""
    connection.get_execution_options()[QUEUE].extend((at, entry) for entry in entries)


def flush(connection: sa.Connection, queued: Sequence[Queued]) -> None:
    """Chain a transaction's events to the log, as the last thing before its commit.

    The head of the log is locked from here on: all writers meet there, so nobody may wait for anything else
    while holding it. Raises JournalError where the log has no head.
    """
    if not queued:
        return
    head = connection.execute(sa.select(AuditHeadRow.seq, AuditHeadRow.hash).with_for_update()).one_or_none()
    if head is None:
        raise JournalError("the audit log has lost its head (table audit_head): restore a backup")
    seq, previous = head.seq, head.hash
    rows = []
    for at, entry in queued:
        seq += 1
        values: dict[str, Any] = {
            "seq": seq,
            "at": at,
            "event": entry.event,
            "study_instance_uid": entry.study_instance_uid,
            "sop_instance_uid": entry.sop_instance_uid,
            "details": json.dumps(entry.details, sort_keys=True, ensure_ascii=False),
            "prev_hash": previous,
        }
        previous = _hash(values)
        rows.append(values | {"hash": previous})
    connection.execute(sa.insert(AuditRow), rows)
    connection.execute(sa.update(AuditHeadRow).values(seq=seq, hash=previous))


def events(database: Database, study_instance_uid: str | None = None) -> Iterator[AuditEvent]:
    """All events in order, or those of one study; read in pages, so that a slow reader holds up nobody."""
    query = sa.select(AuditRow.__table__).order_by(AuditRow.seq).limit(_PAGE)
    if study_instance_uid is not None:
        query = query.where(AuditRow.study_instance_uid == study_instance_uid)
    after, more = 0, True
    while more:
        with database.read() as connection:
            page = [_event(row) for row in connection.execute(query.where(AuditRow.seq > after)).mappings()]
        yield from page
        more = len(page) == _PAGE
        after = page[-1].seq if page else after


def last(database: Database, prefix: str) -> AuditEvent | None:
    """The newest event whose name begins so."""
    query = (
        sa.select(AuditRow.__table__)
        .where(AuditRow.event.startswith(prefix, autoescape=True))
        .order_by(AuditRow.seq.desc())
        .limit(1)
    )
    with database.read() as connection:
        row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _event(row)


def head(database: Database) -> tuple[int, str]:
    """Number and hash of the newest event; one cheap look that shows whether anything happened."""
    with database.read() as connection:
        row = connection.execute(sa.select(AuditHeadRow.seq, AuditHeadRow.hash)).one_or_none()
    return (row.seq, row.hash) if row else (0, FIRST)


def newest(database: Database, names: Collection[str], after: int = 0) -> list[AuditEvent]:
    """The newest event of each of these names among those after a number, oldest first.

    Of `calendar_failed` the newest of each wording, since it is of one job or another.
    """
    apart = sa.case((AuditRow.event == "calendar_failed", AuditRow.details), else_="")
    seqs = (
        sa.select(sa.func.max(AuditRow.seq))
        .where(AuditRow.seq > after, AuditRow.event.in_(names))
        .group_by(AuditRow.event, apart)
    )
    query = sa.select(AuditRow.__table__).where(AuditRow.seq.in_(seqs)).order_by(AuditRow.seq)
    with database.read() as connection:
        return [_event(row) for row in connection.execute(query).mappings()]


def verify(
    database: Database,
    last_events: int | None = None,
    watch: Callable[[Iterable[sa.RowMapping]], Iterable[sa.RowMapping]] = iter,
) -> tuple[int, str | None]:
    """Check the chain: how many events there are, and what is wrong with the first bad one (None: nothing).

    With `last_events`, only so many events at its end are read.

    It shows an altered, inserted or missing event, and a log cut off at its end or written behind our back.
    Who can rewrite the whole log and its head is caught only by an exported copy of an earlier hash. `watch`
    gets the events, to pass them on, for whoever shows how far it is.
    """
    count, previous = 0, FIRST
    query = sa.select(AuditRow.__table__).order_by(AuditRow.seq)
    with database.read() as connection:
        head = connection.execute(sa.select(AuditHeadRow.seq, AuditHeadRow.hash)).one_or_none()
        if last_events is not None and head is not None and head.seq > last_events:
            count = head.seq - last_events
            before = sa.select(AuditRow.hash).where(AuditRow.seq == count)
            previous = connection.execute(before).scalar_one_or_none() or ""
            query = query.where(AuditRow.seq > count)
        with connection.execute(query, execution_options={"yield_per": _PAGE}) as rows:
            for row in watch(rows.mappings()):
                values = {key: row[key] for key in row if key != "hash"}
                count += 1
                if row["seq"] != count:
                    return count, f"event {count} is missing"
                if row["prev_hash"] != previous or row["hash"] != _hash(values):
                    return count, f"event {count} was altered"
                previous = row["hash"]
    if head is None:
        return count, "the log has no head (table audit_head)"
    if tuple(head) != (count, previous):
        return (
            count,
            f"the log ends with event {count}, its head names another as the last, {head.seq}",
        )
    return count, None


def _event(row: sa.RowMapping) -> AuditEvent:
    return AuditEvent(**{**row, "details": json.loads(row["details"])})


def _hash(values: dict[str, Any]) -> str:
    canonical = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
