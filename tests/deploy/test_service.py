"""The systemd unit: systemd takes it, it is tight, and it leaves the supervisor its time."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pacs_node.roles import supervisor

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "pacs-node.service"
EXPOSURE = 15
"""Of 100, as `systemd-analyze security` counts; a service without any measure has 96."""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is here in the place of the installed one."""
    (text, count) = re.subn(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text(), flags=re.M)
    assert count == 1
    path = tmp_path / UNIT.name
    path.write_text(re.sub(r"^Documentation=.*$", "", text, flags=re.M))
    return path


def analyze(tool: Callable[[str], Path], *arguments: object) -> str:
    command = [str(part) for part in (tool("systemd-analyze"), *arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_takes_it_without_a_word(unit: Path, tool: Callable[[str], Path]) -> None:
    assert analyze(tool, "verify", unit) == ""


def test_it_is_tight(unit: Path, tool: Callable[[str], Path]) -> None:
    analyze(tool, "security", "--offline=true", f"--threshold={EXPOSURE}", unit)


def test_it_leaves_the_supervisor_its_time_and_heeds_its_exit_code() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), flags=re.M))
    assert int(settings["TimeoutStopSec"]) > supervisor.STOP_SECONDS
    assert int(settings["RestartPreventExitStatus"]) == supervisor.WRONG_CONFIGURATION
    assert settings["ExecStart"].endswith("pacs-node --config /etc/pacs-node/config.toml serve")
