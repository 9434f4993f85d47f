"""The wheel, built as docker/Dockerfile builds it and from the sdist, used away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from pacs_node.config import Settings

CHECKOUT = Path(__file__).resolve().parents[2]
MODEL = Settings().model.path


def run(*command: object, cwd: Path, path: Path | None = None) -> str:
    """Output of a command that must do; `path` goes on the PYTHONPATH."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PACS_NODE")}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    said = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert said.returncode == 0, f"{command}\n{said.stdout[-2000:]}\n{said.stderr[-2000:]}"
    return said.stdout


def pip(*arguments: object) -> list[object]:
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]


@pytest.fixture(scope="module", params=["checkout", "sdist"])
def wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's path. The build needs hatchling in this environment, not the network."""
    out = tmp_path_factory.mktemp(request.param)
    source: Path = CHECKOUT
    if request.param == "sdist":
        run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", out, cwd=CHECKOUT)
        (source,) = out.glob("*.tar.gz")
        with tarfile.open(source) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        assert {"config.toml", "storage/README.md", "pyproject.toml"} <= names
        assert not {name for name in names if name.startswith(("tests/", "docker/"))}
    run(*pip("wheel", "--no-deps", "--no-build-isolation", "-w", out, source), cwd=out)
    (built,) = out.glob("*.whl")
    return built


def shipped_models() -> dict[str, bytes]:
    """The files of the checkout's models, by their path."""
    files = (path for path in (CHECKOUT / "models").rglob("*") if path.is_file())
    return {path.relative_to(CHECKOUT).as_posix(): path.read_bytes() for path in files}


def test_the_wheel_holds_the_package_and_the_models_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        for path, content in shipped_models().items():
            assert archive.read(f"pacs_node/{path}") == content
    assert {name.split("/")[0] for name in names} == {"pacs_node"}
    phantom = "pacs_node/dicom/phantoms/sound-left-PA.jp2"
    environment = "pacs_node/journal/migrations/env.py"
    for needed in ("pacs_node/py.typed", "pacs_node/demo/forward.lua", environment, phantom):
        assert needed in names
    migrations = (CHECKOUT / "pacs_node/journal/migrations/versions").glob("*.py")
    for migration in migrations:
        assert migration.relative_to(CHECKOUT).as_posix() in names
    version = run(
        sys.executable, "-c", "import pacs_node; print(pacs_node.__version__)", cwd=CHECKOUT
    ).strip()
    assert f"-{version}-" in wheel.name


@pytest.mark.slow
def test_installed_away_from_the_checkout_it_finds_its_model(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(*pip("install", "--no-deps", "--no-compile", "--target", target, wheel), cwd=elsewhere)
    where = run(
        sys.executable, "-c", "import pacs_node; print(pacs_node.__file__)", cwd=elsewhere, path=target
    )
    assert Path(where.strip()).is_relative_to(target)
    entry_points = next(target.glob("*.dist-info")) / "entry_points.txt"
    assert "pacs-node = pacs_node.__main__:main" in entry_points.read_text()
    command = (sys.executable, "-m", "pacs_node")
    shown = json.loads(run(*command, "config", "show", cwd=elsewhere, path=target))
    folder = target / "pacs_node" / MODEL
    if shipped_models():
        assert Path(shown["model"]["path"]) == folder
        model = tomllib.loads((folder / "model.toml").read_text())
        listed = json.loads(run(*command, "models", "--json", cwd=elsewhere, path=target))
        assert model["id"] in str(listed)
        assert str(folder) in str(listed)
    assert Path(shown["storage"]["path"]) == elsewhere / "storage", "relative to the working directory"


def test_the_checkout_finds_its_model_from_elsewhere(tmp_path: Path) -> None:
    shown = json.loads(run(sys.executable, "-m", "pacs_node", "config", "show", cwd=tmp_path, path=CHECKOUT))
    if shipped_models():
        assert Path(shown["model"]["path"]) == CHECKOUT / MODEL
