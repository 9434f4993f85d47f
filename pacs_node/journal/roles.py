"""The running processes of the node, each with a row of its own that it keeps fresh."""

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
    """Say that a process lives, what it does and whether it is ready."""
    ours = (RoleRow.role == role.role, RoleRow.host == role.host, RoleRow.pid == role.pid)
    told = {"address": role.address, "ready": role.ready, "stats": json.dumps(role.stats)}
    values = told | {"seen_at": database.clock()}
    with database.write() as t:
        if t.execute(sa.update(RoleRow).where(*ours).values(values)).rowcount == 0:
            t.execute(sa.insert(RoleRow).values(role=role.role, host=role.host, pid=role.pid, **values))


def leave(database: Database, role: RunningRole) -> None:
    """Say that a process ends."""
    with database.write() as t:
        t.execute(
            sa.delete(RoleRow).where(
                RoleRow.role == role.role, RoleRow.host == role.host, RoleRow.pid == role.pid
            )
        )


def missing(running: Sequence[RunningRole]) -> list[str]:
    """The roles that no process of these does, or that are not ready; empty where the node is."""
    ready = {role.role for role in running if role.ready}
    return [name for name in ROLES if name not in ready]


def running(database: Database) -> list[RunningRole]:
    """The processes that were seen within a lease's time; on this machine, those that still live."""
    now = database.clock()
    query = (
        sa.select(*(getattr(RoleRow, one.name) for one in fields(RunningRole)))
        .where(~ended(RoleRow.seen_at + LEASE_SECONDS, now))
        .order_by(RoleRow.role, RoleRow.host, RoleRow.pid)
    )
    with database.read() as connection:
        rows = connection.execute(query).mappings()
        seen = [RunningRole(**{**row, "stats": json.loads(row["stats"])}) for row in rows]
    here = socket.gethostname()
    return [role for role in seen if role.host != here or Path(f"/proc/{role.pid}").exists()]


def lead(database: Database, name: str, token: str) -> bool:
    """Take or renew the lease on work that only one process of all may do; False while another holds it."""
    with database.write() as t:
        t.execute(insert_new(t, LeaseRow), {"name": name, "token": token, "lease_until": 0.0})
        ours = sa.or_(LeaseRow.token == token, ended(LeaseRow.lease_until, t.now))
        taken = t.execute(
            sa.update(LeaseRow)
            .where(LeaseRow.name == name, ours)
            .values(token=token, lease_until=t.now + LEASE_SECONDS)
        )
        return taken.rowcount == 1


def hand_over(database: Database, name: str, token: str) -> None:
    """Let another process take a lease that was ours at once."""
    with database.write() as t:
        t.execute(sa.delete(LeaseRow).where(LeaseRow.name == name, LeaseRow.token == token))
