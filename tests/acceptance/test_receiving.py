"""Acknowledged images are kept, whatever the disk and the database are doing."""

import fcntl
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom.filereader import read_file_meta_info
from pynetdicom import AE
from support import phantom
from support.faults.killer import Processes, is_alive
from support.faults.pacs import ScriptedPacs
from support.faults.run import free_port, write_config
from support.faults.senders import data_sha256

from pacs_node.config import load
from pacs_node.journal import audit, processes, views
from pacs_node.journal.database import Database
from pacs_node.journal.schema import InstanceRow, StudyRow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WaitUntil = Callable[[Callable[[], object], float], None]
OUT_OF_RESOURCES = 0xA700


@dataclass
class Node:
    """A node whose processes the test starts, with a well-behaved PACS."""

    folder: Path
    wait_until: WaitUntil
    database: str = ""
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.images = self.folder / "images"
        self.images.mkdir(parents=True)
        self.pacs = ScriptedPacs(free_port(), "well", moody=False)
        self.pacs.start()
        self.config = write_config(self.folder, 0, self.port, self.database, "PACS", self.pacs.port)
        self.settings = load(self.config)
        self.spool = self.settings.storage.path / "spool" / "new"
        self.processes = Processes(self.folder)
        self.pids: dict[str, int] = {}
        self.acknowledged: dict[str, str] = {}

    def start(self, *roles: str) -> None:
        for role in roles:
            self.pids[role] = self.processes.start(role, self.config)
        self.wait_until(self._answers, 30)

    def _answers(self) -> bool:
        ae = AE(ae_title="SENDER")
        ae.add_requested_context("1.2.840.10008.1.1")
        association = ae.associate("127.0.0.1", self.port)
        if association.is_established:
            association.release()
        return bool(association.is_released)

    def send(self, seeds: range, rows: int = 64) -> Counter[int]:
        """Send one study for each seed over one association; the count of each status."""
        ae = AE(ae_title="SENDER")
        ae.add_requested_context("1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.1.2.1")
        association = ae.associate("127.0.0.1", self.port)
        assert association.is_established
        statuses: Counter[int] = Counter()
        for seed in seeds:
            path = self.image(seed, rows)
            status = int(association.send_c_store(path).Status)
            statuses[status] += 1
            if status == 0:
                uid = read_file_meta_info(path).MediaStorageSOPInstanceUID
                self.acknowledged[uid] = data_sha256(path)
        association.release()
        return statuses

    def image(self, seed: int, rows: int) -> Path:
        """The one image of the study with this seed, as a file."""
        path = self.images / f"{seed}-{rows}.dcm"
        if not path.exists():
            phantom.dataset(seed, rows=rows, columns=rows).save_as(path, enforce_file_format=True)
        return path

    def journal(self) -> Database:
        return Database(self.settings.database_url)

    def registered(self) -> dict[str, str]:
        """The stored data set of each registered image, by its UID."""
        folder = self.settings.storage.path / "files"
        with closing(self.journal()) as journal, journal.read() as connection:
            rows = connection.execute(sa.select(InstanceRow.sop_instance_uid, InstanceRow.sha256)).all()
        return {row[0]: data_sha256(folder / row[1][:2] / f"{row[1]}.dcm") for row in rows}

    def is_at_rest(self) -> bool:
        with closing(self.journal()) as journal:
            counts = views.counts(journal)
        busy = [counts["instances"].get("RECEIVED"), counts["studies"].get("OPEN")]
        return not any((*busy, counts["deliveries"].get("PENDING"), *self.spool.iterdir()))

    def all_live(self) -> bool:
        return all(map(is_alive, self.pids.values()))


@pytest.fixture
def new_node(wait_until: WaitUntil) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(folder: Path, database: str = "") -> Node:
        made.append(Node(folder, wait_until, database))
        return made[-1]

    yield make
    for node in made:
        node.processes.close()
        node.pacs.stop()


