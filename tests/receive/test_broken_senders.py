"""Senders that break off, stall or only knock: no trace of what was not acknowledged, and the SCP goes on."""

import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.association import Association
from support import phantom
from support.fuzz import pdus

from pacs_node.config import NodeSettings
from pacs_node.dicom import association as connection_bounds
from pacs_node.files import FileStore
from pacs_node.receive import scp
from pacs_node.receive.scp import StorageScp

pytestmark = pytest.mark.timeout(120)

WaitUntil = Callable[[Callable[[], object], float], None]
VERIFICATION = "1.2.840.10008.1.1"
A_ASSOCIATE_AC, P_DATA_TF = 0x02, 0x04


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "storage")


@pytest.fixture
def start(files: FileStore) -> Iterator[Callable[..., int]]:
    running: list[StorageScp] = []

    def begin(**node: object) -> int:
        settings = NodeSettings.model_validate({"host": "127.0.0.1", "port": 0, **node})
        running.append(StorageScp(settings, (), files, 0, lambda spooled, header: None))
        running[-1].start()
        return running[-1].port

    yield begin
    for one in running:
        one.stop()


@pytest.fixture
def port(start: Callable[..., int]) -> int:
    # Small PDUs, so that there are many places to break off.
    return start(max_pdu=4096)


@pytest.fixture
def recorded(port: int, files: FileStore) -> list[bytes]:
    """The PDUs with which one image is sent: request, C-STORE command and data, release."""
    told: list[bytes] = []
    image = phantom.dataset(1, rows=64, columns=64)
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(image.SOPClassUID, "1.2.840.10008.1.2.1")
    handlers: list[evt.EventHandlerType] = [(evt.EVT_DATA_SENT, lambda event: told.append(event.data))]
    association = ae.associate("127.0.0.1", port, evt_handlers=handlers)
    assert association.send_c_store(image).Status == 0
    association.release()
    (item,) = files.spooled()
    files.forget([item])
    assert len(told) > 4
    return told


def traces(files: FileStore) -> list[Path]:
    return [path for path in files.root.rglob("*") if path.is_file()]


def associate(port: int) -> Association:
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(VERIFICATION)
    return ae.associate("127.0.0.1", port)


def echo(port: int) -> int:
    association = associate(port)
    assert association.is_established
    status = int(association.send_c_echo().Status)
    association.release()
    return status


def associates(port: int) -> bool:
    association = associate(port)
    if not association.is_established:
        return False
    association.release()
    return True


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def read_pdu(connection: socket.socket) -> int:
    """The type of the next PDU; 0 where the connection ends."""
    header = connection.recv(6, socket.MSG_WAITALL)
    if len(header) < 6:
        return 0
    connection.recv(struct.unpack(">L", header[2:])[0], socket.MSG_WAITALL)
    return header[0]


