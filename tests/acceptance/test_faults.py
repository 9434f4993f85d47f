"""Processes die or stall at every point, the PACS misbehaves, senders break off: nothing is lost or repeated.

`benchmarks/faults.py` is the long form; it accepts the seed that a failure here names.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from support.faults.invariants import Figures
from support.faults.pacs import OrthancPacs
from support.faults.run import run

from pacs_node.demo.pacs import Orthanc

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def check(figures: Figures, kills: int) -> None:
    assert not figures.violations, figures
    assert figures.kills >= kills
    assert figures.stalls
    assert figures.studies
    assert figures.amended
    assert figures.reports >= figures.studies


@pytest.mark.parametrize("seed", ["one", "two"])
def test_nothing_is_lost_or_delivered_twice(tmp_path: Path, seed: str) -> None:
    check(run(tmp_path, seed, kills=25), kills=25)


def test_nothing_is_lost_or_delivered_twice_on_postgresql(
    tmp_path: Path, database_url: Callable[[str], str]
) -> None:
    check(run(tmp_path, "three", kills=20, database=database_url("postgresql")), kills=20)


def test_nothing_is_lost_or_delivered_twice_with_orthanc(tmp_path: Path, orthanc: Orthanc) -> None:
    # Orthanc is shared with other tests and other runs: the studies are this one's alone.
    seed = f"four {hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}"
    check(run(tmp_path, seed, kills=10, pacs=OrthancPacs(orthanc, "FAULTY")), kills=10)
