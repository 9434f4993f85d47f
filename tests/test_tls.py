"""DICOM over TLS in both directions, with pynetdicom, dcmtk and Orthanc on the other side."""

import datetime
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import structlog
from certificates import Authority
from pydicom import dcmread
from pynetdicom import AE, AllStoragePresentationContexts, evt

from pacs_node import tls
from pacs_node.config import Destination, Node, Tls
from pacs_node.deliver import dimse
from pacs_node.deliver.echo import echo
from pacs_node.demo import phantom
from pacs_node.demo.pacs import Address, Orthanc
from pacs_node.errors import ConfigError, DeliveryError
from pacs_node.files import FileStore
from pacs_node.receive.scp import StorageScp

Start = Callable[..., int]
VERIFICATION = "1.2.840.10008.1.1"
PAST = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "storage")


@pytest.fixture
def node(authority: Authority) -> Tls:
    return authority.issue("node")


@pytest.fixture
def pacs(authority: Authority) -> Tls:
    return authority.issue("pacs")


@pytest.fixture
def start(files: FileStore, node: Tls) -> Iterator[Start]:
    """Start our SCP with TLS; its port."""
    running: list[StorageScp] = []

    def begin(**settings: object) -> int:
        ours = Node.model_validate({"host": "127.0.0.1", "port": 0, **settings})
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


@pytest.fixture
def listening() -> Iterator[Callable[[ssl.SSLContext | None], int]]:
    """Start a PACS of pynetdicom, with TLS or without; its port."""
    ae = AE(ae_title="PACS")
    ae.supported_contexts = AllStoragePresentationContexts
    ae.add_supported_context(VERIFICATION)
    handlers: list[evt.EventHandlerType] = [(evt.EVT_C_STORE, lambda _: 0x0000)]

    def begin(context: ssl.SSLContext | None) -> int:
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=context)
        return int(server.server_address[1])

    yield begin
    ae.shutdown()


def destination(port: int, credentials: Tls | None, host: str = "127.0.0.1") -> Destination:
    made = Destination(name="pacs", ae_title="PACS", host=host, port=port, tls=credentials is not None)
    return made.secured_by(credentials or Tls())


def arguments(credentials: Tls) -> list[str]:
    """dcmtk's options for a certificate of one's own."""
    return ["+tls", str(credentials.key), str(credentials.certificate), "+cf", str(credentials.ca)]


