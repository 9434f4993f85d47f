"""The long form of fuzzing tries the cases requested, and detects a child that dies or hangs."""

from __future__ import annotations

import json
import pickle
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fuzz import files
from support.odd_inputs.corpus import as_bytes, xray

FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"


@pytest.mark.slow
def test_it_counts_cases_and_outcomes(tmp_path: Path) -> None:
    counts = ("--files", "4", "--data-sets", "3", "--streams", "8", "--seed", "7")
    folders = ("--data", str(tmp_path / "none"), "--keep", str(tmp_path / "kept"))
    done = subprocess.run(
        [sys.executable, str(FUZZ), *counts, *folders, "--json"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout)
    assert figures["tried"] == {"files": 4, "data sets": 3, "conversations": 8}
    assert sum(figures["outcomes"].values()) >= 15
    assert not (tmp_path / "kept").exists()


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "seeds").write_bytes(pickle.dumps([files.Seed("plain", as_bytes(xray()), False)]))
    made = runpy.run_path(str(FUZZ))["Child"](tmp_path, "1")
    yield made
    made.end()


def test_a_file_that_kills_the_process_is_reported_and_the_next_is_tried(child: Any) -> None:
    assert child.ask(0)["wrong"] == []
    child._process.send_signal(11)
    assert child.ask(0).startswith("exit -11: ")
    assert child.ask(1)["wrong"] == []


def test_a_file_that_hangs_the_process_is_reported(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ask: Callable[[int], object] = child.ask
    monkeypatch.setitem(child.ask.__func__.__globals__, "CASE_SECONDS", 0.001)
    assert ask(0) == "hang"