def reset(connection: socket.socket) -> None:
    """Have the connection end with RST, as where a sender's process or machine dies."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def break_off(port: int, recorded: list[bytes], at: int, how: str) -> None:
    """Send so many bytes of what was recorded, as far as the protocol goes, and break off."""
    request, rest = recorded[0], b"".join(recorded[1:-1])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request[:at])
        if at >= len(request):
            assert read_pdu(connection) == A_ASSOCIATE_AC
            connection.sendall(rest[: at - len(request)])
        if how == "reset":
            reset(connection)
        elif how == "abort":
            connection.sendall(b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00")


@pytest.mark.parametrize("how", ["close", "reset", "abort"])
def test_an_image_that_breaks_off_anywhere_leaves_no_trace(
    port: int, files: FileStore, recorded: list[bytes], wait_until: WaitUntil, how: str
) -> None:
    threads, handles = threading.active_count(), descriptors()
    total = sum(map(len, recorded[:-1]))
    edges = [sum(map(len, recorded[:number])) for number in range(len(recorded))]
    # An A-ABORT is a PDU of its own: elsewhere its bytes would be the image's.
    places = set(edges)
    if how != "abort":
        places |= {edge + offset for edge in edges for offset in (-1, 1, 3, 5, 6, 9, 12)}
        places |= set(range(0, total, 997))
    for at in sorted(place for place in places if 0 <= place < total):
        break_off(port, recorded, at, how)
    wait_until(lambda: threading.active_count() <= threads, 20)
    wait_until(lambda: descriptors() <= handles, 20)
    assert traces(files) == []
    assert echo(port) == 0


def test_an_image_that_is_there_as_a_whole_is_kept_though_nobody_waits_for_the_answer(
    port: int, files: FileStore, recorded: list[bytes], wait_until: WaitUntil
) -> None:
    break_off(port, recorded, sum(map(len, recorded)), "close")
    wait_until(files.spooled, 20)
    assert len(traces(files)) == 1


# In the request's header and body; in the header of the next PDU, inside of the command, inside of the data.
@pytest.mark.parametrize(
    ("pdu", "into"), [(0, 0), (0, 3), (0, 50), (1, 0), (1, 2), (1, 20), (2, 2), (3, 1000)]
)
def test_a_sender_that_stalls_is_cut_off(
    start: Callable[..., int],
    files: FileStore,
    recorded: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    wait_until: WaitUntil,
    pdu: int,
    into: int,
) -> None:
    monkeypatch.setattr(scp, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(scp, "STALL_SECONDS", 0.3)
    port = start()
    threads, handles = threading.active_count(), descriptors()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(recorded[0] if pdu else recorded[0][:into])
        if pdu:
            assert read_pdu(connection) == A_ASSOCIATE_AC
            connection.sendall(b"".join(recorded[1:pdu]) + recorded[pdu][:into])
        # It hangs up, perhaps after an A-ABORT.
        while read_pdu(connection):
            pass
        wait_until(lambda: threading.active_count() <= threads, 20)
    wait_until(lambda: descriptors() <= handles, 20)
    assert traces(files) == []
    assert echo(port) == 0


def without_abstract_syntax(request: bytes) -> bytes:
    """The first presentation context loses what it is for; its transfer syntaxes stay (PS3.8 9.3.2.2)."""
    fixed, items = pdus.items(request)
    at = next(number for number, item in enumerate(items) if item[:1] == b"\x20")
    size = 4 + struct.unpack_from(">H", items[at], 10)[0]
    kept = items[at][4:8] + items[at][8 + size :]
    items[at] = struct.pack(">BBH", 0x20, 0, len(kept)) + kept
    return pdus.pdu(pdus.REQUEST, fixed[6:] + b"".join(items))


def even_context(request: bytes) -> bytes:
    at = request.index(b"\x20\0", 74)
    return request[: at + 4] + b"\2" + request[at + 5 :]


def without_command(command: bytes) -> bytes:
    """A command set that does not say which command it is."""
    kept = command[:12] + command[12:].replace(b"\0\0\0\1", b"\0\0\0\2", 1)
    assert kept != command
    return kept


@pytest.mark.parametrize(
    ("pdu", "change"),
    [
        (0, lambda pdu: pdus.pdu(1, bytes(68), 0xFFFFFFFF)),
        (0, without_abstract_syntax),
        (0, even_context),
        (1, lambda pdu: pdus.pdu(4, b"", 0xFFFFFFFF)),
        (1, without_command),
        (1, lambda pdu: pdus.pdu(7, b"\0\0\x28\x28")),
    ],
    ids=["4 GB request", "context of nothing", "even context", "4 GB", "no command", "odd abort"],
)
def test_a_sender_that_makes_no_sense_is_hung_up_on_at_once(
    port: int,
    files: FileStore,
    recorded: list[bytes],
    capfd: pytest.CaptureFixture[str],
    wait_until: WaitUntil,
    pdu: int,
    change: Callable[[bytes], bytes],
) -> None:
    """It stays connected, and yet no thread waits for it or dies of it."""
    threads, handles = threading.active_count(), descriptors()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        if pdu:
            connection.sendall(recorded[0])
            assert read_pdu(connection) == A_ASSOCIATE_AC
        connection.sendall(change(recorded[pdu]))
        while read_pdu(connection):
            pass
        wait_until(lambda: threading.active_count() <= threads, 20)
    wait_until(lambda: descriptors() <= handles, 20)
    assert "Traceback" not in capfd.readouterr().err
    assert traces(files) == []
    assert echo(port) == 0


def send_again_and_again(connection: socket.socket, data: bytes) -> None:
    for _ in range(10_000):
        connection.sendall(data)


@pytest.mark.parametrize(("what", "control"), [("LARGEST_REQUEST", 1), ("LARGEST_OBJECT", 0)])
def test_a_message_without_an_end_is_not_taken(
    port: int,
    files: FileStore,
    recorded: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    control: int,
) -> None:
    """Fragments of a command set, or of a data set, of which none is the last (PS3.8 E.2)."""
    monkeypatch.setattr(connection_bounds, what, 100_000)
    fragment = pdus.pdu(P_DATA_TF, struct.pack(">LBB", 4002, 1, control) + bytes(4000))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(recorded[0])
        assert read_pdu(connection) == A_ASSOCIATE_AC
        if not control:
            connection.sendall(recorded[1])
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_again_and_again(connection, fragment)
    assert traces(files) == []
    assert echo(port) == 0


@pytest.mark.parametrize("how", ["close", "reset", "HTTP", "half a request"])
def test_probes_take_no_place_and_leave_nothing_behind(
    start: Callable[..., int], recorded: list[bytes], wait_until: WaitUntil, how: str
) -> None:
    port = start(max_associations=5)
    threads, handles = threading.active_count(), descriptors()
    for _ in range(60):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            if how == "reset":
                reset(connection)
            elif how == "HTTP":
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            elif how == "half a request":
                connection.sendall(recorded[0][:40])
    # Some may stand in the queue of the port yet, where nothing is seen of them: behind them it is our turn.
    wait_until(lambda: associates(port), 20)
    wait_until(lambda: threading.active_count() <= threads, 20)
    wait_until(lambda: descriptors() <= handles, 20)
    assert echo(port) == 0


def test_an_association_too_many_is_told_to_come_later(
    start: Callable[..., int], wait_until: WaitUntil
) -> None:
    port = start(max_associations=2)
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(VERIFICATION)
    open_ = [ae.associate("127.0.0.1", port) for _ in range(2)]
    assert all(association.is_established for association in open_)
    rejected = ae.associate("127.0.0.1", port)
    assert rejected.is_rejected
    answer = rejected.acceptor.primitive
    assert answer is not None
    # Rejected-transient, by the service provider's presentation layer: local limit exceeded (PS3.8 9.3.4).
    assert (answer.result, answer.result_source, answer.diagnostic) == (0x02, 0x03, 0x02)
    for association in open_:
        association.release()
    wait_until(lambda: ae.associate("127.0.0.1", port).is_established, 20)
    ae.shutdown()


def test_an_echo_storm(port: int, tool: Callable[[str], Path], wait_until: WaitUntil) -> None:
    threads, handles = threading.active_count(), descriptors()
    command = [str(tool("echoscu")), "--repeat", "50", "127.0.0.1", str(port)]
    storm = [subprocess.Popen(command) for _ in range(8)]
    assert [echoes.wait(60) for echoes in storm] == [0] * 8
    wait_until(lambda: threading.active_count() <= threads, 20)
    wait_until(lambda: descriptors() <= handles, 20)
