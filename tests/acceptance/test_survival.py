"""Killed processes: nothing is lost, nothing is delivered twice, no process stays behind."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import phantom
from support.running_node import RunningNode, WaitUntil, is_running

from pacs_node.config import load
from pacs_node.demo.pacs import StandIn

pytestmark = pytest.mark.slow

CONFIG = """
[study]
quiet_seconds = 0.5
[[destinations]]
name = "pacs"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {port}
"""

Tool = Callable[[str], Path]


def store(tool: Tool, node: RunningNode, *paths: Path) -> None:
    """Send with dcmtk; returns only once every object was answered with 0x0000."""
    command = [
        str(tool("storescu")),
        "-aet",
        "ORTHANC",
        "127.0.0.1",
        str(node.address.port),
        *map(str, paths),
    ]
    subprocess.run(command, check=True, timeout=60)


def images(folder: Path, seed: int) -> list[Path]:
    paths = [folder / f"{seed}-{number}.dcm" for number in range(2)]
    for path, image in zip(paths, phantom.two_views(seed, rows=640, columns=512), strict=True):
        image.save_as(path, enforce_file_format=True)
    return paths


@pytest.fixture
def port(free_port: Callable[[], int]) -> int:
    """The port on which the PACS will listen."""
    return free_port()


@pytest.fixture
def node(new_node: Callable[..., RunningNode], port: int) -> RunningNode:
    return new_node(CONFIG.format(port=port))


@pytest.fixture
def pacs(node: RunningNode, port: int, tmp_path: Path) -> Iterator[StandIn]:
    """A PACS that is down until a test starts it."""
    pacs = StandIn(tmp_path / "pacs", node.address, port=port, ae_title="ORTHANC")
    yield pacs
    pacs.stop()


def check_complete(node: RunningNode, pacs: StandIn, seeds: range) -> None:
    """Each study has its one report and its two captures, in the PACS and in the journal, once each."""
    for seed in seeds:
        uid = phantom.phantom_study(seed).study_instance_uid
        study = node.ask("show", uid)
        assert study["state"] == "DELIVERED"
        assert [report["revision"] for report in study["reports"]] == [2]
        stored = pacs.results(uid)
        assert sorted(str(item.Modality) for item in stored) == ["OT", "OT", "SR"]
        assert len({item.SOPInstanceUID for item in stored}) == 3
    verified = node.run("audit", "verify")
    assert verified.returncode == 0, verified.stderr


def test_an_acknowledged_image_survives_a_kill(
    node: RunningNode, pacs: StandIn, tmp_path: Path, tool: Tool, wait_until: WaitUntil
) -> None:
    node.start()
    store(tool, node, *images(tmp_path, 21))
    node.kill()
    pacs.start()
    node.start()
    wait_until(lambda: node.is_settled(1), 90)
    check_complete(node, pacs, range(21, 22))


def test_kills_at_every_stage_lose_nothing_and_send_nothing_twice(
    node: RunningNode, pacs: StandIn, tmp_path: Path, tool: Tool, wait_until: WaitUntil
) -> None:
    seeds = range(31, 35)
    pacs.start()
    node.start()
    store(tool, node, *(path for seed in seeds for path in images(tmp_path, seed)))
    for stage in ("analyzed", "reported", "sent"):
        wait_until(lambda stage=stage: stage in node.run("audit", "export").stdout, 60)  # type: ignore[misc]
        node.kill()
        node.start()
    wait_until(lambda: node.is_settled(len(seeds)), 120)
    check_complete(node, pacs, seeds)


def test_sigterm_stops_all_roles_and_the_work_resumes_later(
    node: RunningNode, pacs: StandIn, tmp_path: Path, tool: Tool, wait_until: WaitUntil
) -> None:
    pacs.start()
    node.start()
    pids = node.pids()
    store(tool, node, *images(tmp_path, 41))
    assert node.stop() == 0
    assert not any(map(is_running, pids))
    assert node.ask("status")["roles"] == []
    node.start()
    wait_until(lambda: node.is_settled(1), 60)
    check_complete(node, pacs, range(41, 42))


def test_a_dead_role_is_restarted(
    node: RunningNode, pacs: StandIn, tmp_path: Path, tool: Tool, wait_until: WaitUntil
) -> None:
    pacs.start()
    node.start()
    (worker,) = [role["pid"] for role in node.ask("status")["roles"] if role["role"] == "worker"]
    os.kill(worker, signal.SIGKILL)
    store(tool, node, *images(tmp_path, 51))
    wait_until(lambda: node.is_settled(1), 90)
    check_complete(node, pacs, range(51, 52))


def test_a_killed_supervisor_leaves_no_orphans(node: RunningNode, wait_until: WaitUntil) -> None:
    node.start()
    pids = node.pids()
    node.kill_supervisor()
    wait_until(lambda: not any(map(is_running, pids)), 40)


def test_a_model_that_breaks_later_does_not_stop_the_intake(
    new_node: Callable[..., RunningNode], tmp_path: Path, tool: Tool, wait_until: WaitUntil
) -> None:
    model = tmp_path / "model"
    shutil.copytree(load(None).model.path, model)
    node = new_node(f'[model]\npath = "{model}"\n')
    node.start()
    (worker,) = [role["pid"] for role in node.ask("status")["roles"] if role["role"] == "worker"]
    (model / "weights.safetensors").write_bytes(b"altered")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: "status=2" in node.log, 60)
    store(tool, node, *images(tmp_path, 61))
    wait_until(lambda: node.ask("status")["instances"] == {"RECEIVED": 2}, 30)


def test_an_invalid_setting_ends_the_node_with_code_2(
    new_node: Callable[..., RunningNode], tmp_path: Path
) -> None:
    node = new_node(f'[model]\npath = "{tmp_path}/none"\n')
    result = node.run("serve")
    assert result.returncode == 2
    assert "none" in result.stderr
    assert "Traceback" not in result.stderr
