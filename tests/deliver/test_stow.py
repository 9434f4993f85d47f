"""STOW-RS to a service that answers on cue: what each answer means."""

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from support import phantom

from pacs_node.config import Destination
from pacs_node.deliver import sender, stow
from pacs_node.errors import DeliveryError
from pacs_node.records import DeliveryState, Reply, SendOutcome

PENDING, SENT, QUARANTINED = DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.QUARANTINED


@dataclass
class Service:
    """An HTTP service: its answers are `(code, body, headers)`, None to hang up, "mute" never to answer."""

    answers: list[tuple[int, bytes, dict[str, str]] | str | None] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        self.requests.append((request.command, request.path, dict(request.headers), body))
        answer = self.answers.pop(0)
        if answer == "mute":
            self.ended.wait(60)
        if not isinstance(answer, tuple):
            request.close_connection = True
            return
        code, content, headers = answer
        request.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def destination(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Destination]:
    # Proxies of the environment must not come between two programs on this machine.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            service.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/dicom-web"
    yield Destination(name="archive", kind="stow", url=url, username="node", password="secret")
    service.ended.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "1.dcm", tmp_path / "2.dcm"]
    for seed, path in enumerate(paths, 1):
        phantom.dataset(seed, rows=64, columns=64).save_as(path, enforce_file_format=True)
    return paths


def uid(path: Path) -> str:
    return str(dcmread(path).SOPInstanceUID)


def told(code: int, keyword: str, sop_instance_uid: str, **reasons: int) -> tuple[int, bytes, dict[str, str]]:
    """An answer with a Store Instances Response Module."""
    item, module = Dataset(), Dataset()
    item.ReferencedSOPInstanceUID = sop_instance_uid
    for name, value in reasons.items():
        setattr(item, name, value)
    setattr(module, keyword, [item])
    # With a parameter, as some services send it.
    headers = {"Content-Type": "application/dicom+json; charset=utf-8"}
    return code, json.dumps(module.to_json_dict()).encode(), headers


def test_a_request_carries_one_file_byte_for_byte(
    service: Service, destination: Destination, paths: list[Path]
) -> None:
    service.answers = [told(200, "ReferencedSOPSequence", uid(path)) for path in paths]
    assert (
        list(stow.store(destination, "NODE", paths)) == [SendOutcome(0, "HTTP 200 OK", Reply.DELIVERED)] * 2
    )
    for path, (method, where, headers, body) in zip(paths, service.requests, strict=True):
        assert (method, where) == ("POST", "/dicom-web/studies")
        assert headers["Host"] == destination.url.split("/")[2]
        assert headers["Authorization"] == f"Basic {base64.b64encode(b'node:secret').decode()}"
        assert headers["Content-Type"].startswith('multipart/related; type="application/dicom"; boundary=')
        boundary = headers["Content-Type"].split("boundary=")[1].strip('"').encode()
        _, part, end = body.split(b"--" + boundary)
        head, _, content = part.partition(b"\r\n\r\n")
        assert head == b"\r\nContent-Type: application/dicom"
        assert content.removesuffix(b"\r\n") == path.read_bytes()
        assert end == b"--"


