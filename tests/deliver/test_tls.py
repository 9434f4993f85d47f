"""Destinations over TLS: dcmtk, Orthanc and STOW-RS; what does not match is named."""

import datetime
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pynetdicom import AE, AllStoragePresentationContexts, evt
from support import phantom
from support.certificates import Authority, arguments, destination
from support.scripted_pacs import listen

from pacs_node.config import Destination, TlsSettings
from pacs_node.deliver import dimse, stow
from pacs_node.deliver.sender import echo
from pacs_node.dicom import tls
from pacs_node.errors import ConfigError, DeliveryError

VERIFICATION = "1.2.840.10008.1.1"
PAST = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def node(authority: Authority) -> TlsSettings:
    return authority.issue("node")


@pytest.fixture
def pacs(authority: Authority) -> TlsSettings:
    return authority.issue("pacs")


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

    def begin(context: ssl.SSLContext | None) -> int:
        server = listen(ae, (evt.EVT_C_STORE, lambda _: 0x0000), context=context)
        return int(server.server_address[1])

    yield begin
    ae.shutdown()


def test_results_go_to_dcmtk_over_tls(
    node: TlsSettings,
    pacs: TlsSettings,
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


@pytest.mark.parametrize(
    ("who", "words"),
    [
        ("PACS plain, we TLS", "no TLS on this port: set `tls = false`"),
        ("PACS TLS, we plain", "this port requires TLS: set `tls = true`"),
        ("PACS of a stranger", "not accepted by `tls.ca`: unable to get local issuer certificate"),
        ("PACS of another host", "not accepted by `tls.ca`: IP address mismatch"),
        ("PACS expired", "not accepted by `tls.ca`: certificate has expired"),
        ("we of a stranger", "it rejects this node (tlsv1 alert unknown ca)"),
        ("we without certificate", "it rejects this node (tlsv13 alert certificate required)"),
    ],
)
def test_what_does_not_match_is_told_in_plain_words(
    listening: Callable[[ssl.SSLContext | None], int],
    authority: Authority,
    stranger: Authority,
    who: str,
    words: str,
) -> None:
    theirs: TlsSettings | None = authority.issue("theirs")
    ours: TlsSettings | None = authority.issue("ours")
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
            ours = TlsSettings(ca=authority.path)
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


def test_a_destination_that_does_not_know_its_certificates_is_never_asked_without() -> None:
    with pytest.raises(ConfigError, match=r"destinations\.pacs\.tls"):
        echo(Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=1, tls=True), "NODE")


def test_stow_trusts_the_authority_and_shows_our_certificate(
    authority: Authority,
    stranger: Authority,
    node: TlsSettings,
    pacs: TlsSettings,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    shown: list[object] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert isinstance(self.connection, ssl.SSLSocket)
            shown.append(self.connection.getpeercert())
            self.send_response(204)
            self.end_headers()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
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
        assert [outcome.status for outcome in stow.store(made.secured_by(node), "NODE", [image])] == [0]
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
