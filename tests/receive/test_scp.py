"""The storage SCP over real sockets, with dcmtk and pynetdicom as senders."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, EncapsulatedPDFStorage, ExplicitVRLittleEndian, RLELossless
from pynetdicom import AE, build_context
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    DigitalXRayImageStorageForPresentation,
    Verification,
)
from support import phantom

from pacs_node.config import NodeSettings, Peer
from pacs_node.files import FileStore
from pacs_node.receive.scp import StorageScp

Start = Callable[..., StorageScp]


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "storage")


@pytest.fixture
def start(files: FileStore) -> Iterator[Start]:
    running: list[StorageScp] = []

    def begin(peers: tuple[Peer, ...] = (), min_free_gb: float = 0, **node: object) -> StorageScp:
        settings = NodeSettings.model_validate({"host": "127.0.0.1", "port": 0, **node})
        scp = StorageScp(settings, peers, files, min_free_gb, lambda spooled, header: None)
        scp.start()
        running.append(scp)
        return scp

    yield begin
    for scp in running:
        scp.stop()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.dcm"
    phantom.dataset(1, rows=128, columns=96).save_as(path, enforce_file_format=True)
    return path


def dcmtk(program: Path, scp: StorageScp, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [program, "-v", "127.0.0.1", scp.port, *arguments]
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=30, check=False
    )


def send(scp: StorageScp, dataset: FileDataset, syntax: str = ExplicitVRLittleEndian) -> tuple[int, str]:
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(dataset.SOPClassUID, syntax)
    association = ae.associate("127.0.0.1", scp.port)
    assert association.is_established
    answer = association.send_c_store(dataset)
    association.release()
    return int(answer.Status), str(answer.get("ErrorComment", ""))


def association_request(called: str) -> bytes:
    request = A_ASSOCIATE()
    request.application_context_name = UID("1.2.840.10008.3.1.1.1")
    request.calling_ae_title, request.called_ae_title = "SENDER", called
    context = build_context(Verification)
    context.context_id = 1
    request.presentation_context_definition_list = [context]
    maximum = MaximumLengthNotification()
    maximum.maximum_length_received = 16382
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID("1.2.3")
    request.user_information = [maximum, implementation]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request)
    return pdu.encode()


def test_echo(start: Start, tool: Callable[[str], Path]) -> None:
    assert dcmtk(tool("echoscu"), start()).returncode == 0


def test_a_stored_file_is_what_was_sent_and_says_who_sent_it(
    start: Start, files: FileStore, image: Path, tool: Callable[[str], Path]
) -> None:
    result = dcmtk(tool("storescu"), start(), "-aet", "MODALITY", "-aec", "PACSNODE", image)
    assert result.returncode == 0, result.stderr
    (item,) = files.spooled()
    received, sent = dcmread(item.path), dcmread(image)
    assert received == sent
    meta = received.file_meta
    assert meta.SourceApplicationEntityTitle == "MODALITY"
    assert meta.ReceivingApplicationEntityTitle == "PACSNODE"
    assert meta.PrivateInformation.rstrip(b"\0") == b"127.0.0.1"


def test_what_the_scp_counts(start: Start, wait_until: Callable[..., None]) -> None:
    scp = start((Peer(name="pacs", ae_title="SENDER"),), min_free_gb=1e9)
    assert scp.stats() == {"associations_open": 0}
    ae = AE(ae_title="SENDER")
    image = phantom.dataset(1, rows=64, columns=64)
    ae.add_requested_context(image.SOPClassUID, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", scp.port)
    wait_until(lambda: scp.stats() == {"associations_accepted": 1, "associations_open": 1}, 30)
    assert association.send_c_store(image).Status == 0xA700
    association.release()
    ae.ae_title = "STRANGER"
    assert ae.associate("127.0.0.1", scp.port).is_rejected
    counted = {"associations_accepted": 1, "associations_rejected": 1, "refused_0xA700": 1}
    wait_until(lambda: scp.stats() == counted | {"associations_open": 0}, 30)


@pytest.mark.parametrize("option", ["-xe", "-xb", "-xi", "-xd"])
def test_uncompressed_transfer_syntaxes(
    start: Start, files: FileStore, image: Path, tool: Callable[[str], Path], option: str
) -> None:
    assert dcmtk(tool("storescu"), start(), option, image).returncode == 0
    (item,) = files.spooled()
    assert dcmread(item.path).SOPInstanceUID == dcmread(image).SOPInstanceUID


@pytest.mark.parametrize(
    ("encoder", "arguments", "proposal"),
    [
        ("dcmcjpeg", ["+el"], "-xr"),
        ("dcmcjpeg", ["+e1"], "-xs"),
        ("dcmcjpeg", ["+ee"], "-xx"),
        ("dcmcjpls", ["+el"], "-xt"),
        ("dcmcjpls", ["+en"], "-xu"),
        ("dcmcrle", [], "-xr"),
    ],
)
def test_compressed_bytes_are_kept_exactly(
    start: Start,
    files: FileStore,
    image: Path,
    tool: Callable[[str], Path],
    encoder: str,
    arguments: list[str],
    proposal: str,
) -> None:
    compressed = image.with_name("compressed.dcm")
    subprocess.run([str(tool(encoder)), *arguments, str(image), str(compressed)], check=True)
    scp = start()
    sent = dcmread(compressed)
    status, comment = send(scp, sent, sent.file_meta.TransferSyntaxUID)
    assert (status, comment) == (0, "")
    (item,) = files.spooled()
    received = dcmread(item.path)
    assert received.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
    assert received.PixelData == sent.PixelData


def test_lossless_is_preferred_where_the_sender_offers_both(start: Start) -> None:
    ae = AE(ae_title="SENDER")
    jpeg_baseline = "1.2.840.10008.1.2.4.50"
    ae.add_requested_context(DigitalXRayImageStorageForPresentation, [jpeg_baseline, RLELossless])
    association = ae.associate("127.0.0.1", start().port)
    assert association.accepted_contexts[0].transfer_syntax == [RLELossless]
    association.release()


def test_what_is_no_xray_is_stored_too(start: Start, files: FileStore) -> None:
    dataset = phantom.dataset(1, rows=64, columns=64)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    assert send(start(), dataset)[0] == 0
    assert len(files.spooled()) == 1


@pytest.mark.parametrize(
    ("sop_class", "syntax"),
    [
        ("1.3.12.2.1107.5.9.1", ExplicitVRLittleEndian),
        ("1.2.840.10008.5.1.4.1.1.6", ExplicitVRLittleEndian),
        ("1.2.840.10008.5.1.4.1.1.77.1.1.1", "1.2.840.10008.1.2.4.100"),
    ],
    ids=["private", "retired", "video"],
)
def test_what_nobody_expects_is_stored_as_it_is(
    start: Start, files: FileStore, sop_class: str, syntax: str
) -> None:
    dataset = phantom.dataset(1, rows=64, columns=64)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    if UID(syntax).is_compressed:
        dataset.PixelData = encapsulate([b"frame"])
        dataset["PixelData"].is_undefined_length = True
    assert send(start(), dataset, syntax) == (0, "")
    (item,) = files.spooled()
    assert dcmread(item.path).file_meta.TransferSyntaxUID == syntax


def test_an_object_without_a_study_is_refused_with_the_reason(start: Start, files: FileStore) -> None:
    dataset = phantom.dataset(1, rows=64, columns=64)
    del dataset.StudyInstanceUID
    assert send(start(), dataset) == (0xC000, "StudyInstanceUID absent or empty")
    assert files.spooled() == []


def test_a_full_disk_is_out_of_resources_and_nothing_is_kept(start: Start, files: FileStore) -> None:
    status, comment = send(start(min_free_gb=1e9), phantom.dataset(1, rows=64, columns=64))
    assert status == 0xA700
    assert "disk space" in comment
    assert files.spooled() == []


def test_only_listed_peers_may_send(
    start: Start, files: FileStore, image: Path, tool: Callable[[str], Path]
) -> None:
    scp = start(peers=(Peer(name="pacs", ae_title="PACS", host="127.0.0.0/8"),))
    refused = dcmtk(tool("storescu"), scp, "-aet", "STRANGER", image)
    assert refused.returncode != 0
    assert "Calling AE Title Not Recognized" in refused.stderr
    assert files.spooled() == []
    assert dcmtk(tool("storescu"), scp, "-aet", "PACS", image).returncode == 0
    assert len(files.spooled()) == 1


def test_a_peer_at_another_address_is_refused(start: Start, image: Path, tool: Callable[[str], Path]) -> None:
    scp = start(peers=(Peer(name="pacs", ae_title="PACS", host="192.0.2.0/24"),))
    refused = dcmtk(tool("echoscu"), scp, "-aet", "PACS")
    assert refused.returncode != 0
    assert "Calling AE Title Not Recognized" in refused.stderr


def test_the_called_title_counts_where_it_is_required(start: Start, tool: Callable[[str], Path]) -> None:
    scp = start(require_called_ae=True, ae_title="NODE", ae_aliases=["OLDNAME"])
    assert dcmtk(tool("echoscu"), scp, "-aec", "NODE").returncode == 0
    assert dcmtk(tool("echoscu"), scp, "-aec", "OLDNAME").returncode == 0
    refused = dcmtk(tool("echoscu"), scp, "-aec", "OTHER")
    assert refused.returncode != 0
    assert "Called AE Title Not Recognized" in refused.stderr


def test_stopping_hangs_up_on_a_peer_that_says_nothing_or_stays_after_its_rejection(start: Start) -> None:
    scp = start(require_called_ae=True, ae_title="NODE")
    with (
        socket.create_connection(("127.0.0.1", scp.port), timeout=30) as silent,
        socket.create_connection(("127.0.0.1", scp.port), timeout=30) as rejected,
    ):
        rejected.sendall(association_request("OTHER"))
        assert rejected.recv(64)[0] == 0x03  # A-ASSOCIATE-RJ
        scp.stop()
        assert silent.recv(64) == b""
        assert rejected.recv(64) == b""
    # An exception in one of pynetdicom's threads fails the test (PytestUnhandledThreadExceptionWarning).