@pytest.mark.parametrize(
    ("code", "keyword", "reasons", "status", "state"),
    [
        (200, "ReferencedSOPSequence", {}, 0x0000, SENT),
        (202, "ReferencedSOPSequence", {"WarningReason": 0xB000}, 0xB000, SENT),
        (202, "FailedSOPSequence", {"FailureReason": 0xA700}, 0xA700, PENDING),
        (409, "FailedSOPSequence", {"FailureReason": 0x0110}, 0x0110, PENDING),
        (409, "FailedSOPSequence", {"FailureReason": 0x0122}, 0x0122, QUARANTINED),
        (409, "FailedSOPSequence", {"FailureReason": 0xA901}, 0xA901, QUARANTINED),
        (409, "FailedSOPSequence", {"FailureReason": 0xC122}, 0xC122, QUARANTINED),
        (409, "FailedSOPSequence", {"FailureReason": 0x0111}, 0x0111, QUARANTINED),
        (409, "OtherFailuresSequence", {"FailureReason": 0xA700}, 0xA700, PENDING),
        # Numbers that mean success or a warning elsewhere: nothing in a sequence of failures was stored.
        (409, "FailedSOPSequence", {"FailureReason": 0xB00F}, 0xB00F, PENDING),
        (202, "FailedSOPSequence", {"FailureReason": 0xB007}, 0xB007, PENDING),
        (200, "FailedSOPSequence", {"FailureReason": 0xB000}, 0xB000, PENDING),
        (409, "FailedSOPSequence", {"FailureReason": 0xB00E}, 0xB00E, QUARANTINED),
        (200, "FailedSOPSequence", {"FailureReason": 0x0001}, 0x0001, PENDING),
        (200, "FailedSOPSequence", {"FailureReason": 0x0000}, 0x0000, PENDING),
        (200, "FailedSOPSequence", {}, None, PENDING),
        (200, "OtherFailuresSequence", {"FailureReason": 0x0107}, 0x0107, PENDING),
    ],
)
def test_what_is_told_of_an_object_counts(
    service: Service,
    destination: Destination,
    paths: list[Path],
    code: int,
    keyword: str,
    reasons: dict[str, int],
    status: int | None,
    state: DeliveryState,
) -> None:
    service.answers = [told(code, keyword, uid(paths[0]), **reasons)]
    (outcome,) = stow.store(destination, "NODE", paths[:1])
    assert outcome.status == status
    assert sender.judge(outcome, 1) == state


@pytest.mark.parametrize(
    ("code", "body", "headers", "state", "words"),
    [
        (200, b"", {}, SENT, "HTTP 200"),
        (200, b"<NativeDicomModel/>", {"Content-Type": "application/dicom+xml"}, SENT, "HTTP 200"),
        (200, b"<html>log in</html>", {"Content-Type": "text/html"}, PENDING, "is that a STOW-RS service?"),
        (200, b"[1, 2]", {"Content-Type": "application/json"}, PENDING, "is that a STOW-RS service?"),
        (202, b"", {}, PENDING, "does not name the object"),
        (
            200,
            b'<NativeDicomModel><DicomAttribute tag="00081198" vr="SQ"/></NativeDicomModel>',
            {"Content-Type": "application/dicom+xml"},
            PENDING,
            "does not name the object",
        ),
        (302, b"", {"Location": "/elsewhere"}, PENDING, "set the url"),
        (400, b"", {}, QUARANTINED, "HTTP 400"),
        (401, b"", {}, PENDING, "user name or the password"),
        (403, b"", {}, PENDING, "may not store"),
        (404, b"", {}, PENDING, "check the url"),
        (409, b"", {}, QUARANTINED, "HTTP 409"),
        (413, b"", {}, QUARANTINED, "HTTP 413"),
        (415, b"", {}, QUARANTINED, "HTTP 415"),
        (429, b"", {}, PENDING, "HTTP 429"),
        (500, b"", {}, PENDING, "HTTP 500"),
        (503, b"", {}, PENDING, "HTTP 503"),
        (599, b"", {}, PENDING, "HTTP 599"),
    ],
)
def test_what_is_told_by_the_http_status_alone(
    service: Service,
    destination: Destination,
    paths: list[Path],
    code: int,
    body: bytes,
    headers: dict[str, str],
    state: DeliveryState,
    words: str,
) -> None:
    service.answers = [(code, body, headers)]
    (outcome,) = stow.store(destination, "NODE", paths[:1])
    assert sender.judge(outcome, 1) == state
    assert words in outcome.comment
    assert len(service.requests) == 1


