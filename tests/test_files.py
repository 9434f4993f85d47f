"""The file store: durable, content-addressed, never overwritten."""

import hashlib
from pathlib import Path

import pytest

from pacs_node.files import FileStore


def test_spooled_file_appears_only_after_the_block_and_keeps_the_bytes(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    with store.spool([b"DICM", memoryview(b"rest")]) as temporary:
        assert temporary.read_bytes() == b"DICMrest"
        assert store.spooled() == []
    (item,) = store.spooled()
    assert item.path.read_bytes() == b"DICMrest"
    assert item.sha256 == hashlib.sha256(b"DICMrest").hexdigest()


def test_an_error_in_the_block_leaves_nothing_behind(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    with pytest.raises(ValueError, match="refused"), store.spool([b"x"]):
        raise ValueError("refused")
    assert store.spooled() == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_keep_then_forget_moves_a_file_from_the_spool_to_its_digest(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    with store.spool([b"image"]):
        pass
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
        with store.spool([str(number).encode()]):
            pass
    assert [item.path.read_bytes() for item in store.spooled()] == [b"0", b"1", b"2", b"3", b"4"]
    assert len(store.spooled(limit=2)) == 2


def test_the_same_bytes_are_one_file_and_are_not_written_again(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    first = store.put(b"result")
    inode = first.path.stat().st_ino
    assert store.put(b"result") == first
    assert first.path.stat().st_ino == inode
