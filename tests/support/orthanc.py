"""Fixtures with a real Orthanc, started once for each test process.

Tests share it, so each uses study UIDs, AE titles and modality names of its own; `route` says where
`pacs_node/demo/forward.lua` forwards to for the time of one test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pacs_node.demo.pacs import MODALITY, Address, Orthanc


@pytest.fixture(scope="session")
def orthanc(
    tool: Callable[[str], Path],
    free_port: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Orthanc]:
    """A running Orthanc that forwards nothing yet; `rest` is its API, `address` its DICOM side.

    `orthanc.rest.put("/modalities/NAME", {"AET": ..., "Host": "127.0.0.1", "Port": ...})` makes it accept
    C-STORE from an AE title, and send to it.
    """
    server = Orthanc(
        tmp_path_factory.mktemp("orthanc"),
        Address("NOBODY", "127.0.0.1", 104),
        command=[str(tool("Orthanc"))],
        ports=(free_port(), free_port()),
        settings={"DicomModalities": {}, "DicomModalitiesInDatabase": True},
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
def route(orthanc: Orthanc) -> Iterator[Callable[[Address], None]]:
    """Make `orthanc` forward what it stores to an address, until the test ends."""

    def to(node: Address) -> None:
        value = {"AET": node.ae_title, "Host": node.host, "Port": node.port}
        orthanc.rest.put(f"/modalities/{MODALITY}", value)

    yield to
    if MODALITY in orthanc.rest.get("/modalities"):
        orthanc.rest.call("DELETE", f"/modalities/{MODALITY}")
