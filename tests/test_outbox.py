"""`retry`, `quarantine` and `send` as an administrator runs them: real processes."""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from support import phantom
from support.journal import commit_results
from support.scripted_pacs import Pacs

from pacs_node.journal import audit, deliveries
from pacs_node.journal.database import Database, open_database
from pacs_node.records import DeliveryState

CONFIG = """
[node]
ae_title = "NODE"
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
"""


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Pacs]:
    """A PACS that accepts the node, and a configuration that names it."""
    pacs = Pacs()
    destination = pacs.start(["NODE"])
    (tmp_path / "config.toml").write_text(CONFIG.format(port=destination.port))
    yield pacs
    pacs.stop()


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    paths = [folder / "1.dcm", folder / "2.dcm"]
    for seed, path in enumerate(paths, 1):
        phantom.dataset(seed, rows=64, columns=64).save_as(path, enforce_file_format=True)
    return paths


@pytest.fixture
def journal(tmp_path: Path, images: list[Path]) -> Iterator[Database]:
    """Two results of study 1.2, both quarantined."""
    database = open_database(f"sqlite:///{tmp_path}/storage/journal.sqlite")
    commit_results(database, images, "pacs")
    claim = deliveries.claim_deliveries(database, "pacs", 10)
    assert claim
    for item in claim.items:
        deliveries.finish_delivery(database, claim.token, item, DeliveryState.QUARANTINED, 0xC000, "no good")
    yield database
    database.close()


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pacs_node", *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in result.stderr
    return result


def test_quarantine_lists_retries_and_discards(tmp_path: Path, pacs: Pacs, journal: Database) -> None:
    rows = json.loads(run(tmp_path, "quarantine", "--json").stdout)
    assert [(row["trouble"], row["reason"], row["last_status"]) for row in rows] == [
        ("QUARANTINED", "no good", 0xC000)
    ] * 2
    first, second = (row["id"] for row in rows)
    assert run(tmp_path, "quarantine", "--retry", first).stdout == "1 deliveries will be tried again\n"
    assert run(tmp_path, "quarantine", "--discard", second, "--reason", "it has it").returncode == 0
    gone = run(tmp_path, "quarantine", "--retry", second)
    assert gone.returncode == 1
    assert f"{second}: no such delivery" in gone.stderr
    changes = [event for event in audit.events(journal) if event.event.startswith("delivery_")][2:]
    assert [event.event for event in changes] == ["delivery_retried", "delivery_discarded"]
    assert {event.details["who"] for event in changes} == {pwd.getpwuid(os.getuid()).pw_name}


def test_tables_are_printed_without_json(tmp_path: Path, pacs: Pacs, journal: Database) -> None:
    assert "0xC000" in run(tmp_path, "quarantine").stdout
    assert "2 QUARANTINED" in run(tmp_path, "status").stdout
    unexplained = run(tmp_path, "quarantine", "--discard", "all")
    assert unexplained.returncode == 2
    assert "--reason" in unexplained.stderr


def test_retry_a_study(tmp_path: Path, pacs: Pacs, journal: Database) -> None:
    assert run(tmp_path, "retry", "1.2", "--new").stdout == "study 1.2 will be tried again\n"
    assert "1.9: no such study" in run(tmp_path, "retry", "1.9").stderr
    assert [event.details["new"] for event in audit.events(journal) if event.event == "retried"] == [True]


def test_send_needs_no_journal_and_prints_the_answers(tmp_path: Path, pacs: Pacs, images: list[Path]) -> None:
    done = run(tmp_path, "send", images[0].parent, "--to", "pacs", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        {"path": str(path), "sent": True, "status": 0, "comment": ""} for path in images
    ]
    assert len(pacs.received) == 2
    pacs.answers = [0x0000, 0xA700]
    half = run(tmp_path, "send", *images, "--to", "pacs")
    assert half.returncode == 1
    assert "0xA700" in half.stdout
    nowhere = run(tmp_path, "send", *images, "--to", "nowhere")
    assert nowhere.returncode == 2
    assert "configured: pacs" in nowhere.stderr
    assert not (tmp_path / "storage").exists()


def test_manual_sends_are_audited(tmp_path: Path, pacs: Pacs, journal: Database, images: list[Path]) -> None:
    pacs.answers = [0xA700]
    assert run(tmp_path, "send", images[0], "--to", "pacs").returncode == 1
    (event,) = [event for event in audit.events(journal) if event.event == "sent_by_hand"]
    assert event.sop_instance_uid == dcmread(images[0]).SOPInstanceUID
    assert (event.details["destination"], event.details["status"]) == ("pacs", 0xA700)
