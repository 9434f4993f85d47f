"""`doctor` names the true cause: faults of the node itself, each the only one that is blamed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from support.doctor_checks import examine, failed, only_fault, settings
from support.model_packages import write_untrained

from pacs_node.files import FileStore
from pacs_node.journal import instances, processes
from pacs_node.journal.database import open_database
from pacs_node.records import Arrival, RunningRole


@pytest.mark.parametrize(("share", "state"), [(2.0, "fail"), (0.7, "warn"), (0.3, "ok")])
def test_4_a_disk_that_is_nearly_full(tmp_path: Path, share: float, state: str) -> None:
    least = shutil.disk_usage(tmp_path).free / 1e9 * share
    checks = examine(settings(tmp_path, text=f"[storage]\nmin_free_gb = {least}\n"))
    (space,) = [check for check in checks if check.what == "free space"]
    assert space.state == state
    assert failed(checks) == ([(space.what, space.found)] if state == "fail" else [])
    assert ("every image is refused (0xA700)" in space.found) == (state == "fail")


@pytest.mark.parametrize("fault", ["altered", "gone"])
def test_5_a_model_that_was_altered(tmp_path: Path, fault: str) -> None:
    weights = write_untrained(tmp_path / "model") / "weights.safetensors"
    made = settings(tmp_path, text='[model]\npath = "model"\n')
    assert failed(examine(made, "model")) == []
    if fault == "altered":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    else:
        weights.unlink()
    found = only_fault(examine(made, "model"))
    assert found.what == "model"
    assert str(weights) in found.found


def run(folder: Path, *arguments: str, **environment: str) -> tuple[int, list[dict[str, str]]]:
    """The command itself; its exit code and what it says as JSON."""
    command = [sys.executable, "-m", "pacs_node", "doctor", "--json", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_8_a_database_of_a_newer_version(tmp_path: Path) -> None:
    made = settings(tmp_path)
    open_database(made.database_url).close()
    before = examine(made)
    assert failed(before) == []
    with closing(sqlite3.connect(tmp_path / "storage" / "journal.sqlite")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
        connection.commit()
    fault = only_fault(examine(made))
    assert fault.what == "database"
    assert "written by a newer pacs-node: schema 0099" in fault.found
    assert "restore the backup" in fault.advice


def test_9_an_unknown_key_is_the_first_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[node]\nae_titel = "X"\n')
    code, checks = run(tmp_path)
    assert code == 2
    (check,) = checks
    assert (check["what"], check["state"]) == ("configuration", "fail")
    assert "node.ae_titel: unknown key; the known keys are ae_title" in check["found"]
    shown = subprocess.run(
        [sys.executable, "-m", "pacs_node", "doctor"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 2
    assert shown.stdout.startswith(f"fail configuration: {check['found']}")
    assert shown.stdout.endswith("0 ok, 0 warnings, 1 failed\n")


def test_12_a_gpu_that_is_asked_for_and_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_untrained(tmp_path / "model")
    made = settings(tmp_path, text='[model]\npath = "model"\ndevice = "cuda"\n')
    fault = only_fault(examine(made, "model"))
    assert fault.what == "device"
    assert "torch finds no CUDA device" in fault.found


def test_a_port_that_another_program_holds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        made = settings(tmp_path)
        made = made.model_copy(update={"node": made.node.model_copy(update={"port": port})})
        fault = only_fault(examine(made))
        assert fault.what == "DICOM port"
        assert "another program holds it" in fault.advice
        # Where our own node says that it is there, all is well.
        with closing(open_database(made.database_url)) as database:
            ours = RunningRole("receive", socket.gethostname(), os.getpid(), f"127.0.0.1:{port}", ready=True)
            processes.beat(database, ours)
        assert failed(examine(made)) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "storage").write_text("a file")
    fault = only_fault(examine(settings(tmp_path), "storage"))
    assert fault.what == "storage"


def test_doctor_leaves_nothing_behind(tmp_path: Path) -> None:
    made = settings(tmp_path)
    FileStore(made.storage.path)
    open_database(made.database_url).close()
    before = sorted(tmp_path.rglob("*"))
    examine(made)
    assert sorted(tmp_path.rglob("*")) == before


def test_without_an_x_ray_the_forwarding_rule_is_asked_for(
    tmp_path: Path, arrival: Callable[..., Arrival]
) -> None:
    made = settings(tmp_path)
    with closing(open_database(made.database_url)) as database:
        (nothing,) = [check for check in examine(made, "roles and ports") if check.what == "received"]
        assert (nothing.state, nothing.found) == ("warn", "no X-ray was received yet")
        instances.register(database, [arrival("1.2.3", calling_ae_title="XRAY1")], 60)
        (newest,) = [check for check in examine(made, "roles and ports") if check.what == "received"]
    assert newest.state == "ok"
    assert "from XRAY1" in newest.found
