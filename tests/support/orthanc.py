"""Fixtures with a real Orthanc: the official image where a container engine answers, else Debian's program.

PACS_NODE_TEST_ORTHANC says which: `container`, `binary` or `auto`, the default. The tests are the same.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

import pytest

from pacs_node.demo.pacs import MODALITY, ORTHANC_IMAGE, Address, Orthanc, find_engine, in_container

ORTHANC = "PACS_NODE_TEST_ORTHANC"
PLUGINS_IMAGE = ORTHANC_IMAGE.replace("orthanc:", "orthanc-plugins:")
PLUGIN_FOLDERS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")
PULL_SECONDS = 600.0
NOBODY = Address("NOBODY", "127.0.0.1", 104)


class MakeOrthanc(Protocol):
    """Build an Orthanc that forwards nothing, or to `node`; the caller starts and stops it."""

    def __call__(
        self,
        folder: Path,
        node: Address = NOBODY,
        *,
        plugins: tuple[str, ...] = (),
        ports: tuple[int, int] | None = None,
        **settings: Any,
    ) -> Orthanc:
        """`plugins` are names such as "OrthancDicomWeb"; the keywords are laid over its configuration."""


@pytest.fixture(scope="session")
def orthanc_kind() -> Literal["docker", "orthanc"]:
    """How Orthanc runs in these tests, as `pacs-node demo --pacs` calls it."""
    chosen = os.environ.get(ORTHANC) or "auto"
    if chosen not in ("container", "binary", "auto"):
        pytest.fail(f"{ORTHANC}={chosen}: container, binary or auto")
    engine = find_engine() if chosen != "binary" else None
    if chosen == "container":
        if engine is None:
            pytest.fail(f"{ORTHANC}=container, and neither docker nor podman answers `info`")
        return "docker"
    return "docker" if engine and _has_image(engine) else "orthanc"


@pytest.fixture(scope="session")
def make_orthanc(
    orthanc_kind: str,
    tool: Callable[[str], Path],
    missing: Callable[[object], NoReturn],
    free_port: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> MakeOrthanc:
    """Build an Orthanc in a folder of pytest's, all of which a container sees at the same path."""

    def make(
        folder: Path,
        node: Address = NOBODY,
        *,
        plugins: tuple[str, ...] = (),
        ports: tuple[int, int] | None = None,
        **settings: Any,
    ) -> Orthanc:
        if orthanc_kind == "docker":
            engine = find_engine()
            assert engine is not None
            image = PLUGINS_IMAGE if plugins else ORTHANC_IMAGE
            command = in_container(engine, tmp_path_factory.getbasetemp(), image)
            paths = [f"{PLUGIN_FOLDERS[-1]}/lib{plugin}.so" for plugin in plugins]
        else:
            command = [str(tool("Orthanc"))]
            paths = [_plugin(plugin) or missing(f"{plugin} for Orthanc") for plugin in plugins]
        return Orthanc(
            folder,
            node,
            command=command,
            ports=ports or (free_port(), free_port()),
            settings=({"Plugins": paths} if plugins else {}) | settings,
            start_seconds=PULL_SECONDS if orthanc_kind == "docker" else 30.0,
        )

    return make


@pytest.fixture(scope="session")
def orthanc(make_orthanc: MakeOrthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A running Orthanc that forwards nothing yet; `rest` is its API, `address` its DICOM side.

    Each test process starts one, which its tests share: each uses study UIDs, AE titles and modality names of
    its own. `orthanc.rest.put("/modalities/NAME", {"AET": ..., "Host": "127.0.0.1", "Port": ...})` makes it
    accept C-STORE from an AE title, and send to it.
    """
    server = make_orthanc(
        tmp_path_factory.mktemp("orthanc"), DicomModalities={}, DicomModalitiesInDatabase=True
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
def route(orthanc: Orthanc) -> Iterator[Callable[[Address], None]]:
    """Make `orthanc` forward what it stores to an address, by `forward.lua`, until the test ends."""

    def to(node: Address) -> None:
        value = {"AET": node.ae_title, "Host": node.host, "Port": node.port}
        orthanc.rest.put(f"/modalities/{MODALITY}", value)

    yield to
    if MODALITY in orthanc.rest.get("/modalities"):
        orthanc.rest.call("DELETE", f"/modalities/{MODALITY}")


def _has_image(engine: str) -> bool:
    """Whether Orthanc's image is there or can be fetched."""
    commands = [engine, "image", "inspect", ORTHANC_IMAGE], [engine, "pull", "--quiet", ORTHANC_IMAGE]
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, timeout=PULL_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return False
        if done.returncode == 0:
            return True
    return False


def _plugin(name: str) -> str | None:
    paths = [Path(folder) / f"lib{name}.so" for folder in PLUGIN_FOLDERS]
    return next((str(path) for path in paths if path.exists()), None)
