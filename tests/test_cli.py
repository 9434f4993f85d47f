"""The commands as users run them: real processes, their output and exit codes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from pydicom import dcmread
from support import phantom

from pacs_node.config import load
from pacs_node.journal.database import open_database


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pacs_node", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_analyze_writes_the_results_and_leaves_the_input(tmp_path: Path) -> None:
    sources = tmp_path / "in"
    sources.mkdir()
    for number, image in enumerate(phantom.two_views(5, rows=640, columns=512)):
        image.save_as(sources / f"{number}.dcm", enforce_file_format=True)
    before = {path.name: path.read_bytes() for path in sources.iterdir()}
    result = run(tmp_path, "analyze", sources, "--out", "out")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("AI: ")
    assert {path.name: path.read_bytes() for path in sources.iterdir()} == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "0.dcm.json",
        "0.dcm.png",
        "0.dcm.sc.dcm",
        "0.dcm.sr.dcm",
        "1.dcm.png",
        "1.dcm.sc.dcm",
    ]
    report = dcmread(tmp_path / "out" / "0.dcm.sr.dcm")
    document = json.loads((tmp_path / "out" / "0.dcm.json").read_text())
    assert document["study_instance_uid"] == report.StudyInstanceUID
    assert document["summary"] in result.stdout
    assert [0 <= image["probability"] <= 1 for image in document["images"]] == [True, True]
    with Image.open(tmp_path / "out" / "0.dcm.png") as picture:
        assert picture.size == (512, 640)


def test_analyze_accepts_pictures_and_continues_after_unusable_files(tmp_path: Path) -> None:
    picture = phantom.radiograph(6, True, rows=640, columns=512) >> 4
    Image.fromarray(picture.astype("uint8")).save(tmp_path / "wrist.jpg")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    result = run(tmp_path, "analyze", tmp_path)
    assert result.returncode == 1
    assert "notes.txt: not a readable data set" in result.stdout
    assert "broken.png" in result.stdout
    assert (tmp_path / "wrist.jpg.sr.dcm").exists()
    assert (tmp_path / "wrist.jpg.png").exists()
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["show", "1.2"], 1, "no journal there"),
        (["--config", "none.toml", "status"], 2, "no such file"),
        (["analyze"], 2, "Missing argument"),
        (["config", "show"], 0, ""),
        (["models"], 0, ""),
    ],
)
def test_exit_codes_and_one_line_errors(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    result = run(tmp_path, *arguments)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "storage").exists()


def test_commands_on_an_idle_node(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path}/storage/journal.sqlite").close()
    status = run(tmp_path, "status", "--json")
    assert status.returncode == 1
    assert json.loads(status.stdout)["ready"] is False
    assert json.loads(run(tmp_path, "studies", "--json").stdout) == []
    assert "1.2.3: no such study" in run(tmp_path, "show", "1.2.3").stderr
    assert run(tmp_path, "audit", "verify").stdout.startswith("audit log: 0 events")


def test_config_init_writes_what_check_accepts_and_never_overwrites(tmp_path: Path) -> None:
    assert run(tmp_path, "config", "init").returncode == 0
    assert run(tmp_path, "config", "init").returncode == 2
    check = run(tmp_path, "config", "check")
    assert check.returncode == 0, check.stderr
    assert "any AE may send" in check.stdout
    shown = json.loads(run(tmp_path, "config", "show").stdout)
    assert shown["storage"]["path"] == str(tmp_path / "storage")


def test_an_altered_model_is_refused(tmp_path: Path) -> None:
    model = Path(json.loads(run(tmp_path, "config", "show").stdout)["model"]["path"])
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    (tmp_path / "config.toml").write_text('[model]\npath = "model"\n')
    check = run(tmp_path, "config", "check")
    assert check.returncode == 2
    assert "sha256" in check.stderr


def test_config_check_names_a_commitment_archive_missing_from_the_peers(tmp_path: Path) -> None:
    archive = '{ae_title = "VNA", host = "127.0.0.1", port = 104}'
    (tmp_path / "config.toml").write_text(
        f"[model]\npath = {json.dumps(str(load(None).model.path))}\n"
        '[[peers]]\nname = "pacs"\nae_title = "PACS"\n'
        f'[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\ncommitment = {archive}\n'
    )
    check = run(tmp_path, "config", "check")
    assert check.returncode == 0, check.stderr
    assert "destinations.pacs.commitment: VNA may not answer" in check.stdout
