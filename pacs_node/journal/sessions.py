"""Who is logged in to the web page; what somebody did there is audited where it is done."""

from __future__ import annotations

import hashlib
import secrets

import sqlalchemy as sa

from pacs_node.journal.database import Database
from pacs_node.journal.schema import SessionRow
from pacs_node.records import AuditKind

LONGEST_SECONDS = 12 * 3600.0
"""A session ends then, however busy it is."""
_TOUCH_SECONDS = 30.0
"""A session's last use is written down so often at most."""


def begin(database: Database, who: str, role: str, address: str = "") -> str:
    """Log somebody in; returns the token that their cookie holds. What ran out is removed."""
    token = secrets.token_urlsafe(32)
    with database.write() as t:
        t.execute(sa.delete(SessionRow).where(SessionRow.created_at < t.now - LONGEST_SECONDS))
        t.execute(
            sa.insert(SessionRow).values(
                token_sha256=_sha256(token), who=who, role=role, created_at=t.now, seen_at=t.now
            )
        )
        t.audit(AuditKind.LOGGED_IN, who=who, role=role, address=address)
    return token


def of(database: Database, token: str, idle_seconds: float, is_use: bool) -> tuple[str, str] | None:
    """Who a token stands for, and their role; None where it is unknown or ran out.

    `is_use` keeps the session from running out; a page that renews itself is no use of it.
    """
    ours = SessionRow.token_sha256 == _sha256(token)
    with database.read() as connection:
        row = connection.execute(sa.select(SessionRow.__table__).where(ours)).one_or_none()
    now = database.clock()
    if row is None or now > min(row.seen_at + idle_seconds, row.created_at + LONGEST_SECONDS):
        return None
    if is_use and now > row.seen_at + _TOUCH_SECONDS:
        with database.write() as t:
            t.execute(sa.update(SessionRow).where(ours).values(seen_at=t.now))
    return row.who, row.role


def end(database: Database, token: str) -> None:
    """Log out whom a token stands for, if anybody."""
    ours = sa.delete(SessionRow).where(SessionRow.token_sha256 == _sha256(token))
    with database.write() as t:
        who = t.execute(ours.returning(SessionRow.who)).scalar_one_or_none()
        if who is not None:
            t.audit(AuditKind.LOGGED_OUT, who=who)


def end_all(database: Database, name: str, who: str) -> None:
    """Log somebody out wherever they are: their password or role was changed, or they were removed."""
    with database.write() as t:
        t.execute(sa.delete(SessionRow).where(SessionRow.who == name))
        t.audit(AuditKind.USER_CHANGED, name=name, who=who)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
