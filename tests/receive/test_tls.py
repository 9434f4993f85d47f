"""The DICOM port over TLS: who gets in, and that nobody holds up the others."""

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import structlog
from pydicom import dcmread
from support import phantom
from support.certificates import Authority, arguments, destination
from support.orthanc import MakeOrthanc

from pacs_node import config
from pacs_node.config import Destination, NodeSettings, TlsSettings
from pacs_node.deliver import dimse
from pacs_node.deliver.sender import echo
from pacs_node.dicom import tls
from pacs_node.errors import DeliveryError
from pacs_node.files import FileStore
from pacs_node.journal import processes
from pacs_node.journal.database import open_database
from pacs_node.receive.scp import StorageScp
from pacs_node.roles.receive import run as receive

Start = Callable[..., int]


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "storage")


@pytest.fixture
def node(authority: Authority) -> TlsSettings:
    return authority.issue("node")


@pytest.fixture
def pacs(authority: Authority) -> TlsSettings:
    return authority.issue("pacs")


@pytest.fixture
def start(files: FileStore, node: TlsSettings) -> Iterator[Start]:
    """Start our SCP with TLS; its port."""
    running: list[StorageScp] = []

    def begin(**settings: object) -> int:
        ours = NodeSettings.model_validate({"host": "127.0.0.1", "port": 0, **settings})
        running.append(StorageScp(ours, (), files, 0, lambda *_: None, secured=tls.acceptor(node)))
        running[-1].start()
        return running[-1].port

    yield begin
    for one in running:
        one.stop()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.dcm"
    phantom.dataset(1, rows=512, columns=400).save_as(path, enforce_file_format=True)
    return path


def run(program: Path, *options: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), "-v", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_our_own_two_sides_understand_each_other(
    start: Start,
    files: FileStore,
    node: TlsSettings,
    image: Path,
    version: ssl.TLSVersion,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = tls.requestor

    def of_one_version(credentials: TlsSettings) -> ssl.SSLContext:
        context = made(credentials)
        context.minimum_version = context.maximum_version = version
        return context

    monkeypatch.setattr(tls, "requestor", of_one_version)
    for host in ("127.0.0.1", "localhost"):
        to = destination(start(), node, host)
        assert [outcome.status for outcome in dimse.store(to, "SENDER", [image] * 3)] == [0, 0, 0]
    assert dcmread(files.spooled()[0].path) == dcmread(image)


def test_dcmtk_sends_to_us_with_a_certificate(
    start: Start, files: FileStore, pacs: TlsSettings, image: Path, tool: Callable[[str], Path]
) -> None:
    port = start()
    assert run(tool("echoscu"), *arguments(pacs), "127.0.0.1", port).returncode == 0
    sent = run(tool("storescu"), *arguments(pacs), "127.0.0.1", port, image)
    assert sent.returncode == 0, sent.stderr
    assert len(files.spooled()) == 1


@pytest.mark.parametrize("who", ["nobody", "stranger", "plain"])
def test_who_shows_no_certificate_of_the_authority_stays_out(
    start: Start,
    files: FileStore,
    stranger: Authority,
    authority: Authority,
    image: Path,
    who: str,
    tool: Callable[[str], Path],
) -> None:
    port = start()
    unknown = stranger.issue("unknown", trusts=authority)
    options: dict[str, Sequence[object]] = {
        "nobody": ["+tla", "+cf", authority.path],
        "stranger": arguments(unknown),
        "plain": [],
    }
    assert run(tool("storescu"), *options[who], "127.0.0.1", port, image).returncode != 0
    assert files.spooled() == []


def test_a_peer_that_says_nothing_holds_up_nobody(start: Start, node: TlsSettings) -> None:
    port = start()
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01"
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as silent,
        socket.create_connection(("127.0.0.1", port), timeout=30) as halfway,
    ):
        halfway.sendall(hello)
        echo(destination(port, node), "SENDER")
        echo(destination(port, node), "SENDER")
        assert silent.gettimeout()


def test_stopping_hangs_up_in_the_middle_of_a_handshake(
    files: FileStore, node: TlsSettings, wait_until: Callable[..., None]
) -> None:
    ours = NodeSettings(host="127.0.0.1", port=0)
    scp = StorageScp(ours, (), files, 0, lambda *_: None, secured=tls.acceptor(node))
    scp.start()
    before = threading.active_count()
    with socket.create_connection(("127.0.0.1", scp.port), timeout=30) as halfway:
        halfway.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01")
        wait_until(lambda: threading.active_count() > before)
        scp.stop()
        assert halfway.recv(64) == b""


