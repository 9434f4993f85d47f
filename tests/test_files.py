"""The file store: durable, content-addressed, never overwritten."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pacs_node.files import FileStore


def test_spooled_file_appears_only_after_its_inspection_and_keeps_the_bytes(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    seen = []

    def inspect(temporary: Path) -> str:
        seen.append((temporary.read_bytes(), store.spooled()))
        return "header"

    item, header = store.spool([b"DICM", memoryview(b"rest")], inspect)
    assert seen == [(b"DICMrest", [])]
    assert header == "header"
    assert store.spooled() == [item]
    assert item.path.read_bytes() == b"DICMrest"
    assert item.sha256 == hashlib.sha256(b"DICMrest").hexdigest()


def test_a_refused_file_leaves_nothing_behind(tmp_path: Path) -> None:
    store = FileStore(tmp_path)

    def refuse(temporary: Path) -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        store.spool([b"x"], refuse)
    assert store.spooled() == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_keep_then_forget_moves_a_file_from_the_spool_to_its_digest(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.spool([b"image"], str)
    spooled = store.spooled()
    (kept,) = store.keep(spooled)
    (again,) = store.keep(spooled)
    assert kept == again
    assert kept.path == store.path(hashlib.sha256(b"image").hexdigest())
    store.forget(spooled)
    assert store.spooled() == []
    assert kept.path.read_bytes() == b"image"


def test_the_spool_lists_the_oldest_first(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    for number in range(5):
        store.spool([str(number).encode()], str)
    assert [item.path.read_bytes() for item in store.spooled()] == [b"0", b"1", b"2", b"3", b"4"]
    assert len(store.spooled(limit=2)) == 2


def test_the_same_bytes_are_one_file_and_are_not_written_again(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    first = store.put(b"result")
    inode = first.path.stat().st_ino
    assert store.put(b"result") == first
    assert first.path.stat().st_ino == inode


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The order of syncs and renames, each by the name of its file."""
    done: list[str] = []
    fsync, rename, replace, link = os.fsync, Path.rename, Path.replace, Path.hardlink_to

    def note(what: str, real: Callable[..., object], by: Callable[..., str]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            done.append(f"{what} {by(*arguments)}")
            return real(*arguments)

        return call

    def synced(descriptor: int) -> str:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        return f"{path.parent.name}/{'*' if len(path.name) == 32 else path.name}"

    monkeypatch.setattr(os, "fsync", note("sync", fsync, synced))
    for name, real in (("rename", rename), ("replace", replace)):
        monkeypatch.setattr(Path, name, note("name", real, lambda _, to: Path(to).parent.name))
    monkeypatch.setattr(Path, "hardlink_to", note("name", link, lambda place, _: place.parent.name))
    return done


def test_bytes_are_synced_before_the_rename_and_the_folder_before_success(
    tmp_path: Path, syncs: list[str]
) -> None:
    store = FileStore(tmp_path)
    syncs.clear()
    item, _ = store.spool([b"image"], str)
    assert syncs == ["sync tmp/*", "name new", "sync spool/new"]
    syncs.clear()
    store.keep([item])
    folder = item.sha256[:2]
    assert syncs == [f"name {folder}", f"sync files/{folder}"]
    syncs.clear()
    result = store.put(b"result")
    folder = result.sha256[:2]
    assert syncs == ["sync tmp/*", f"name {folder}", f"sync files/{folder}"]


def test_an_existing_file_is_synced_again_before_it_is_used(tmp_path: Path, syncs: list[str]) -> None:
    store = FileStore(tmp_path)
    item, _ = store.spool([b"image"], str)
    store.keep([item])
    store.put(b"result")
    # As after a crash between the name and the sync of its folder.
    syncs.clear()
    store.keep([item])
    store.put(b"result")
    assert [entry for entry in syncs if entry.startswith("sync")] == [
        f"sync files/{item.sha256[:2]}",
        f"sync files/{hashlib.sha256(b'result').hexdigest()[:2]}",
    ]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.put(b"result")
    with pytest.raises(OSError, match="No space"):
        store.spool([b"image"], str)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
