"""The PACSs of the demo, against a real storage SCP in the node's place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from support import phantom
from support.orthanc import MakeOrthanc

from pacs_node.demo.pacs import Address, Orthanc, Pacs, PacsKind, StandIn, choose, find_engine, find_orthanc
from pacs_node.dicom.header import derive_uid
from pacs_node.errors import PacsNodeError

NODE_TITLE = "NODE"


def save(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def send(dataset: Dataset, target: Address, calling: str) -> int | None:
    """C-STORE as an AE; the status, or None where the association was not accepted."""
    ae = AE(ae_title=calling)
    ae.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = ae.associate(target.host, target.port, ae_title=target.ae_title)
    if not association.is_established:
        return None
    status = association.send_c_store(dataset)
    association.release()
    return int(status.Status) if "Status" in status else None


@pytest.fixture
def node(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[StandIn]:
    """In the node's place: takes what is forwarded to it. It never forwards itself."""
    server = StandIn(tmp_path / "node", Address("NOBODY", "127.0.0.1", 9), port=0, ae_title=NODE_TITLE)
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["orthanc", "stand-in"])
def pacs(
    request: pytest.FixtureRequest,
    node: StandIn,
    tmp_path: Path,
    free_port: Callable[[], int],
    tool: Callable[[str], Path],
) -> Iterator[Pacs]:
    kind: PacsKind = "stand-in"
    if request.param == "orthanc":
        kind = request.getfixturevalue("orthanc_kind")
        if kind == "orthanc":
            tool("Orthanc")
    server = choose(kind, tmp_path / "pacs", node.address, (free_port(), free_port()))
    server.start()
    yield server
    server.stop()


def test_forwards_uploads_and_keeps_results_without_sending_them_back(
    pacs: Pacs, node: StandIn, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    images = phantom.two_views(11, rows=256, columns=205)
    uid = images[0].StudyInstanceUID
    pacs.upload([save(image, tmp_path / f"{i}.dcm") for i, image in enumerate(images)])
    wait_until(lambda: len(node.results(uid)) == 2, 30)
    assert {d.SOPInstanceUID for d in node.results(uid)} == {image.SOPInstanceUID for image in images}
    assert pacs.results(uid) == []

    answer = phantom.dataset(11, rows=256, columns=205, kind="CR")
    assert send(answer, pacs.address, NODE_TITLE) == 0
    marker = phantom.dataset(12, rows=256, columns=205)
    pacs.upload([save(marker, tmp_path / "marker.dcm")])
    wait_until(lambda: node.results(marker.StudyInstanceUID), 30)
    results = pacs.results(uid)
    assert [d.SOPInstanceUID for d in results] == [answer.SOPInstanceUID]
    assert results[0].PixelData == answer.PixelData
    assert len(node.results(uid)) == 2, "what the node sent came back to it"


def test_waits_for_a_node_that_is_not_there_yet(
    tmp_path: Path, free_port: Callable[[], int], wait_until: Callable[..., None]
) -> None:
    address = Address(NODE_TITLE, "127.0.0.1", free_port())
    pacs = StandIn(tmp_path / "pacs", address)
    pacs.start()
    image = phantom.dataset(13, rows=256, columns=205)
    pacs.upload([save(image, tmp_path / "a.dcm")])
    late = StandIn(tmp_path / "late", pacs.address, port=address.port, ae_title=NODE_TITLE)
    late.start()
    wait_until(lambda: late.results(image.StudyInstanceUID), 30)
    late.stop()
    pacs.stop()


def test_own_results_uploaded_to_the_pacs_are_not_forwarded(
    orthanc: Orthanc,
    route: Callable[[Address], None],
    node: StandIn,
    tmp_path: Path,
    wait_until: Callable[..., None],
) -> None:
    route(node.address)
    own = phantom.dataset(14, rows=256, columns=205)
    own.Manufacturer = "pacs-node"
    orthanc.upload([save(own, tmp_path / "own.dcm")])
    other = phantom.dataset(15, rows=256, columns=205)
    orthanc.upload([save(other, tmp_path / "other.dcm")])
    wait_until(lambda: node.results(other.StudyInstanceUID), 30)
    assert node.results(own.StudyInstanceUID) == []
    assert orthanc.rest.instances(own.StudyInstanceUID)


def test_orthanc_takes_c_store_from_known_titles_only(orthanc: Orthanc, free_port: Callable[[], int]) -> None:
    image = phantom.dataset(16, rows=256, columns=205)
    assert send(image, orthanc.address, "STRANGER") != 0
    orthanc.rest.put("/modalities/known", {"AET": "KNOWN", "Host": "127.0.0.1", "Port": free_port()})
    assert send(image, orthanc.address, "KNOWN") == 0
    assert [orthanc.rest.sender(i) for i in orthanc.rest.instances(image.StudyInstanceUID)] == ["KNOWN"]


def test_a_file_that_is_not_dicom_is_refused_by_name(pacs: Pacs, tmp_path: Path) -> None:
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(b"not DICOM")
    with pytest.raises(PacsNodeError, match=r"bad\.dcm"):
        pacs.upload([bad])


def test_orthanc_that_cannot_start_says_why(
    tmp_path: Path, make_orthanc: MakeOrthanc, free_port: Callable[[], int]
) -> None:
    taken = StandIn(tmp_path / "a", Address("X", "127.0.0.1", 9))
    taken.start()
    broken = make_orthanc(tmp_path / "b", ports=(free_port(), taken.address.port))
    with pytest.raises(PacsNodeError, match="end of its log"):
        broken.start()
    broken.stop()
    taken.stop()


def test_configuration_is_loopback_only(tmp_path: Path, free_port: Callable[[], int]) -> None:
    pacs = choose("stand-in", tmp_path, Address("X", "127.0.0.1", 9), (free_port(), free_port()))
    assert isinstance(pacs, StandIn)
    pacs.start()
    assert pacs.address.host == "127.0.0.1"
    pacs.stop()
    server = Orthanc(tmp_path, Address("X", "127.0.0.1", 9), command=["x"], ports=(1, 2))
    assert server.configuration["RemoteAccessAllowed"] is False
    json.dumps(server.configuration)


def test_derived_uids_are_stable_and_valid() -> None:
    assert derive_uid("a", 1) == derive_uid("a", 1) != derive_uid("a", 2)
    assert derive_uid("a", 1).is_valid
    assert len(derive_uid("a", 1)) <= 64


def test_auto_chooses_what_this_machine_has(tmp_path: Path) -> None:
    chosen = choose("auto", tmp_path, Address("X", "127.0.0.1", 9), (1, 2))
    assert isinstance(chosen, Orthanc if find_orthanc() or find_engine() else StandIn)
    if find_engine() is None:
        with pytest.raises(PacsNodeError, match="docker"):
            choose("docker", tmp_path, Address("X", "127.0.0.1", 9), (1, 2))
