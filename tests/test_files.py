"""The file store: durable, content-addressed, never overwritten."""

import hashlib
from pathlib import Path

import pytest

from pacs_node.files import FileStore


def test_spooled_file_appears_only_after_its_inspection_and_keeps_the_bytes(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    seen = []

    def inspect(temporary: Path) -> str:
        seen.append((temporary.read_bytes(), store.spooled()))
        return "header"

    item, found = store.spool([b"DICM", memoryview(b"rest")], inspect)
    assert seen == [(b"DICMrest", [])]
    assert found == "header"
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


def test_spool_gives_the_oldest_first(tmp_path: Path) -> None:
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