def test_an_answer_about_another_object_is_no_success(
    service: Service, destination: Destination, paths: list[Path]
) -> None:
    service.answers = [told(200, "ReferencedSOPSequence", uid(paths[1]))]
    (outcome,) = stow.store(destination, "NODE", paths[:1])
    assert sender.judge(outcome, 1) == PENDING


@pytest.mark.parametrize(("answer", "kind"), [(None, "ConnectionError"), ("mute", "ReadTimeout")])
def test_a_service_that_does_not_answer_has_the_rest_sent_later(
    service: Service,
    destination: Destination,
    paths: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    answer: str | None,
    kind: str,
) -> None:
    monkeypatch.setattr(stow, "ANSWER_SECONDS", 0.5)
    service.answers = [told(200, "ReferencedSOPSequence", uid(paths[0])), answer]
    answers = stow.store(destination, "NODE", paths)
    assert next(answers).status == 0
    with pytest.raises(DeliveryError, match=f"archive .* cannot be reached: {kind}") as error:
        next(answers)
    assert "secret" not in str(error.value)
    assert len(service.requests) == 2


@settings(max_examples=60, deadline=None)
@given(code=st.sampled_from([200, 202, 400, 409, 500]), reason=st.integers(0, 0xFFFF), both=st.booleans())
def test_an_object_named_as_failed_is_never_sent_at_its_first_attempt(
    code: int, reason: int, both: bool
) -> None:
    _, body, headers = told(code, "FailedSOPSequence", "1.2.3", FailureReason=reason)
    if both:
        _, stored, _ = told(code, "ReferencedSOPSequence", "1.2.3")
        body = json.dumps(json.loads(stored) | json.loads(body)).encode()
    answer = requests.Response()
    answer.status_code, answer._content = code, body
    answer.headers.update(headers)
    outcome = stow._outcome(answer, "1.2.3")
    assert sender.judge(outcome, 1) != SENT
    assert f"HTTP {code}: FailedSOPSequence, FailureReason 0x{reason:04X}" in outcome.comment


@pytest.mark.parametrize("value", [[], [None], ["B00F"], [70000], [1.5]])
def test_a_failure_without_a_usable_reason_is_a_failure(
    service: Service, destination: Destination, paths: list[Path], value: list[object]
) -> None:
    item = {"00081155": {"vr": "UI", "Value": [uid(paths[0])]}, "00081197": {"vr": "US", "Value": value}}
    body = {
        "00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid(paths[0])]}}]},
        "00081198": {"vr": "SQ", "Value": [item]},
    }
    service.answers = [(200, json.dumps(body).encode(), {"Content-Type": "application/dicom+json"})]
    (outcome,) = stow.store(destination, "NODE", paths[:1])
    assert sender.judge(outcome, 2) == PENDING


def test_a_module_in_an_array_is_read(service: Service, destination: Destination, paths: list[Path]) -> None:
    code, body, headers = told(200, "ReferencedSOPSequence", uid(paths[0]))
    service.answers = [(code, b"[" + body + b"]", headers)]
    assert [outcome.reply for outcome in stow.store(destination, "NODE", paths[:1])] == [Reply.DELIVERED]


@pytest.mark.parametrize(("header", "seconds"), [("120", 120.0), ("soon", 0.0), ("", 0.0)])
def test_retry_after_is_obeyed(
    service: Service, destination: Destination, paths: list[Path], header: str, seconds: float
) -> None:
    service.answers = [(503, b"", {"Retry-After": header})]
    (outcome,) = stow.store(destination, "NODE", paths[:1])
    assert (outcome.reply, outcome.retry_after) == (Reply.LATER, seconds)


def test_retry_after_may_be_a_date(service: Service, destination: Destination, paths: list[Path]) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    service.answers = [(429, b"", {"Retry-After": later})]
    (outcome,) = stow.store(destination, "NODE", paths[:1])
    assert 3000 < outcome.retry_after <= 3600
