"""Durable, content-addressed files: `spool/new` holds received files, `files` the registered ones.

A file is named by its sha256, written before any row refers to it, and never overwritten. No path contains
received text.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pacs_node.records import StoredFile

T = TypeVar("T")

_COPY = 1 << 20


@dataclass(frozen=True, slots=True)
class SpooledFile:
    """A received file in `spool/new`, durable, not yet registered in the journal."""

    path: Path
    received_at: float
    sha256: str


class FileStore:
    """The files of one node under `root`; safe to use from several threads, processes and machines."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / "spool" / "tmp"
        self._new = root / "spool" / "new"
        self._files = root / "files"
        self._withdrawn = root / "spool" / "withdrawn"
        places = [self._files / f"{first:02x}" for first in range(256)]
        for folder in (self._incoming, self._new, self._withdrawn, *places):
            folder.mkdir(parents=True, exist_ok=True)
        # A file is only as durable as its parent folders.
        for folder in (self._files, root / "spool", root, root.parent):
            _sync_folder(folder)

    def spool(
        self, parts: Iterable[bytes | memoryview], inspect: Callable[[Path], T]
    ) -> tuple[SpooledFile, T]:
        """Write `parts` as one file, inspect it, and return once it is durable in `spool/new`.

        Durable: synced, renamed, and the directory synced. If `inspect` raises, nothing is left behind.
        Raises OSError if it cannot be written.
        """
        temporary = self._incoming / uuid.uuid4().hex
        digest = hashlib.sha256()
        try:
            with temporary.open("xb", buffering=0) as file:
                for part in parts:
                    digest.update(part)
                    _write_all(file.fileno(), part)
                inspected = inspect(temporary)
                os.fsync(file.fileno())
            now, sha256 = time.time_ns(), digest.hexdigest()
            # Names sort by arrival; the random part separates parallel duplicates.
            path = temporary.rename(self._new / f"{now:020d}-{sha256}-{temporary.name[:8]}")
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(self._new)
        return SpooledFile(path, now / 1e9, sha256), inspected

    def spooled(self, limit: int | None = None) -> list[SpooledFile]:
        """The files in `spool/new`, oldest first, at most `limit`."""
        names = sorted(entry.name for entry in os.scandir(self._new))[:limit]
        return [
            SpooledFile(path=self._new / name, received_at=int(name[:20]) / 1e9, sha256=name.split("-")[1])
            for name in names
        ]

    @contextmanager
    def intake(self) -> Iterator[bool]:
        """The exclusive right, across processes and machines, to take files from `spool/new`; False if held.

        A shared file system must support `flock` across machines, as NFS 4 does.
        """
        with (self.root / "spool" / "intake.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def keep(self, spooled: Sequence[SpooledFile]) -> list[StoredFile]:
        """Link spooled files into the store, durably; they stay in the spool until `forget`."""
        kept, folders = [], set()
        for item in spooled:
            target = self.path(item.sha256)
            with suppress(FileExistsError):
                target.hardlink_to(item.path)
            # Also if it existed: the process that linked it may have died before the sync.
            folders.add(target.parent)
            kept.append(StoredFile(item.sha256, target.stat().st_size, target))
        for folder in folders:
            _sync_folder(folder)
        return kept

    def forget(self, spooled: Sequence[SpooledFile]) -> None:
        """Remove registered files from the spool."""
        for item in spooled:
            item.path.unlink(missing_ok=True)

    def set_aside(self, spooled: SpooledFile) -> Path:
        """Move a file that cannot be registered to `spool/unreadable`; returns its new path."""
        folder = self.root / "spool" / "unreadable"
        folder.mkdir(exist_ok=True)
        return spooled.path.rename(folder / spooled.path.name)

    def put(self, data: bytes) -> StoredFile:
        """Store bytes durably; equal bytes are one file."""
        sha256 = hashlib.sha256(data).hexdigest()
        target = self.path(sha256)
        if not target.exists():
            temporary = self._incoming / uuid.uuid4().hex
            try:
                with temporary.open("xb", buffering=0) as file:
                    _write_all(file.fileno(), data)
                    os.fsync(file.fileno())
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        # Also if it existed: the process that wrote it may have died before the sync.
        _sync_folder(target.parent)
        return StoredFile(sha256, len(data), target)

    def path(self, sha256: str) -> Path:
        """The path of the file with this digest."""
        return self._files / sha256[:2] / f"{sha256}.dcm"

    def stored(self) -> Iterator[list[Path]]:
        """All files of the store, folder by folder."""
        for folder in sorted(self._files.iterdir()):
            yield [path for path in folder.iterdir() if path.suffix == ".dcm"]

    def withdraw(self, sha256s: Iterable[str]) -> None:
        """Move stored files aside durably, to `restore` or `remove` each later."""
        folders = {self._withdrawn}
        for sha256 in sha256s:
            with suppress(FileNotFoundError):
                self.path(sha256).rename(self._withdrawn / f"{sha256}.dcm")
                folders.add(self.path(sha256).parent)
        for folder in folders:
            _sync_folder(folder)

    def withdrawn(self) -> list[str]:
        """Digests of files still withdrawn after a crash."""
        return [path.stem for path in self._withdrawn.iterdir()]

    def restore(self, sha256: str) -> None:
        """Move a withdrawn file back."""
        with suppress(FileNotFoundError):
            (self._withdrawn / f"{sha256}.dcm").rename(self.path(sha256))
            _sync_folder(self.path(sha256).parent)

    def remove(self, sha256: str) -> None:
        """Delete a withdrawn file."""
        (self._withdrawn / f"{sha256}.dcm").unlink(missing_ok=True)

    def respool(self, sha256: str) -> None:
        """Spool a stored file again, with its modification time as the time of receipt."""
        path = self.path(sha256)
        name = f"{path.stat().st_mtime_ns:020d}-{sha256}-{uuid.uuid4().hex[:8]}"
        (self._new / name).hardlink_to(path)
        _sync_folder(self._new)

    def refused(self) -> set[str]:
        """Digests of the files in `spool/unreadable`."""
        folder = self.root / "spool" / "unreadable"
        return {path.name.split("-")[1] for path in folder.iterdir()} if folder.exists() else set()

    def free_gb(self) -> float:
        """Free space in units of 10^9 bytes."""
        return shutil.disk_usage(self.root).free / 1e9

    def sweep(self) -> int:
        """Remove leftovers of writes interrupted over an hour ago; returns their number."""
        stale = [entry for entry in self._incoming.iterdir() if entry.stat().st_mtime < time.time() - 3600]
        for entry in stale:
            entry.unlink(missing_ok=True)
        return len(stale)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view[:_COPY])
        view = view[written:]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
