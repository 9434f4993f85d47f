"""The soak's verdict distinguishes growth from fluctuation."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.fixture
def verdict(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], object]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    soak: dict[str, Any] = runpy.run_path(str(SOAK))

    def judge(descriptors: list[int]) -> object:
        samples = [soak["Sample"](minute, "receive", 100.0, n, 3) for minute, n in enumerate(descriptors)]
        (row,) = (row for row in soak["verdicts"](samples) if row["measure"] == "descriptors")
        return row["verdict"]

    return judge


def test_a_slow_leak_counts_as_growth_and_fluctuation_does_not(
    verdict: Callable[[list[int]], object],
) -> None:
    assert verdict([10 + minute // 10 for minute in range(120)]) == "growing"
    assert verdict([10 + 8 * (minute % 7 == 0) for minute in range(120)]) == "flat"
    # What a process takes once, while it warms up, is no leak.
    assert verdict([10] * 5 + [30] * 115) == "flat"
