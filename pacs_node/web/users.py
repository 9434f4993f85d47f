"""Who may log in: a file of names, roles and argon2 hashes."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from pydantic import BaseModel, ConfigDict, Field

from pacs_node import toml
from pacs_node.errors import ConfigError

SHORTEST_PASSWORD = 12
"""Length counts, not kinds of characters (NIST SP 800-63B 5.1.1)."""


class Role(StrEnum):
    """What somebody may see and do; each may what those before it may."""

    VIEWER = "viewer"
    """Operation and quality: states, results, figures and audit trail; no patient, no image, no action."""
    RADIOLOGIST = "radiologist"
    """Patients and images; says what was right."""
    ADMIN = "admin"
    """Tries again, analyzes again, gives up; sees the configuration."""

    def may(self, needed: Role) -> bool:
        """Whether this role includes the needed one."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who is logged in."""

    name: str
    role: Role
    by_proxy: bool = False
    """Whether a proxy logged them in, so that logging out is the proxy's affair."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    role: Role
    password: Annotated[str, Field(pattern=r"^\$argon2")]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    users: dict[Annotated[str, Field(pattern=r"^[\w.@-]{1,64}$")], _Entry] = {}


class Users:
    """The file of users, read again when it was changed. Raises ConfigError where it is not one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hasher = PasswordHasher()

    @property
    def roles(self) -> dict[str, Role]:
        """Everybody's role, by name; empty where there is no file."""
        return {name: entry.role for name, entry in self._entries().items()}

    def check(self, name: str, password: str) -> Role | None:
        """The role of whom the password proves; None for a wrong password or name, after the same work."""
        entry = self._entries().get(name)
        try:
            self._hasher.verify(entry.password if entry else _nobody(), password)
        except (VerificationError, InvalidHashError):
            return None
        return entry.role if entry else None

    def set(self, name: str, role: Role, password: str) -> None:
        """Add somebody, or change their role and password. Raises ConfigError for a bad name or password."""
        if len(password) < SHORTEST_PASSWORD:
            raise ConfigError(f"a password has at least {SHORTEST_PASSWORD} characters")
        entry = _Entry(role=role, password=self._hasher.hash(password))
        self._write({**self._entries(), name: entry})

    def remove(self, name: str) -> bool:
        """Remove somebody, who is out at once; False where there is no such user."""
        entries = dict(self._entries())
        found = entries.pop(name, None)
        if found:
            self._write(entries)
        return found is not None

    def _entries(self) -> dict[str, _Entry]:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return {}
        return _read(self.path, stat.st_mtime_ns, stat.st_size)

    def _write(self, entries: dict[str, _Entry]) -> None:
        _validated(self.path, {"users": {name: entry.model_dump() for name, entry in entries.items()}})
        text = toml.dump({"users": {name: entry.model_dump(mode="json") for name, entry in entries.items()}})
        # Whole or not at all, and never readable by others.
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"# Written by `pacs-node users`.\n{text}")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(self.path)


@lru_cache(maxsize=4)
def _read(path: Path, _changed: int, _size: int) -> dict[str, _Entry]:
    return _validated(path, toml.read(path)).users


def _validated(path: Path, data: object) -> _File:
    # Without the values: one may be a hash, or a password that was written there by mistake.
    return toml.validated(_File, data, f"web.users: {path}", show_values=False)


@cache
def _nobody() -> str:
    return PasswordHasher().hash("nobody has this one")
