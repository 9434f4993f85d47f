"""scripts/install-tools and the Makefile, as far as they can be run without changing the machine."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
INSTALL_TOOLS = CHECKOUT / "scripts" / "install-tools"


def run(*command: object, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path} if path else None
    return subprocess.run(
        [str(part) for part in command],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_tools_that_are_here_are_left_alone(tool: Callable[[str], Path]) -> None:
    tool("dcmsend")
    done = run(INSTALL_TOOLS, "dcmtk")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_unknown_tools_are_wrong_usage() -> None:
    done = run(INSTALL_TOOLS, "dcm4che")
    assert done.returncode == 2
    assert "dcm4che: unknown" in done.stderr


def test_where_nothing_can_be_installed_it_says_so_and_goes_on(tmp_path: Path) -> None:
    done = run("/bin/sh", INSTALL_TOOLS, "dcmtk", "dicom3tools", path=str(tmp_path))
    assert done.returncode == 0
    assert "no apt-get" in done.stderr
    assert "dcmtk dicom3tools" in done.stderr


def test_every_target_is_explained_and_the_demo_gets_its_options() -> None:
    explained = set(re.findall(r"^make ([\w-]+) ", run("make", "help").stdout, re.MULTILINE))
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    assert explained == set(phony.split()) - {"help"}
    planned = run("make", "-n", "demo", "DEMO=--input wrist.jpg").stdout
    assert "pacs-node demo --input wrist.jpg" in planned


def test_every_pin_is_plain_and_torch_is_free() -> None:
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", pin) for pin in pins)
    assert not any(pin.startswith(("torch", "nvidia", "triton", "cuda")) for pin in pins)


def test_shell_scripts_are_clean(tool: Callable[[str], Path]) -> None:
    said = run(tool("shellcheck"), INSTALL_TOOLS, CHECKOUT / ".ci" / "run")
    assert said.returncode == 0, said.stdout
