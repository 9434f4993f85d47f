"""Fixtures of all tests: the data beside the checkout, external tools, waiting, free ports, and Orthanc.

Tests that this machine cannot run are skipped, and the last lines of the output list the reasons. With
PACS_NODE_STRICT set, as by `.ci/run`, a missing tool is a failure instead.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

pytest_plugins = ["support.browsers", "support.certificates", "support.orthanc", "support.postgresql"]

CHECKOUT = Path(__file__).resolve().parent.parent
STRICT = "PACS_NODE_STRICT"
DATA = "PACS_NODE_TEST_DATA"

Missing = Callable[[object], NoReturn]
Tool = Callable[[str], Path]
WaitUntil = Callable[[Callable[[], object], float], None]


def pytest_configure(config: pytest.Config) -> None:
    """One thread for each test process and its children; torch reads these variables when it is imported."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    # pynetdicom shuts a socket down before it closes it, and so never closes one that was not connected.
    config.addinivalue_line("filterwarnings", "ignore:unclosed <s(ocket.s|sl.SSLS)ocket fd=:ResourceWarning")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """List in the last lines why tests were skipped."""
    yield
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    if reasons:
        terminalreporter.section("what could not run here", sep="-")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} x {reason}")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with `fracatlas/` and `dicom/`: PACS_NODE_TEST_DATA, else ../shared/data."""
    path = Path(os.environ.get(DATA) or CHECKOUT.parent / "shared" / "data")
    if not (path / "dicom").is_dir():
        pytest.skip(f"no test data: {DATA} or a folder shared/data beside the checkout would give it")
    return path


@pytest.fixture(scope="session")
def missing() -> Missing:
    """Skip a test for a missing tool; with PACS_NODE_STRICT set, fail it."""

    def give_up(what: object) -> NoReturn:
        reason = f"no {what} here: scripts/install-tools installs it"
        if os.environ.get(STRICT):
            pytest.fail(reason)
        pytest.skip(reason)

    return give_up


@pytest.fixture(scope="session")
def tool(missing: Missing) -> Tool:
    """The path of an external program; without it the test is skipped, or fails with PACS_NODE_STRICT."""

    def find(name: str) -> Path:
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
        if path is None:
            missing(name)
        return Path(path)

    return find


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A free port of 127.0.0.1, for programs that cannot bind port 0."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    """Wait until a condition holds; fail the test after so many seconds."""

    def wait(condition: Callable[[], object], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"waited {seconds:g} s in vain for {getattr(condition, '__name__', condition)}")
            time.sleep(0.02)

    return wait
