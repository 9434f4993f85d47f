"""Reads the audit log: the history of every study, each event chained to its predecessor by its hash.

Events are written by `Transaction.audit`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import fields
from typing import Any, NamedTuple

import sqlalchemy as sa

from pacs_node.journal.database import Database
from pacs_node.journal.schema import (
    AuditHeadRow,
    AuditRow,
    DeliveryRow,
    InstanceRow,
    ResultRow,
    StudyRow,
    select_instances,
)
from pacs_node.journal.transaction import FIRST_HASH, event_hash
from pacs_node.records import AuditEvent, AuditKind, InstanceState

_PAGE = 1000


class TimedEvent(NamedTuple):
    """An audit event, with the duration in seconds of the stage that it ends; None if it ends none."""

    event: AuditEvent
    seconds: float | None


def events(
    database: Database, study_instance_uid: str | None = None, kind: AuditKind | None = None
) -> Iterator[AuditEvent]:
    """All events in order, or those of one study or kind."""
    query = sa.select(AuditRow.__table__)
    if study_instance_uid is not None:
        query = query.where(AuditRow.study_instance_uid == study_instance_uid)
    if kind is not None:
        query = query.where(AuditRow.event == kind)
    return (_event(row) for row in _pages(database, query, 0))


def timed_events(database: Database, after: int) -> Iterator[TimedEvent]:
    """The events after a number, in order; cheap however many studies there are.

    The stages: ANALYZED, from the image's receipt; REPORTED, from that of the last image before it; SENT,
    from the making of the result; COMMITTED, from its sending. Event numbers are given out in the order in
    which transactions commit, so none is missed, as one of the ids of another table might be.
    """
    for row in _pages(database, sa.select(AuditRow.__table__, _stage_began().label("began")), after):
        began = row["began"]
        yield TimedEvent(_event(row), None if began is None else max(0.0, row["at"] - began))


def _pages(database: Database, query: sa.Select[Any], after: int) -> Iterator[sa.RowMapping]:
    """Rows in pages, so that a slow reader holds no connection."""
    query = query.order_by(AuditRow.seq).limit(_PAGE)
    while True:
        with database.read() as connection:
            page = connection.execute(query.where(AuditRow.seq > after)).mappings().all()
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1]["seq"]


def _stage_began() -> sa.Case[Any]:
    """The beginning of the stage that an audit event ends."""
    received = sa.func.max(InstanceRow.received_at)
    image = sa.select(received).where(
        InstanceRow.received_at <= AuditRow.at, InstanceRow.sop_instance_uid == AuditRow.sop_instance_uid
    )
    images = select_instances(received).where(
        InstanceRow.received_at <= AuditRow.at,
        InstanceRow.state != InstanceState.SKIPPED,
        StudyRow.study_instance_uid == AuditRow.study_instance_uid,
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
        {kind: query.correlate(AuditRow).scalar_subquery() for kind, query in began.items()},
        value=AuditRow.event,
    )


def newest(
    database: Database, kinds: Collection[str] = (), after: int = 0, **details: str
) -> list[AuditEvent]:
    """The newest event of each of these kinds, or of all: after a number, with details; oldest first."""
    where = [AuditRow.seq > after]
    for name, value in details.items():
        member = json.dumps({name: value}, ensure_ascii=False)[1:-1]
        where.append(AuditRow.details.contains(member, autoescape=True))
    conditions = [AuditRow.event == kind for kind in kinds] or [sa.true()]
    seqs = sa.union_all(
        *(sa.select(sa.func.max(AuditRow.seq)).where(condition, *where) for condition in conditions)
    )
    query = sa.select(AuditRow.__table__).where(AuditRow.seq.in_(seqs)).order_by(AuditRow.seq)
    with database.read() as connection:
        return [_event(row) for row in connection.execute(query).mappings()]


def last(database: Database, *kinds: str, after: int = 0, **details: str) -> AuditEvent | None:
    """The newest event of any of these kinds, or of all, after a number and with these details."""
    events = newest(database, kinds, after, **details)
    return events[-1] if events else None


def last_run(database: Database, job: str) -> AuditEvent | None:
    """The end of the last run of a job of the calendar; CALENDAR_FAILED if it failed."""
    success = last(database, AuditKind.of_job(job))
    failure = last(database, AuditKind.CALENDAR_FAILED, after=success.seq if success else 0, job=job)
    return failure or success


def head(database: Database) -> tuple[int, str]:
    """Number and hash of the newest event: a cheap look at whether anything happened."""
    with database.read() as connection:
        row = connection.execute(sa.select(AuditHeadRow.seq, AuditHeadRow.hash)).one_or_none()
    return (row.seq, row.hash) if row else (0, FIRST_HASH)


def verify(
    database: Database,
    last_events: int | None = None,
    watch: Callable[[Iterable[sa.RowMapping]], Iterable[sa.RowMapping]] = iter,
) -> tuple[int, str | None]:
    """Check the chain; returns the number of events, and the problem with the first bad one, if any.

    With `last_events`, only so many events at its end are read. `watch` is given the events and passes them
    on, to show progress.

    The check detects an altered, inserted or missing event, and a log cut off at its end or written by
    another program. A complete rewrite of the log and its head is detected only with an exported copy of an
    earlier hash.
    """
    count, previous = 0, FIRST_HASH
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
                if row["prev_hash"] != previous or row["hash"] != event_hash(values):
                    return count, f"event {count} was altered"
                previous = row["hash"]
    if head is None:
        return count, "the log has no head (table audit_head)"
    if tuple(head) != (count, previous):
        return count, f"the log ends with event {count}, but its head names event {head.seq} as the last"
    return count, None


def _event(row: sa.RowMapping) -> AuditEvent:
    values = {field.name: row[field.name] for field in fields(AuditEvent)}
    return AuditEvent(**(values | {"details": json.loads(row["details"])}))
