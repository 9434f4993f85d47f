"""Users who are logged in to the web page."""

from __future__ import annotations

import hashlib
import secrets

import sqlalchemy as sa

from pacs_node.journal.database import Database
from pacs_node.journal.schema import SessionRow
from pacs_node.records import AuditKind

LONGEST_SECONDS = 12 * 3600.0
"""A session ends then, however active it is."""
_TOUCH_SECONDS = 30.0
"""A session's last use is recorded at most this often."""


def begin(database: Database, who: str, role: str, address: str = "") -> str:
    """Log a user in; returns the token for their cookie. Expired sessions are removed."""
    token = secrets.token_urlsafe(32)
    with database.write() as t:
        t.execute(sa.delete(SessionRow).where(SessionRow.created_at < t.now - LONGEST_SECONDS))
        new = {"token_sha256": _sha256(token), "who": who, "role": role}
        t.execute(sa.insert(SessionRow).values(**new, created_at=t.now, seen_at=t.now))
        t.audit(AuditKind.LOGGED_IN, who=who, role=role, address=address)
    return token


def of(database: Database, token: str, idle_seconds: float, is_use: bool) -> tuple[str, str] | None:
    """A session's user and their role; None if it is unknown or has expired.

    `is_use` keeps the session from expiring; a page that renews itself is no use of it.
    """
    this = SessionRow.token_sha256 == _sha256(token)
    with database.read() as connection:
        row = connection.execute(sa.select(SessionRow.__table__).where(this)).one_or_none()
    now = database.clock()
    if row is None or now > min(row.seen_at + idle_seconds, row.created_at + LONGEST_SECONDS):
        return None
    if is_use and now > row.seen_at + _TOUCH_SECONDS:
        with database.write() as t:
            t.execute(sa.update(SessionRow).where(this).values(seen_at=t.now))
    return row.who, row.role


def end(database: Database, token: str) -> None:
    """Log the user of a session out, if there is one."""
    delete = sa.delete(SessionRow).where(SessionRow.token_sha256 == _sha256(token))
    with database.write() as t:
        who = t.execute(delete.returning(SessionRow.who)).scalar_one_or_none()
        if who is not None:
            t.audit(AuditKind.LOGGED_OUT, who=who)


def end_all(database: Database, name: str, who: str) -> None:
    """Log a user out everywhere, because `who` changed their password or role, or removed them."""
    with database.write() as t:
        t.execute(sa.delete(SessionRow).where(SessionRow.who == name))
        t.audit(AuditKind.USER_CHANGED, name=name, who=who)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
