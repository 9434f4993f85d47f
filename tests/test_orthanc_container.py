"""The Orthanc fixture with a container engine: a `docker` that records its arguments and runs the program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.orthanc import ORTHANC

from pacs_node.demo.pacs import ORTHANC_IMAGE

TESTS = Path(__file__).parent
DOCKER = """#!{python}
import json, os, sys
with open({record!r}, "a") as record:
    record.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "run":
    os.execv({orthanc!r}, ["Orthanc", *sys.argv[sys.argv.index({image!r}) + 1 :]])
"""


@pytest.mark.parametrize(("chosen", "runs"), [("container", 1), ("auto", 1), ("binary", 0)])
def test_the_same_test_runs_with_a_container_and_with_the_program(
    tool: Callable[[str], Path], tmp_path: Path, chosen: str, runs: int
) -> None:
    docker, record = tmp_path / "bin" / "docker", tmp_path / "record"
    docker.parent.mkdir()
    docker.write_text(
        DOCKER.format(
            python=sys.executable, record=str(record), orthanc=str(tool("Orthanc")), image=ORTHANC_IMAGE
        ),
        encoding="utf-8",
    )
    docker.chmod(0o700)
    basetemp = tmp_path / "of-pytest"
    test = f"{TESTS}/demo/test_pacs.py::test_orthanc_takes_c_store_from_known_titles_only"
    options = ("-q", "-n", "0", "-p", "no:cacheprovider", f"--basetemp={basetemp}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, test],
        env=os.environ | {"PATH": f"{docker.parent}:{os.environ['PATH']}", ORTHANC: chosen},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "1 passed" in done.stdout
    calls = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    started = [call for call in calls if call[0] == "run"]
    assert len(started) == runs
    for call in started:
        image = call.index(ORTHANC_IMAGE)
        assert call[call.index("--volume") + 1] == f"{basetemp}:{basetemp}"
        assert call[call.index("--network") + 1] == "host"
        assert call[call.index("--entrypoint") + 1] == "Orthanc"
        assert Path(call[image + 1]).is_relative_to(basetemp)
        assert json.loads(Path(call[image + 1]).read_text())["DicomModalitiesInDatabase"] is True


def test_an_unknown_choice_fails(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", f"{TESTS}/demo/test_pacs.py", "-k", "known_titles"],
        env=os.environ | {ORTHANC: "vm"},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1
    assert f"{ORTHANC}=vm: container, binary or auto" in done.stdout
