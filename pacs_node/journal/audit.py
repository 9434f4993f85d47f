"""The audit log: what happened to every study, each event chained to the one before it by its hash."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator

import sqlalchemy as sa

from pacs_node.journal.database import Database
from pacs_node.journal.schema import AuditHeadRow, AuditRow
from pacs_node.journal.transaction import event_hash
from pacs_node.records import AuditEvent, AuditKind

FIRST = "0" * 64
"""The hash that the first event is chained to."""
_PAGE = 1000


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
    apart = sa.case((AuditRow.event == AuditKind.CALENDAR_FAILED, AuditRow.details), else_="")
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
                if row["prev_hash"] != previous or row["hash"] != event_hash(values):
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
