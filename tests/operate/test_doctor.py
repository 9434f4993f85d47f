"""`doctor` names the true cause: faults of the node itself, each the only one that is blamed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from support import phantom
from support.doctor_checks import examine, failed, only_fault, settings
from support.model_packages import write_untrained

from pacs_node.files import FileStore
from pacs_node.journal import instances, processes
from pacs_node.journal.database import open_database
from pacs_node.records import Arrival, RunningRole

HIDE = """
import importlib.metadata, sys
sys.modules["{module}"] = None
found = importlib.metadata.entry_points
def entry_points(**which):
    if not which:
        return found()
    return importlib.metadata.EntryPoints(
        one for one in found(**which) if not one.value.startswith("{module}")
    )
importlib.metadata.entry_points = entry_points
"""


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "words", "advice"),
    [
        ("openjpeg", "cannot be decoded: JPEG 2000 Image Compression", "pylibjpeg-openjpeg"),
        ("rle", "cannot be decoded: RLE Lossless", "pylibjpeg-rle"),
        ("jpeg_ls", "cannot be decoded: JPEG-LS", "pyjpegls"),
        ("gdcm", "the Python module gdcm is missing", "python-gdcm"),
    ],
)
def test_6_a_missing_decoder(tmp_path: Path, module: str, words: str, advice: str) -> None:
    settings(tmp_path)
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(module=module))
    code, checks = run(tmp_path, PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    (fault, *more) = [check for check in checks if check["state"] == "fail"]
    assert code == 1
    assert fault["what"] == "decoders"
    assert words in fault["found"]
    assert advice in fault["advice"]
    # Without gdcm nothing at all is decoded.
    assert [check["what"] for check in more] == (["model"] if module == "gdcm" else [])


@pytest.mark.parametrize(
    ("minutes", "zone", "state", "words"),
    [
        (60, "", "fail", "acquired up to 60 min in our future"),
        (-61, "", "warn", "none came sooner than 61 min after it"),
        (-3, "", "ok", "the soonest came 3 min after it"),
        (60, "+0000", "fail", "acquired up to 60 min in our future"),
        (-60 * 24 * 30, "", "ok", "not known"),
    ],
)
def test_7_a_clock_off_by_an_hour_against_the_modalities(
    tmp_path: Path, arrival: Callable[..., Arrival], minutes: int, zone: str, state: str, words: str
) -> None:
    made = settings(tmp_path)
    files = FileStore(made.storage.path)
    now = time.time()
    with closing(open_database(made.database_url)) as database:
        for number in range(4):
            image = phantom.dataset(number, rows=64, columns=64)
            moment = datetime.fromtimestamp(now, UTC) + timedelta(minutes=minutes)
            moment = moment if zone else moment.astimezone()
            image.AcquisitionDate, image.AcquisitionTime = f"{moment:%Y%m%d}", f"{moment:%H%M%S.%f}"
            image.Manufacturer = "maker"
            if zone:
                image.TimezoneOffsetFromUTC = zone
            path = tmp_path / "image.dcm"
            image.save_as(path, enforce_file_format=True)
            stored = files.put(path.read_bytes())
            one = arrival(f"1.2.3.{number}", stored.sha256, received_at=now)
            instances.register(database, [one], 60)
    checks = examine(made, "roles and ports")
    (clock,) = [check for check in checks if check.what == "clock of the images"]
    assert clock.state == state
    assert words in clock.found
    assert failed(checks) == ([(clock.what, clock.found)] if state == "fail" else [])


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
