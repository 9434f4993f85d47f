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

LEASE_SECONDS = 30.0
"""A worker renews its leases long before; after a crash, others take over this much later."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Claim(Generic[T]):
    """Work that is ours while the lease holds."""

    token: str
    items: tuple[T, ...]


def claimable(row: type[Leased], state: str, now: float) -> sa.ColumnElement[bool]:
    """In this state, due, and under nobody's living lease."""
    return sa.and_(row.state == state, row.due_at <= now, row.lease_until <= now)


def lease(connection: sa.Connection, row: Any, ids: Sequence[int], now: float) -> str:
    """Take rows under a new lease; returns its token. The attempt counts from here, also if we crash."""
    token = str(uuid.uuid4())
    connection.execute(
        sa.update(row)
        .where(row.id.in_(ids))
        .values(lease_token=token, lease_until=now + LEASE_SECONDS, attempts=row.attempts + 1)
    )
    return token


def renew(database: Database, tokens: Sequence[str]) -> None:
    """Extend the leases that a living process holds."""
    if not tokens:
        return
    with database.write() as connection:
        until = database.clock() + LEASE_SECONDS
        for row in (InstanceRow, StudyRow, DeliveryRow):
            connection.execute(sa.update(row).where(row.lease_token.in_(tokens)).values(lease_until=until))


def finish(connection: sa.Connection, row: Any, id_: int, token: str, **values: Any) -> bool:
    """Change a row only while our lease on it holds; no row changed means that the work is discarded."""
    result = connection.execute(
        sa.update(row)
        .where(row.id == id_, row.lease_token == token)
        .values(lease_token=None, lease_until=0.0, **values)
    )
    return result.rowcount == 1
