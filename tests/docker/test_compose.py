"""The container files: one truth with the demo, and a configuration that the real programs accept."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import phantom
from support.orthanc import MakeOrthanc

from pacs_node.config import load
from pacs_node.demo.pacs import FORWARD_LUA, MODALITY, ORTHANC_IMAGE, Address, StandIn

CHECKOUT = Path(__file__).resolve().parents[2]
DOCKER = CHECKOUT / "docker"


@pytest.fixture
def settings() -> dict[str, object]:
    """Orthanc's configuration of the compose file."""
    content: dict[str, object] = json.loads((DOCKER / "orthanc.json").read_text())
    return content


def test_everything_that_is_mounted_or_copied_exists() -> None:
    compose = (DOCKER / "compose.yaml").read_text()
    mounted = re.findall(r"- (\.{1,2}/\S+?):", compose)
    assert len(mounted) == 3
    for path in mounted:
        assert (DOCKER / path).is_file(), path
    assert (DOCKER / "../pacs_node/demo/forward.lua").resolve() == FORWARD_LUA.resolve()
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
        for source in line.split()[:-1]
    ]
    ignore = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    for source in sources:
        assert (CHECKOUT / source).exists(), source
        assert f"!{source}" in ignore, f"{source} does not reach the build"


def test_the_node_and_orthanc_know_each_other(settings: dict[str, object]) -> None:
    node = load(DOCKER / "config.toml")
    modalities = settings["DicomModalities"]
    assert isinstance(modalities, dict)
    assert modalities == {MODALITY: [node.node.ae_title, "node", node.node.port]}
    (peer,), (destination,) = node.peers, node.destinations
    assert peer.ae_title == destination.ae_title == settings["DicomAet"]
    assert peer.host == destination.host == "orthanc"
    assert destination.port == settings["DicomPort"]
    assert peer.reply_to == (destination.name,)
    services = re.findall(r"^  (\w+):$", (DOCKER / "compose.yaml").read_text(), re.MULTILINE)
    assert {"node", "orthanc"} <= set(services)
    assert ORTHANC_IMAGE in (DOCKER / "compose.yaml").read_text()


def test_all_is_published_on_this_machine_only() -> None:
    compose = (DOCKER / "compose.yaml").read_text()
    ports = re.findall(r'"([\d.:]+:\d+)"', compose)
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_takes_it(tool: Callable[[str], Path]) -> None:
    """As it is, and with PostgreSQL, whose URL then is the node's."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    text = (DOCKER / "compose.yaml").read_text()
    if plugin.returncode == 0:
        command = ["docker", "compose"]
    else:
        # Debian's is of before the project's name could stand in the file.
        command, text = [str(tool("docker-compose"))], text.replace("name: pacs-node\n", "", 1)
    url = "postgresql+psycopg://pacs_node:x@postgresql/pacs_node"
    for options, environment in (((), {}), (("--profile", "postgresql"), {"PACS_NODE_DATABASE": url})):
        done = subprocess.run(
            [*command, "-f", "-", "--project-directory", str(DOCKER), *options, "config"],
            input=text,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "WARN" not in done.stderr
        assert ("postgresql+psycopg" in done.stdout) == bool(environment)


def test_the_health_check_asks_the_web_role() -> None:
    node = load(DOCKER / "config.toml")
    compose = (DOCKER / "compose.yaml").read_text()
    (command,) = re.findall(r'test: \[CMD, python, -c, "(.+)"\]', compose)
    assert f"127.0.0.1:{node.web.port}/health/ready" in command
    answers = [
        b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ]
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = command.replace(str(node.web.port), str(server.getsockname()[1]))
        codes = []
        for answer in answers:
            with subprocess.Popen([sys.executable, "-c", here], stderr=subprocess.DEVNULL) as asking:
                client, _ = server.accept()
                with client:
                    client.recv(4096)
                    client.sendall(answer)
            codes.append(asking.returncode)
    assert codes == [1, 0]


def test_the_dockerfile_is_clean() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    said = subprocess.run([hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout


def test_orthanc_forwards_with_the_mounted_files(
    settings: dict[str, Any],
    make_orthanc: MakeOrthanc,
    free_port: Callable[[], int],
    tmp_path: Path,
    wait_until: Callable[..., None],
) -> None:
    """Replaced is only what differs between a container and this machine: folders, ports, the host."""
    node = StandIn(tmp_path / "node", Address("ORTHANC", "127.0.0.1", 9), ae_title="PACSNODE")
    node.start()
    http, dicom = free_port(), free_port()
    here = {
        "StorageDirectory": str(tmp_path / "db"),
        "IndexDirectory": str(tmp_path / "db"),
        "HttpPort": http,
        "DicomPort": dicom,
        "RemoteAccessAllowed": False,
        "DicomModalities": {MODALITY: ["PACSNODE", "127.0.0.1", node.address.port]},
    }
    orthanc = make_orthanc(tmp_path / "orthanc", node.address, ports=(http, dicom), **settings | here)
    orthanc.start()
    image = phantom.dataset(31, rows=256, columns=205)
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    orthanc.upload([tmp_path / "a.dcm"])
    wait_until(lambda: node.results(image.StudyInstanceUID), 30)
    orthanc.stop()
    node.stop()


def test_shell_of_the_dockerfile(tool: Callable[[str], Path], tmp_path: Path) -> None:
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    steps = re.findall(r"^RUN (.+)$", text, re.MULTILINE)
    assert len(steps) == 2
    (tmp_path / "steps.sh").write_text("#!/bin/sh\nset -e\n" + "\n".join(steps) + "\n")
    said = subprocess.run(
        [tool("shellcheck"), tmp_path / "steps.sh"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout
