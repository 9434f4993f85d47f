"""Three queues, one mechanism: claim what is due under a lease, and finish it only while the lease holds.

"Being worked on" is a lease and never a state, so that recovery from a crash is a lease running out.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from pacs_node.journal.database import Database
from pacs_node.journal.schema import DeliveryRow, InstanceRow, Leased, StudyRow
from pacs_node.journal.transaction import Transaction
from pacs_node.records import AuditKind

LEASE_SECONDS = 30.0
"""A worker renews its leases long before; after a crash, others take over this much later."""

T = TypeVar("T")

QUEUES: tuple[type[InstanceRow | StudyRow | DeliveryRow], ...] = (InstanceRow, StudyRow, DeliveryRow)


@dataclass(frozen=True, slots=True)
class Claim(Generic[T]):
    """Work that is ours while the lease holds."""

    token: str
    items: tuple[T, ...]


def claimable(row: type[Leased], state: str, now: float) -> sa.ColumnElement[bool]:
    """In this state, due, and under nobody's living lease."""
    return sa.and_(row.state == state, row.due_at <= now, ended(row.lease_until, now))


def ended(lease_until: Any, now: float) -> sa.ColumnElement[bool]:
    """A lease that ran out; one that ends later than any can is of before the clock was set back."""
    return sa.or_(lease_until <= now, lease_until > now + 2 * LEASE_SECONDS)


def locked(query: sa.Select[*tuple[Any, ...]], row: type[Leased]) -> sa.Select[*tuple[Any, ...]]:
    """The rows, ours until the transaction ends, without those that another process is at this moment taking.

    SQLite has no such clause and needs none: its writers take turns.
    """
    return query.with_for_update(skip_locked=True, of=row)


def lease(t: Transaction, row: Any, ids: Sequence[int]) -> str:
    """Take rows under a new lease; returns its token. The attempt counts from here, also if we crash."""
    token = str(uuid.uuid4())
    t.execute(
        sa.update(row)
        .where(row.id.in_(ids))
        .values(lease_token=token, lease_until=t.now + LEASE_SECONDS, attempts=row.attempts + 1)
    )
    return token


def renew(database: Database, tokens: Sequence[str]) -> None:
    """Extend the leases that a living process holds."""
    if not tokens:
        return
    with database.write() as t:
        until = t.now + LEASE_SECONDS
        for row in QUEUES:
            # Another thread may be finishing some of these rows: to wait for it could be for ever.
            held = locked(sa.select(row.id).where(row.lease_token.in_(tokens)), row)
            ids = t.execute(held).scalars().all()
            t.execute(sa.update(row).where(row.id.in_(ids)).values(lease_until=until))


def shift(database: Database, seconds: float) -> int:
    """Make what is due in the future due so much earlier, after the clock was set back by that; audited.

    Returns how many rows that were.
    """
    with database.write() as t:
        shifted = sum(
            t.execute(sa.update(row).where(row.due_at > t.now).values(due_at=row.due_at - seconds)).rowcount
            for row in QUEUES
        )
        t.audit(AuditKind.CLOCK_JUMPED, seconds=-seconds, shifted=shifted)
    return shifted


def finish(t: Transaction, row: Any, id_: int, token: str, **values: Any) -> bool:
    """Change a row only while our lease on it holds; no row changed means that the work is discarded."""
    result = t.execute(
        sa.update(row)
        .where(row.id == id_, row.lease_token == token)
        .values(lease_token=None, lease_until=0.0, **values)
    )
    return result.rowcount == 1
