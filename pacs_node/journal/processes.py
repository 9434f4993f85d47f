"""The running processes of the node, each with a row that it keeps fresh, and work that only one may do."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import sqlalchemy as sa

from pacs_node.journal.database import Database, insert_new
from pacs_node.journal.queue import LEASE_SECONDS, ended
from pacs_node.journal.schema import LeaseRow, RoleRow
from pacs_node.records import RunningRole

ROLES = ("receive", "worker", "deliver", "housekeep")
"""All roles of a node; it is ready when each is."""


def beat(database: Database, role: RunningRole) -> None:
    """Record that a process lives, with its address, readiness and statistics."""
    with database.write() as t:
        stats = json.dumps(role.stats)
        values = {"address": role.address, "ready": role.ready, "stats": stats, "seen_at": t.now}
        if t.execute(sa.update(RoleRow).where(_is(role)).values(values)).rowcount == 0:
            key = {"role": role.role, "host": role.host, "pid": role.pid}
            t.execute(sa.insert(RoleRow).values(**key, **values))


def leave(database: Database, role: RunningRole) -> None:
    """Record that a process ends."""
    with database.write() as t:
        t.execute(sa.delete(RoleRow).where(_is(role)))


def _is(role: RunningRole) -> sa.ColumnElement[bool]:
    return sa.and_(RoleRow.role == role.role, RoleRow.host == role.host, RoleRow.pid == role.pid)


def missing(running: Sequence[RunningRole]) -> list[str]:
    """The roles without a ready process; empty if the node is ready."""
    ready = {role.role for role in running if role.ready}
    return [name for name in ROLES if name not in ready]


def running(database: Database) -> list[RunningRole]:
    """The processes seen within a lease's time; on this machine, those that still live."""
    query = (
        sa.select(*(getattr(RoleRow, field.name) for field in fields(RunningRole)))
        .where(~ended(RoleRow.seen_at + LEASE_SECONDS, database.clock()))
        .order_by(RoleRow.role, RoleRow.host, RoleRow.pid)
    )
    with database.read() as connection:
        rows = connection.execute(query).mappings()
        seen = [RunningRole(**{**row, "stats": json.loads(row["stats"])}) for row in rows]
    here = socket.gethostname()
    return [role for role in seen if role.host != here or Path(f"/proc/{role.pid}").exists()]


def lead(database: Database, name: str, token: str) -> bool:
    """Take or renew the lease on work that only one process may do; False while another holds it."""
    with database.write() as t:
        t.execute(insert_new(t, LeaseRow), {"name": name, "token": token, "lease_until": 0.0})
        free = sa.or_(LeaseRow.token == token, ended(LeaseRow.lease_until, t.now))
        update = (
            sa.update(LeaseRow)
            .where(LeaseRow.name == name, free)
            .values(token=token, lease_until=t.now + LEASE_SECONDS)
        )
        return t.execute(update).rowcount == 1


def hand_over(database: Database, name: str, token: str) -> None:
    """Let another process take the lease at once."""
    with database.write() as t:
        t.execute(sa.delete(LeaseRow).where(LeaseRow.name == name, LeaseRow.token == token))
