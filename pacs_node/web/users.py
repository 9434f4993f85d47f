"""The users of the pages: a file of names, roles and argon2 hashes."""

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
    """A user's permissions; each role includes those before it."""

    VIEWER = "viewer"
    """Operation and quality: states, results, figures and audit trail; no patients, images or actions."""
    RADIOLOGIST = "radiologist"
    """Patients and images; records labels."""
    ADMIN = "admin"
    """Retries, reanalyzes, gives up and dismisses; sees the configuration."""

    def may(self, needed: Role) -> bool:
        """Whether this role includes the needed one."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class User:
    """A user who is logged in."""

    name: str
    role: Role
    by_proxy: bool = False
    """Whether a proxy logged the user in, and so has to log them out."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    role: Role
    password: Annotated[str, Field(pattern=r"^\$argon2")]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    users: dict[Annotated[str, Field(pattern=r"^[\w.@-]{1,64}$")], _Entry] = {}


class Users:
    """The file of users, read again when it changes. Raises ConfigError if it is invalid."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hasher = PasswordHasher()

    @property
    def roles(self) -> dict[str, Role]:
        """Every user's role, by name; empty without a file."""
        return {name: entry.role for name, entry in self._entries().items()}

    def check(self, name: str, password: str) -> Role | None:
        """The role of the user with this password; None for a wrong password or name, after the same work."""
        entry = self._entries().get(name)
        try:
            self._hasher.verify(entry.password if entry else _decoy(), password)
        except (VerificationError, InvalidHashError):
            return None
        return entry.role if entry else None

    def set(self, name: str, role: Role, password: str) -> None:
        """Add a user, or change their role and password. Raises ConfigError for a bad name or password."""
        if len(password) < SHORTEST_PASSWORD:
            raise ConfigError(f"a password has at least {SHORTEST_PASSWORD} characters")
        entry = _Entry(role=role, password=self._hasher.hash(password))
        self._write({**self._entries(), name: entry})

    def remove(self, name: str) -> bool:
        """Remove a user, whose sessions end at once; False if there is no such user."""
        entries = dict(self._entries())
        is_known = entries.pop(name, None) is not None
        if is_known:
            self._write(entries)
        return is_known

    def _entries(self) -> dict[str, _Entry]:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return {}
        return _read(self.path, stat.st_mtime_ns, stat.st_size)

    def _write(self, entries: dict[str, _Entry]) -> None:
        data = {"users": {name: entry.model_dump(mode="json") for name, entry in entries.items()}}
        _validated(self.path, data)
        # Whole or not at all, and never readable by others.
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"# Written by `pacs-node users`.\n{toml.dump(data)}")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(self.path)


@lru_cache(maxsize=4)
def _read(path: Path, _changed: int, _size: int) -> dict[str, _Entry]:
    return _validated(path, toml.read(path)).users


def _validated(path: Path, data: object) -> _File:
    # Without the values: they are hashes, or passwords written there by mistake.
    return toml.validated(_File, data, f"web.users: {path}", show_values=False)


@cache
def _decoy() -> str:
    return PasswordHasher().hash("no user has this password")
