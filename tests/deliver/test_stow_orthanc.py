"""STOW-RS to a real archive: Orthanc with its DICOMweb plugin."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import phantom
from support.orthanc import MakeOrthanc

from pacs_node.config import Destination
from pacs_node.deliver import sender, stow
from pacs_node.demo.pacs import Orthanc
from pacs_node.records import Reply, SendOutcome


@pytest.fixture(scope="module")
def archive(make_orthanc: MakeOrthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A running Orthanc with DICOMweb."""
    server = make_orthanc(tmp_path_factory.mktemp("archive"), plugins=("OrthancDicomWeb",))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def destination(archive: Orthanc, monkeypatch: pytest.MonkeyPatch) -> Destination:
    # Proxies of the environment must not come between two programs on this machine.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return Destination(name="archive", kind="stow", url=f"{archive.rest.url}/dicom-web/")


def images(folder: Path, *seeds: int) -> list[Path]:
    paths = [folder / f"{seed}.dcm" for seed in seeds]
    for path, seed in zip(paths, seeds, strict=True):
        phantom.dataset(seed, rows=96, columns=80).save_as(path, enforce_file_format=True)
    return paths


def test_the_archive_has_the_files_byte_for_byte(
    archive: Orthanc, destination: Destination, tmp_path: Path
) -> None:
    paths = images(tmp_path, 801, 802)
    # More than one of dicomweb-client's chunks.
    big = tmp_path / "big.dcm"
    phantom.dataset(803, rows=1024, columns=1024).save_as(big, enforce_file_format=True)
    outcomes = list(stow.store(destination, "NODE", [*paths, big]))
    assert outcomes == [SendOutcome(0, "HTTP 200 OK", Reply.DELIVERED)] * 3
    stored = {archive.rest.call("GET", f"/instances/{one}/file") for one in archive.rest.get("/instances")}
    assert {path.read_bytes() for path in [*paths, big]} <= stored


def test_what_is_there_already_is_no_failure(destination: Destination, tmp_path: Path) -> None:
    (path,) = images(tmp_path, 804)
    for _ in range(2):
        assert [outcome.status for outcome in stow.store(destination, "NODE", [path])] == [0]


def test_what_is_no_dicom_is_refused_for_good(destination: Destination, tmp_path: Path) -> None:
    (path,) = images(tmp_path, 805)
    path.write_bytes(path.read_bytes()[:400])
    (outcome,) = stow.store(destination, "NODE", [path])
    assert sender.judge(outcome, 1) == "QUARANTINED"
