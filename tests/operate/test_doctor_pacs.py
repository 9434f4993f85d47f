"""`doctor` names the true cause: faults between the node and a PACS, each the only one that is blamed."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydicom.uid import UID
from pynetdicom import AE, StoragePresentationContexts, _config, evt
from support import scripted_pacs
from support.certificates import Authority
from support.doctor_checks import examine, failed, only_fault, settings

from pacs_node.dicom import tls

VERIFICATION = "1.2.840.10008.1.1"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
Listen = Callable[..., int]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Start a PACS that takes results, C-ECHO and C-FIND; its port."""
    servers = []

    def begin(context: ssl.SSLContext | None = None, **rules: object) -> int:
        ae = AE(ae_title="PACS")
        ae.supported_contexts = StoragePresentationContexts
        ae.add_supported_context(VERIFICATION)
        ae.add_supported_context(FIND)
        for name, value in rules.items():
            setattr(ae, name, value)
        servers.append(
            scripted_pacs.listen(ae, (evt.EVT_C_FIND, lambda _: iter([(0x0000, None)])), context=context)
        )
        return int(servers[-1].server_address[1])

    yield begin
    for server in servers:
        server.shutdown()


def test_where_all_is_well_nothing_is_blamed(tmp_path: Path, listen: Listen) -> None:
    checks = examine(settings(tmp_path, listen()))
    assert failed(checks) == []
    told = {check.what: check for check in checks}
    assert "answers PACSNODE" in told["pacs: C-ECHO"].found
    assert "it accepts Comprehensive SR" in told["pacs: C-STORE"].found
    assert "AE title PACSNODE, host 127.0.0.1" in told["pacs: its side"].found


def test_1_a_wrong_called_ae_title(tmp_path: Path, listen: Listen) -> None:
    fault = only_fault(examine(settings(tmp_path, listen(ae_title="OTHER", require_called_aet=True))))
    assert fault.what == "pacs: C-ECHO"
    assert "called AE title PACS not recognized" in fault.found


def test_2_a_closed_port(tmp_path: Path, free_port: Callable[[], int]) -> None:
    port = free_port()
    fault = only_fault(examine(settings(tmp_path, port)))
    assert f"port {port} is closed" in fault.found


def test_a_host_that_nobody_knows(tmp_path: Path) -> None:
    made = settings(tmp_path, 104)
    one = made.destinations[0].model_copy(update={"host": "pacs.invalid"})
    fault = only_fault(examine(made.model_copy(update={"destinations": (one,)})))
    assert "the host name pacs.invalid is not known" in fault.found


def test_3_a_pacs_that_refuses_us(tmp_path: Path, listen: Listen) -> None:
    fault = only_fault(examine(settings(tmp_path, listen(require_calling_aet=["SOMEBODY"]))))
    assert "calling AE title PACSNODE not recognized" in fault.found


def test_a_pacs_that_takes_no_reports(
    tmp_path: Path, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Our own SCP sets it, for the whole process.
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)
    contexts = [
        one for one in StoragePresentationContexts if "SR" not in (one.abstract_syntax or UID("")).name
    ]
    port = listen()
    made = settings(tmp_path, port)
    ae = AE(ae_title="PACS")
    ae.supported_contexts = contexts
    ae.add_supported_context(VERIFICATION)
    server = scripted_pacs.listen(ae)
    one = made.destinations[0].model_copy(update={"port": server.server_address[1]})
    fault = only_fault(examine(made.model_copy(update={"destinations": (one,)})))
    server.shutdown()
    assert (fault.what, fault.found) == ("pacs: C-STORE", "it does not accept Comprehensive SR Storage")


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[timedelta], int]]:
    """Start a web service whose clock is so far ahead; its port."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def begin(ahead: timedelta) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(204)
                self.end_headers()

            def date_time_string(self, timestamp: float | None = None) -> str:
                return format_datetime(datetime.now(UTC) + ahead, usegmt=True)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        running.append((server, thread))
        return server.server_port

    yield begin
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def stow(port: int) -> str:
    return f'[[destinations]]\nname = "web"\nkind = "stow"\nurl = "http://127.0.0.1:{port}/dicom-web"\n'


@pytest.mark.parametrize("hours", [1, -1])
def test_7_a_clock_off_by_an_hour_against_the_web_service(
    tmp_path: Path, web: Callable[[timedelta], int], hours: int
) -> None:
    fault = only_fault(examine(settings(tmp_path, text=stow(web(timedelta(hours=hours))))))
    assert fault.what == "web: clock"
    assert f"s {'ahead of' if hours > 0 else 'behind'} this machine's clock" in fault.found
    assert failed(examine(settings(tmp_path, text=stow(web(timedelta()))))) == []


def test_10_a_web_service_that_cannot_be_reached(tmp_path: Path, free_port: Callable[[], int]) -> None:
    port = free_port()
    fault = only_fault(examine(settings(tmp_path, text=stow(port))))
    assert fault.what == "web: STOW-RS"
    assert f"port {port} is closed" in fault.found


@pytest.mark.parametrize("they", [True, False])
def test_11_one_side_speaks_tls_and_the_other_does_not(
    tmp_path: Path, listen: Listen, authority: Authority, they: bool
) -> None:
    theirs, ours = authority.issue("theirs"), authority.issue("ours")
    port = listen(tls.acceptor(theirs) if they else None)
    files = f'certificate = "{ours.certificate}"\nkey = "{ours.key}"\nca = "{ours.ca}"\n'
    made = settings(tmp_path, port, f"{'' if they else 'tls = true'}\n[tls]\n{files}")
    fault = only_fault(examine(made))
    assert fault.what == "pacs: C-ECHO"
    expected = "this port requires TLS" if they else "no TLS on this port"
    assert expected in fault.found


def test_a_certificate_that_ends_soon(tmp_path: Path, listen: Listen, authority: Authority) -> None:
    ours = authority.issue("soon", ends=datetime.now(UTC) + timedelta(days=9))
    files = f'certificate = "{ours.certificate}"\nkey = "{ours.key}"\nca = "{ours.ca}"\n'
    made = settings(tmp_path, listen(tls.acceptor(ours)), f"tls = true\n[tls]\n{files}")
    checks = examine(made)
    assert failed(checks) == []
    (certificate,) = [check for check in checks if check.what == "certificate"]
    assert certificate.state == "warn"
