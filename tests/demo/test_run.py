"""The demo as people run it: a real PACS, the node's own processes, an untrained model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from pydicom import dcmread
from support import phantom
from support.model_packages import write_untrained

from pacs_node.demo.run import read, save
from pacs_node.dicom.wrap import wrap
from pacs_node.errors import InputError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("model"))


def command(out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "pacs_node", "demo", "--out", str(out), *options]


def environment(model: Path) -> dict[str, str]:
    return {**os.environ, "PACS_NODE__MODEL__PATH": str(model), "COLUMNS": "100"}


def demo(model: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(out, *options),
        env=environment(model),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def left_over(folder: Path) -> list[str]:
    """Command lines of processes that name a folder."""
    lines = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in line:
            lines.append(line)
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("pacs", ["orthanc", "stand-in"])
def test_results_of_phantoms_come_back_into_the_pacs(
    pacs: str, model: Path, tmp_path: Path, tool: Callable[[str], Path], orthanc_kind: str
) -> None:
    pacs = orthanc_kind if pacs == "orthanc" else pacs
    if pacs == "orthanc":
        tool("Orthanc")
    done = demo(model, tmp_path, "--pacs", pacs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "say nothing about its quality" in " ".join(done.stdout.split())
    assert done.stdout.count("AI: Fracture suspected") >= 2
    (folder,) = tmp_path.iterdir()
    studies = sorted((folder / "results").iterdir())
    assert len(studies) == 2
    for study in studies:
        assert len(list(study.glob("SR-*.dcm"))) == 1
        assert len(list(study.glob("SR-*.txt"))) == 1
        pictures = list(study.glob("*.png"))
        assert len(pictures) == 2
        for picture in pictures:
            with Image.open(picture) as shown:
                assert shown.size == (1638, 2048)
        assert {dcmread(file).StudyInstanceUID for file in study.glob("*.dcm")} == {study.name}
        document = json.loads((study / "study.json").read_text())
        assert document["state"] == "DELIVERED"
        assert {event["event"] for event in document["events"]} >= {
            "received",
            "analyzed",
            "reported",
            "sent",
        }
    assert not (folder / "pacs").exists()
    assert not (folder / "storage").exists()
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_pictures_and_other_objects_as_input(model: Path, tmp_path: Path) -> None:
    pixels = phantom.radiograph(20, True, 400, 320)
    Image.fromarray((pixels >> 4).astype("uint8")).save(tmp_path / "wrist.jpg")
    other = phantom.dataset(21, rows=256, columns=205)
    other.QualityControlImage = "YES"
    other.save_as(tmp_path / "quality.dcm", enforce_file_format=True)
    done = demo(
        model,
        tmp_path / "out",
        "--pacs=stand-in",
        "--keep",
        "--input",
        str(tmp_path / "wrist.jpg"),
        "--input",
        str(tmp_path / "quality.dcm"),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "phantom" not in done.stdout
    (folder,) = (tmp_path / "out").iterdir()
    states = {
        study.name: json.loads((study / "study.json").read_text())["state"]
        for study in (folder / "results").iterdir()
    }
    wrapped = wrap(tmp_path / "wrist.jpg").StudyInstanceUID
    assert states == {wrapped: "DELIVERED", other.StudyInstanceUID: "SKIPPED"}
    assert (folder / "storage").is_dir()


@pytest.mark.slow
def test_a_node_that_cannot_start_fails_the_demo_and_leaves_nothing_running(tmp_path: Path) -> None:
    done = demo(tmp_path / "no-model", tmp_path / "out", "--pacs=stand-in")
    assert done.returncode == 1
    assert "no-model" in done.stderr
    assert left_over(tmp_path / "out") == []


@pytest.mark.slow
def test_sigterm_stops_what_was_started(
    model: Path,
    tmp_path: Path,
    wait_until: Callable[..., None],
    tool: Callable[[str], Path],
    orthanc_kind: str,
) -> None:
    if orthanc_kind == "orthanc":
        tool("Orthanc")
    running = subprocess.Popen(
        command(tmp_path / "out", f"--pacs={orthanc_kind}"),
        env=environment(model),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    ours = tmp_path / "out" / "run-"
    try:
        wait_until(lambda: any("orthanc.json" in line for line in left_over(ours)), 60)
        wait_until(lambda: any("receive --supervised" in line for line in left_over(ours)), 60)
        running.send_signal(signal.SIGTERM)
        assert running.wait(90) == 143
        wait_until(lambda: left_over(ours) == [], 30)
    finally:
        running.kill()
        running.wait()


def test_input_that_is_not_an_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(InputError, match=r"notes\.txt"):
        save(read([tmp_path]), tmp_path)
    (tmp_path / "images").rmdir()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image"):
        save(read([tmp_path / "empty"]), tmp_path / "empty")


def test_an_image_given_twice_is_sent_once(tmp_path: Path) -> None:
    image = phantom.dataset(22, rows=256, columns=205)
    for name in ("a.dcm", "b"):
        image.save_as(tmp_path / name, enforce_file_format=True)
    studies = save(read([tmp_path / "a.dcm", tmp_path / "b"]), tmp_path)
    assert {uid: len(paths) for uid, paths in studies.items()} == {image.StudyInstanceUID: 1}


def test_pictures_are_wrapped_and_folders_searched(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    Image.new("L", (80, 70), 9).save(tmp_path / "in" / "deep" / "a.PNG")
    (file,) = [path for paths in save(read([tmp_path / "in"]), tmp_path).values() for path in paths]
    assert dcmread(file).Modality == "DX"