def run(program: Path, *options: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), "-v", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_our_own_two_sides_understand_each_other(
    start: Start,
    files: FileStore,
    node: Tls,
    image: Path,
    version: ssl.TLSVersion,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = tls.requestor

    def of_one_version(credentials: Tls) -> ssl.SSLContext:
        context = made(credentials)
        context.minimum_version = context.maximum_version = version
        return context

    monkeypatch.setattr(tls, "requestor", of_one_version)
    for host in ("127.0.0.1", "localhost"):
        to = destination(start(), node, host)
        assert [outcome.status for outcome in dimse.store(to, "SENDER", [image] * 3)] == [0, 0, 0]
    assert dcmread(files.spooled()[0].path) == dcmread(image)


def test_dcmtk_sends_to_us_with_a_certificate(
    start: Start, files: FileStore, pacs: Tls, image: Path, tool: Callable[[str], Path]
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
    options = {"nobody": ["+tla", "+cf", authority.path], "stranger": arguments(unknown), "plain": []}[who]
    assert run(tool("storescu"), *options, "127.0.0.1", port, image).returncode != 0
    assert files.spooled() == []


def test_a_peer_that_says_nothing_holds_up_nobody(start: Start, node: Tls) -> None:
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
    files: FileStore, node: Tls, wait_until: Callable[..., None]
) -> None:
    ours = Node(host="127.0.0.1", port=0)
    scp = StorageScp(ours, (), files, 0, lambda *_: None, secured=tls.acceptor(node))
    scp.start()
    before = threading.active_count()
    with socket.create_connection(("127.0.0.1", scp.port), timeout=30) as halfway:
        halfway.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01")
        wait_until(lambda: threading.active_count() > before)
        scp.stop()
        assert halfway.recv(64) == b""


@pytest.mark.parametrize("how", ["close", "HTTP", "half a handshake", "whole handshake"])
def test_probes_take_no_place_and_leave_nothing_behind(
    start: Start, node: Tls, wait_until: Callable[..., None], how: str
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
    wait_until(lambda: threading.active_count() <= threads, 20)
    wait_until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= handles, 20)
    echo(destination(port, node), "SENDER")


def test_results_go_to_dcmtk_over_tls(
    node: Tls,
    pacs: Tls,
    image: Path,
    tmp_path: Path,
    tool: Callable[[str], Path],
    free_port: Callable[[], int],
    wait_until: Callable[..., None],
) -> None:
    port, received = free_port(), tmp_path / "received"
    received.mkdir()
    command = [tool("storescp"), *arguments(pacs), "-od", received, "-aet", "PACS", port]
    with subprocess.Popen([str(part) for part in command]) as storescp:
        to = destination(port, node)

        def answers() -> bool:
            try:
                echo(to, "NODE")
            except DeliveryError:
                return False
            return True

        wait_until(answers)
        assert [outcome.status for outcome in dimse.store(to, "NODE", [image])] == [0]
        storescp.terminate()
    assert len(list(received.iterdir())) == 1


def test_orthanc_in_both_directions(
    start: Start,
    files: FileStore,
    node: Tls,
    pacs: Tls,
    image: Path,
    tmp_path: Path,
    tool: Callable[[str], Path],
    free_port: Callable[[], int],
    wait_until: Callable[..., None],
) -> None:
    port = start()
    modality = {"AET": "PACSNODE", "Host": "127.0.0.1", "Port": port, "UseDicomTls": True}
    server = Orthanc(
        tmp_path / "orthanc",
        Address("PACSNODE", "127.0.0.1", port),
        command=[str(tool("Orthanc"))],
        ports=(free_port(), free_port()),
        settings={
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(pacs.certificate),
            "DicomTlsPrivateKey": str(pacs.key),
            "DicomTlsTrustedCertificates": str(pacs.ca),
            "DicomModalities": {"node": modality},
        },
    )
    server.start()
    try:
        to = destination(server.address.port, node)
        echo(to, "PACSNODE")
        assert [outcome.status for outcome in dimse.store(to, "PACSNODE", [image])] == [0]
        (instance,) = server.rest.get("/instances")
        server.rest.post("/modalities/node/store", [instance])
        wait_until(files.spooled)
        with pytest.raises(DeliveryError, match="it speaks TLS on this port"):
            echo(destination(server.address.port, None), "PACSNODE")
    finally:
        server.stop()


def acceptor(credentials: Tls, *, ours: bool = True) -> ssl.SSLContext:
    """What the other side listens with; without `ours`, it asks for no certificate."""
    context = tls.acceptor(credentials)
    if not ours:
        context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize(
    ("who", "words"),
    [
        ("PACS plain, we TLS", "it speaks no TLS on this port: set `tls = false`"),
        ("PACS TLS, we plain", "it speaks TLS on this port, we do not: set `tls = true`"),
        ("PACS of a stranger", "not accepted by `tls.ca`: unable to get local issuer certificate"),
        ("PACS of another host", "not accepted by `tls.ca`: IP address mismatch"),
        ("PACS expired", "not accepted by `tls.ca`: certificate has expired"),
        ("we of a stranger", "it refuses us (tlsv1 alert unknown ca)"),
        ("we without certificate", "it refuses us (tlsv13 alert certificate required)"),
    ],
)
def test_what_does_not_match_is_told_in_plain_words(
    listening: Callable[[ssl.SSLContext | None], int],
    authority: Authority,
    stranger: Authority,
    who: str,
    words: str,
) -> None:
    theirs: Tls | None = authority.issue("theirs")
    ours: Tls | None = authority.issue("ours")
    match who:
        case "PACS plain, we TLS":
            theirs = None
        case "PACS TLS, we plain":
            ours = None
        case "PACS of a stranger":
            theirs = stranger.issue("theirs", trusts=authority)
        case "PACS of another host":
            theirs = authority.issue("theirs", "192.0.2.1")
        case "PACS expired":
            theirs = authority.issue("theirs", ends=PAST)
        case "we of a stranger":
            ours = stranger.issue("ours", trusts=authority)
        case "we without certificate":
            ours = Tls(ca=authority.path)
    port = listening(tls.acceptor(theirs) if theirs else None)
    with pytest.raises(DeliveryError) as told:
        echo(destination(port, ours), "NODE")
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("key", "fault"),
    [(key, fault) for key in ("ca", "certificate", "key") for fault in ("absent", "no PEM")]
    + [("key", "encrypted"), ("key", "another's")],
)
def test_files_that_cannot_be_used_are_named_by_their_key(
    authority: Authority, tmp_path: Path, tool: Callable[[str], Path], key: str, fault: str
) -> None:
    good = authority.issue("good")
    bad = tmp_path / "bad.pem"
    if fault == "no PEM":
        bad.write_text("nothing")
    elif fault == "encrypted":
        options = ["-in", good.key, "-aes128", "-passout", "pass:x", "-out", bad]
        subprocess.run([str(part) for part in (tool("openssl"), "pkey", *options)], check=True)
    elif fault == "another's":
        bad = authority.issue("other").key or bad
    with pytest.raises(ConfigError, match=rf"^tls\.{key}: .*"):
        tls.acceptor(good.model_copy(update={key: bad}))


def test_our_own_certificate_is_judged_as_a_peer_would(authority: Authority, stranger: Authority) -> None:
    ends = datetime.datetime(2060, 5, 1, tzinfo=datetime.UTC)
    assert tls.expiry(authority.issue("long", ends=ends)) == ends
    with pytest.raises(ConfigError, match="certificate has expired"):
        tls.expiry(authority.issue("old", ends=PAST))
    with pytest.raises(ConfigError, match="unable to get local issuer certificate"):
        tls.expiry(stranger.issue("unknown", trusts=authority))


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


def test_a_destination_that_does_not_know_its_certificates_is_never_asked_without() -> None:
    with pytest.raises(ConfigError, match=r"destinations\.pacs\.tls"):
        echo(Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=1, tls=True), "NODE")


def test_stow_trusts_the_authority_and_shows_our_certificate(
    authority: Authority, stranger: Authority, node: Tls, pacs: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    shown: list[object] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert isinstance(self.connection, ssl.SSLSocket)
            shown.append(self.connection.getpeercert())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    context = tls.acceptor(pacs)
    server.socket = ssl.SSLContext.wrap_socket(context, server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        made = Destination(
            name="web", kind="stow", url=f"https://127.0.0.1:{server.server_port}/dicom-web", tls=True
        )
        echo(made.secured_by(node), "NODE")
        assert shown[0]
        for other in (
            stranger.issue("node", trusts=authority),
            node.model_copy(update={"ca": stranger.path}),
        ):
            with pytest.raises(DeliveryError, match="cannot be reached: SSLError"):
                echo(made.secured_by(other), "NODE")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
