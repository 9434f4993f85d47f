"""The benchmarks run and measure every server and stage; the times themselves are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.model_packages import write_untrained
from support.postgresql import Server

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def measured(script: str, *options: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), "--quick", "--json", *options],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


@pytest.mark.slow
def test_ingest_counts_the_images_that_each_server_received(tool: Callable[[str], Path]) -> None:
    for program in ("dcmsend", "storescp", "Orthanc"):
        tool(program)
    rows = measured("ingest.py")
    assert {(row["images"], row["server"]) for row in rows} == {
        (size, server) for size in ("10 MB", "100 KB") for server in ("pacs-node", "storescp", "Orthanc")
    }
    assert all(row["count"] == 3 and len(row["seconds"]) == 1 for row in rows)
    assert all(0 < answered <= counted for row in rows for answered, counted in row["seconds"])


@pytest.mark.slow
def test_stages_end_with_the_results_in_the_pacs(tool: Callable[[str], Path], tmp_path: Path) -> None:
    for program in ("dcmsend", "dcmcjpeg", "dcmcjpls", "dcmcrle", "Orthanc"):
        tool(program)
    rows = measured("stages.py", "--model", str(write_untrained(tmp_path)))
    ends = [row for row in rows if row["stage"].endswith("results in the PACS")]
    assert len(ends) == 5
    assert all(len(row["s"]) == 1 and row["s"][0] > 0 for row in rows)


@pytest.mark.slow
def test_backlog_measures_both_databases(postgresql: Server) -> None:
    urls = [postgresql.database() for _ in range(2)]
    rows = measured("backlog.py", *(option for url in urls for option in ("--postgresql", url)))
    for url in urls:
        postgresql.drop(url)
    assert {row["database"] for row in rows} == {"sqlite", "postgresql"}
    timed = [row for row in rows if "ratio" in row]
    assert len(timed) == 2 * len({row["what"] for row in timed}) > 40
    assert all(0 < row["large_ms"] <= row["worst_ms"] for row in timed)
