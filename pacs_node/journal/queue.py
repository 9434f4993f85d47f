"""Three queues, one mechanism: claim due rows under a lease, and finish them only while the lease holds.

"Being worked on" is a lease and never a state, so that recovery from a crash is a lease running out.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from pacs_node.journal.database import Database
from pacs_node.journal.schema import DeliveryRow, InstanceRow, Leased, StudyRow
from pacs_node.journal.transaction import Transaction
from pacs_node.records import AuditKind

LEASE_SECONDS = 30.0
"""A worker renews its leases long before; after a crash, others take over this much later."""

MAX_ATTEMPTS = 3
"""An image or a study that ended or hung a worker as often is given up."""

T = TypeVar("T")

QUEUES: tuple[type[InstanceRow | StudyRow | DeliveryRow], ...] = (InstanceRow, StudyRow, DeliveryRow)


@dataclass(frozen=True, slots=True)
class Claim(Generic[T]):
    """Work that belongs to its claimant while the lease holds."""

    token: str
    items: tuple[T, ...]


def lease(t: Transaction, row: Any, ids: Sequence[int]) -> str:
    """Put rows under a new lease and return its token. The attempt counts from here, even after a crash."""
    token = str(uuid.uuid4())
    until = t.now + LEASE_SECONDS
    values = {"lease_token": token, "lease_until": until, "attempts": row.attempts + 1}
    t.execute(sa.update(row).where(row.id.in_(ids)).values(values))
    return token


def claim(
    database: Database,
    row: Any,
    due: sa.Select[*tuple[Any, ...]],
    pick: Callable[[Transaction], Sequence[int]],
    load: Callable[[Transaction, Sequence[int]], Iterable[T]],
    hold: Callable[[Transaction, Any, Sequence[int]], str] = lease,
) -> Claim[T] | None:
    """Take due rows and return them as `load` reads them; None if there are none.

    `due` is asked first, without a lock, since mostly nothing is due; `pick` then locks the rows to take
    (`locked`) and returns their ids; `hold` keeps other claimants away once the transaction has ended.
    """
    with database.read() as connection:
        if connection.execute(due.limit(1)).first() is None:
            return None
    with database.write() as t:
        ids = pick(t)
        if not ids:
            return None
        token = hold(t, row, ids)
        return Claim(token, tuple(load(t, ids)))


def claimable(row: type[Leased], state: str, now: float) -> sa.ColumnElement[bool]:
    """In this state, due, and not under a live lease."""
    return sa.and_(row.state == state, row.due_at <= now, ended(row.lease_until, now))


def ended(lease_until: Any, now: float) -> sa.ColumnElement[bool]:
    """A lease that ran out; one that ends later than any can dates from before the clock was set back."""
    return sa.or_(lease_until <= now, lease_until > now + 2 * LEASE_SECONDS)


def locked(query: sa.Select[*tuple[Any, ...]], row: type[Leased]) -> sa.Select[*tuple[Any, ...]]:
    """The query, locking its rows until the transaction ends, without those that another process has locked.

    SQLite has no such clause and needs none: its writers take turns.
    """
    return query.with_for_update(skip_locked=True, of=row)


def renew(database: Database, tokens: Sequence[str]) -> None:
    """Extend the leases that a living process holds."""
    if not tokens:
        return
    with database.write() as t:
        for row in QUEUES:
            # Another thread may be finishing some of these rows: waiting for it could last for ever.
            held = locked(sa.select(row.id).where(row.lease_token.in_(tokens)), row)
            ids = t.execute(held).scalars().all()
            t.execute(sa.update(row).where(row.id.in_(ids)).values(lease_until=t.now + LEASE_SECONDS))


def finish(t: Transaction, row: Any, id_: int, token: str, **values: Any) -> bool:
    """Change a row only while the lease on it holds; False means that the work must be discarded."""
    result = t.execute(
        sa.update(row)
        .where(row.id == id_, row.lease_token == token)
        .values(lease_token=None, lease_until=0.0, **values)
    )
    return result.rowcount == 1


def shift(database: Database, seconds: float) -> int:
    """Make what is due in the future due that much earlier, after the clock was set back by as much; audited.

    Returns the number of rows.
    """
    with database.write() as t:
        shifted = sum(
            t.execute(sa.update(row).where(row.due_at > t.now).values(due_at=row.due_at - seconds)).rowcount
            for row in QUEUES
        )
        t.audit(AuditKind.CLOCK_JUMPED, seconds=-seconds, shifted=shifted)
    return shifted