def test_a_locked_database_delays_only_the_registration(
    tmp_path: Path, new_node: Callable[..., Node], wait_until: WaitUntil
) -> None:
    node = new_node(tmp_path)
    node.start("receive")
    with Path(f"{node.settings.storage.path}/journal.sqlite.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert node.send(range(1, 9)) == {0: 8}
        assert len(list(node.spool.iterdir())) == 8
        assert node.registered() == {}
    wait_until(lambda: not any(node.spool.iterdir()), 30)
    assert node.registered() == node.acknowledged
    assert node.all_live()


def test_an_unreachable_database_delays_only_the_registration(
    tmp_path: Path,
    new_node: Callable[..., Node],
    wait_until: WaitUntil,
    database_url: Callable[[str], str],
    postgresql: Any,
) -> None:
    node = new_node(tmp_path, database_url("postgresql"))
    node.start("receive", "worker", "deliver", "housekeep")
    with closing(node.journal()) as journal:
        wait_until(lambda: not processes.missing(processes.running(journal)), 60)
    assert node.send(range(1, 5)) == {0: 4}
    postgresql.stop()
    try:
        assert node.send(range(5, 9)) == {0: 4}
        assert node.spool.exists()
        assert len(list(node.spool.iterdir())) >= 4
    finally:
        postgresql.start()
    wait_until(node.is_at_rest, 60)
    assert node.registered() == node.acknowledged
    assert node.all_live()
    with closing(node.journal()) as journal:
        assert views.counts(journal)["deliveries"] == {"SENT": 16}


def test_a_killed_receiver_registers_acknowledged_images_when_it_starts_again(
    tmp_path: Path, new_node: Callable[..., Node], wait_until: WaitUntil
) -> None:
    node = new_node(tmp_path)
    node.pids["receive"] = node.processes.start("receive", node.config, ("before", "register", 1))
    wait_until(node._answers, 30)
    node.send(range(1, 2))
    wait_until(lambda: not is_alive(node.pids["receive"]), 30)
    assert len(list(node.spool.iterdir())) == 1
    node.start("receive")
    wait_until(lambda: not any(node.spool.iterdir()), 30)
    assert node.registered() == node.acknowledged


def test_images_sent_by_several_peers_at_once_are_stored_once(
    tmp_path: Path, new_node: Callable[..., Node], wait_until: WaitUntil
) -> None:
    node = new_node(tmp_path)
    node.start("receive")
    seeds = range(1, 6)
    for seed in seeds:
        node.image(seed, 64)
    with ThreadPoolExecutor(4) as senders:
        answers = list(senders.map(node.send, [seeds] * 4))
    assert answers == [{0: 5}] * 4
    wait_until(lambda: not any(node.spool.iterdir()), 30)
    assert node.registered() == node.acknowledged
    with closing(node.journal()) as journal:
        events = Counter(event.event for event in audit.events(journal))
    assert (events["received"], events["duplicate_received"]) == (5, 15)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A file system of this size at `folder`, in memory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_answered_with_a_failure_and_loses_nothing(
    tmp_path: Path, new_node: Callable[..., Node], wait_until: WaitUntil
) -> None:
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    if os.geteuid() != 0 or probe.returncode != 0:
        pytest.skip("no right to mount a file system here")
    storage = tmp_path / "storage"
    storage.mkdir()
    with small_disk(storage, 64):
        ballast = storage / "ballast"
        ballast.write_bytes(bytes(48 << 20))
        node = new_node(tmp_path)
        node.start("receive", "worker", "deliver", "housekeep")
        # 0.5 MB each: the 16 MB that are left are soon full, the journal's file included.
        statuses: Counter[int] = Counter()
        for seed in range(1, 200, 4):
            statuses += node.send(range(seed, seed + 4), rows=512)
            if statuses[OUT_OF_RESOURCES] > 12:
                break
        assert set(statuses) == {0, OUT_OF_RESOURCES}
        assert node.all_live()
        ballast.unlink()
        wait_until(lambda: node.send(range(300, 301))[0], 30)
        wait_until(node.is_at_rest, 120)
        assert node.all_live()
        assert node.registered() == node.acknowledged
        assert not any((storage / "spool" / "tmp").iterdir())
        with closing(node.journal()) as journal:
            assert audit.verify(journal)[1] is None
            with journal.read() as connection:
                ends = set(connection.execute(sa.select(StudyRow.state, StudyRow.reason)).all())
            assert ends == {("REPORTED", None)}
            deliveries = views.counts(journal)["deliveries"]
        assert deliveries == {"SENT": 2 * len(node.acknowledged)}
        node.processes.close()