def answers(to: Destination) -> bool:
    try:
        echo(to, "SENDER")
    except DeliveryError:
        return False
    return True


@pytest.mark.parametrize("how", ["close", "HTTP", "half a handshake", "whole handshake"])
def test_probes_take_no_place_and_leave_nothing_behind(
    start: Start, node: TlsSettings, wait_until: Callable[..., None], how: str
) -> None:
    port = start(max_associations=5)
    threads, handles = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(40):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            if how == "HTTP":
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            elif how == "half a handshake":
                connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01")
            elif how == "whole handshake":
                tls.requestor(node).wrap_socket(connection, server_hostname="127.0.0.1").close()
    # Some may stand in the queue of the port yet, where nothing is seen of them: behind them it is our turn.
    wait_until(lambda: answers(destination(port, node)), 20)
    wait_until(lambda: threading.active_count() <= threads, 20)
    wait_until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= handles, 20)
    echo(destination(port, node), "SENDER")


def test_why_a_peer_was_refused_stands_in_the_log(
    start: Start, stranger: Authority, authority: Authority
) -> None:
    port = start()
    with structlog.testing.capture_logs() as logs:
        for ours in (stranger.issue("unknown", trusts=authority), None):
            with pytest.raises(DeliveryError):
                echo(destination(port, ours), "SENDER")
    told = {line["why"] for line in logs if line["event"] == "tls_refused"}
    assert {"unable to get local issuer certificate", "wrong version number"} <= told


def test_the_role_receive_listens_as_the_file_says(
    node: TlsSettings, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    """Relative paths are relative to the file; the destination's side is secured by the same section."""
    for key, path in node:
        if isinstance(path, Path):
            shutil.copy(path, tmp_path / key)
    (tmp_path / "config.toml").write_text(
        '[node]\nhost = "127.0.0.1"\nport = 0\n'
        '[tls]\ncertificate = "certificate"\nkey = "key"\nca = "ca"\nreceive = true\n'
        '[[destinations]]\nname = "ourselves"\nae_title = "PACSNODE"\nhost = "127.0.0.1"\ntls = true\n'
    )
    settings = config.load(tmp_path / "config.toml")
    stop = threading.Event()
    role = threading.Thread(target=receive, args=(settings, stop))
    role.start()
    try:
        with closing(open_database(settings.database_url)) as database:
            wait_until(lambda: [one for one in processes.running(database) if one.ready])
            port = int(processes.running(database)[0].address.rpartition(":")[2])
        ourselves = settings.destinations[0]
        echo(ourselves.model_copy(update={"port": port}), "NODE")
        with pytest.raises(DeliveryError, match="this port requires TLS"):
            echo(ourselves.model_copy(update={"port": port, "tls": False}), "NODE")
    finally:
        stop.set()
        role.join()


def test_orthanc_in_both_directions(
    start: Start,
    files: FileStore,
    node: TlsSettings,
    pacs: TlsSettings,
    image: Path,
    tmp_path: Path,
    make_orthanc: MakeOrthanc,
    wait_until: Callable[..., None],
) -> None:
    port = start()
    modality = {"AET": "PACSNODE", "Host": "127.0.0.1", "Port": port, "UseDicomTls": True}
    server = make_orthanc(
        tmp_path / "orthanc",
        DicomTlsEnabled=True,
        DicomTlsCertificate=str(pacs.certificate),
        DicomTlsPrivateKey=str(pacs.key),
        DicomTlsTrustedCertificates=str(pacs.ca),
        DicomModalities={"node": modality},
    )
    server.start()
    try:
        to = destination(server.address.port, node)
        echo(to, "PACSNODE")
        assert [outcome.status for outcome in dimse.store(to, "PACSNODE", [image])] == [0]
        (instance,) = server.rest.get("/instances")
        server.rest.post("/modalities/node/store", [instance])
        wait_until(files.spooled)
        with pytest.raises(DeliveryError, match="this port requires TLS"):
            echo(destination(server.address.port, None), "PACSNODE")
    finally:
        server.stop()
