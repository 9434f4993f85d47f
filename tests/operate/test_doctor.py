"""`doctor` names the true cause: each fault is planted, and nothing else may be blamed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from certificates import Authority
from pynetdicom import AE, StoragePresentationContexts, evt
from untrained import write_package

from pacs_node import config, tls
from pacs_node.demo import phantom
from pacs_node.files import FileStore
from pacs_node.journal import intake, roles
from pacs_node.journal.database import Database, open_database
from pacs_node.operate.doctor import Check, examination
from pacs_node.records import Arrival, RunningRole

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
        handlers: list[evt.EventHandlerType] = [(evt.EVT_C_FIND, lambda _: iter([(0x0000, None)]))]
        servers.append(
            ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=context)
        )
        return int(servers[-1].server_address[1])

    yield begin
    for server in servers:
        server.shutdown()


def settings(folder: Path, port: int = 0, text: str = "") -> config.Settings:
    """Settings with a PACS at that port (0: none), and a text after that; min_free_gb is out of the way."""
    pacs = f'[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {port}\n'
    peers = '[[peers]]\nname = "pacs"\nae_title = "PACS"\n'
    path = folder / "config.toml"
    least = "" if "min_free_gb" in text else "[storage]\nmin_free_gb = 0\n"
    own = '[node]\nhost = "127.0.0.1"\nport = 0\n[web]\nport = 0\n'
    path.write_text(own + least + peers + (pacs if port else "") + text, encoding="utf-8")
    return config.load(path)


def examine(settings: config.Settings, *wanted: str) -> list[Check]:
    """The checks of these steps; without any named, all but the slow ones about the model."""
    image = phantom.dataset(1, rows=256, columns=200)
    with closing(Database(settings.database_url)) as database:
        steps = examination.steps(settings, "config.toml", database, image)
        chosen = [
            one for one in steps if one.what in wanted or not (wanted or one.what in ("decoders", "model"))
        ]
        return [check for step in chosen for check in step.run()]


def failed(checks: list[Check]) -> list[tuple[str, str]]:
    return [(check.what, check.found) for check in checks if check.state == "fail"]


def only_fault(checks: list[Check]) -> Check:
    (fault,) = [check for check in checks if check.state == "fail"]
    return fault


def test_where_all_is_well_nothing_is_blamed(tmp_path: Path, listen: Listen) -> None:
    checks = examine(settings(tmp_path, listen()))
    assert failed(checks) == []
    told = {check.what: check for check in checks}
    assert "answers PACSNODE" in told["pacs: C-ECHO"].found
    assert "it takes Comprehensive SR" in told["pacs: C-STORE"].found
    assert "AE title PACSNODE, host 127.0.0.1" in told["pacs: its side"].found


def test_1_a_wrong_called_ae_title(tmp_path: Path, listen: Listen) -> None:
    fault = only_fault(examine(settings(tmp_path, listen(ae_title="OTHER", require_called_aet=True))))
    assert fault.what == "pacs: C-ECHO"
    assert "it does not answer to the AE title that we call, PACS" in fault.found


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
    assert "it does not know our calling AE title PACSNODE" in fault.found


def test_a_pacs_that_takes_no_reports(tmp_path: Path, listen: Listen) -> None:
    contexts = [one for one in StoragePresentationContexts if "SR" not in one.abstract_syntax.name]
    port = listen()
    made = settings(tmp_path, port)
    ae = AE(ae_title="PACS")
    ae.supported_contexts = contexts
    ae.add_supported_context(VERIFICATION)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    one = made.destinations[0].model_copy(update={"port": server.server_address[1]})
    fault = only_fault(examine(made.model_copy(update={"destinations": (one,)})))
    server.shutdown()
    assert (fault.what, fault.found) == ("pacs: C-STORE", "it takes no Comprehensive SR Storage")


@pytest.mark.parametrize(("share", "state"), [(2.0, "fail"), (0.7, "warn"), (0.3, "ok")])
def test_4_a_disk_that_is_nearly_full(tmp_path: Path, share: float, state: str) -> None:
    least = shutil.disk_usage(tmp_path).free / 1e9 * share
    checks = examine(settings(tmp_path, text=f"[storage]\nmin_free_gb = {least}\n"))
    (space,) = [check for check in checks if check.what == "free space"]
    assert space.state == state
    assert failed(checks) == ([(space.what, space.found)] if state == "fail" else [])
    assert ("every image is refused (0xA700)" in space.found) == (state == "fail")


@pytest.mark.parametrize("fault", ["altered", "gone"])
def test_5_a_model_that_was_altered(tmp_path: Path, fault: str) -> None:
    weights = write_package(tmp_path / "model") / "weights.safetensors"
    made = settings(tmp_path, text='[model]\npath = "model"\n')
    assert failed(examine(made, "model")) == []
    if fault == "altered":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    else:
        weights.unlink()
    found = only_fault(examine(made, "model"))
    assert found.what == "model"
    assert str(weights) in found.found


def run(folder: Path, *arguments: str, **environment: str) -> tuple[int, list[dict[str, str]]]:
    """The command itself; its exit code and what it says as JSON."""
    command = [sys.executable, "-m", "pacs_node", "doctor", "--json", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


HIDE = """
import importlib.metadata, sys
sys.modules["{module}"] = None
found = importlib.metadata.entry_points
def entry_points(**which):
    if not which:
        return found()
    return importlib.metadata.EntryPoints(
        one for one in found(**which) if not one.value.startswith("{module}")
    )
importlib.metadata.entry_points = entry_points
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "words", "advice"),
    [
        ("openjpeg", "cannot be decoded: JPEG 2000 Image Compression", "pylibjpeg-openjpeg"),
        ("rle", "cannot be decoded: RLE Lossless", "pylibjpeg-rle"),
        ("gdcm", "the Python module gdcm is missing", "python-gdcm"),
    ],
)
def test_6_a_missing_decoder(tmp_path: Path, module: str, words: str, advice: str) -> None:
    settings(tmp_path)
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(module=module))
    code, checks = run(tmp_path, PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    (fault, *more) = [check for check in checks if check["state"] == "fail"]
    assert code == 1
    assert fault["what"] == "decoders"
    assert words in fault["found"]
    assert advice in fault["advice"]
    # Without gdcm nothing at all is decoded.
    assert [check["what"] for check in more] == (["model"] if module == "gdcm" else [])


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
    assert f"s {'ahead of' if hours > 0 else 'behind'} our clock" in fault.found
    assert failed(examine(settings(tmp_path, text=stow(web(timedelta()))))) == []


@pytest.mark.parametrize(
    ("minutes", "zone", "state", "words"),
    [
        (60, "", "fail", "acquired up to 60 min in our future"),
        (-61, "", "warn", "none came sooner than 61 min after it"),
        (-3, "", "ok", "the soonest came 3 min after it"),
        (60, "+0000", "fail", "acquired up to 60 min in our future"),
        (-60 * 24 * 30, "", "ok", "not known"),
    ],
)
def test_7_a_clock_off_by_an_hour_against_the_modalities(
    tmp_path: Path, arrival: Callable[..., Arrival], minutes: int, zone: str, state: str, words: str
) -> None:
    made = settings(tmp_path)
    files = FileStore(made.storage.path)
    now = time.time()
    with closing(open_database(made.database_url)) as database:
        for number in range(4):
            image = phantom.dataset(number, rows=64, columns=64)
            moment = datetime.fromtimestamp(now, UTC) + timedelta(minutes=minutes)
            moment = moment if zone else moment.astimezone()
            image.AcquisitionDate, image.AcquisitionTime = f"{moment:%Y%m%d}", f"{moment:%H%M%S.%f}"
            image.Manufacturer = "maker"
            if zone:
                image.TimezoneOffsetFromUTC = zone
            path = tmp_path / "image.dcm"
            image.save_as(path, enforce_file_format=True)
            stored = files.put(path.read_bytes())
            one = arrival(f"1.2.3.{number}", stored.sha256, received_at=now)
            intake.register(database, [one], 60)
    checks = examine(made, "roles and ports")
    (clock,) = [check for check in checks if check.what == "clock of the images"]
    assert clock.state == state
    assert words in clock.found
    assert failed(checks) == ([(clock.what, clock.found)] if state == "fail" else [])


def test_8_a_database_of_a_newer_version(tmp_path: Path) -> None:
    made = settings(tmp_path)
    open_database(made.database_url).close()
    before = examine(made)
    assert failed(before) == []
    with closing(sqlite3.connect(tmp_path / "storage" / "journal.sqlite")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
        connection.commit()
    fault = only_fault(examine(made))
    assert fault.what == "database"
    assert "written by a newer pacs-node: schema 0099" in fault.found
    assert "restore the backup" in fault.advice


def test_9_an_unknown_key_is_the_first_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[node]\nae_titel = "X"\n')
    code, checks = run(tmp_path)
    assert code == 2
    (check,) = checks
    assert (check["what"], check["state"]) == ("configuration", "fail")
    assert "node.ae_titel: unknown key; known here: ae_title" in check["found"]
    shown = subprocess.run(
        [sys.executable, "-m", "pacs_node", "doctor"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 2
    assert shown.stdout.startswith(f"fail configuration: {check['found']}")
    assert shown.stdout.endswith("0 ok, 0 warnings, 1 failed\n")


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
    expected = "it speaks TLS on this port, we do not" if they else "it speaks no TLS on this port"
    assert expected in fault.found


def test_a_certificate_that_ends_soon(tmp_path: Path, listen: Listen, authority: Authority) -> None:
    ours = authority.issue("soon", ends=datetime.now(UTC) + timedelta(days=9))
    files = f'certificate = "{ours.certificate}"\nkey = "{ours.key}"\nca = "{ours.ca}"\n'
    made = settings(tmp_path, listen(tls.acceptor(ours)), f"tls = true\n[tls]\n{files}")
    checks = examine(made)
    assert failed(checks) == []
    (certificate,) = [check for check in checks if check.what == "certificate"]
    assert certificate.state == "warn"


def test_12_a_gpu_that_is_asked_for_and_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_package(tmp_path / "model")
    made = settings(tmp_path, text='[model]\npath = "model"\ndevice = "cuda"\n')
    fault = only_fault(examine(made, "model"))
    assert fault.what == "device"
    assert "torch finds no CUDA device" in fault.found


def test_a_port_that_another_program_holds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        made = settings(tmp_path)
        made = made.model_copy(update={"node": made.node.model_copy(update={"port": port})})
        fault = only_fault(examine(made))
        assert fault.what == "DICOM port"
        assert "another program holds it" in fault.advice
        # Where our own node says that it is there, all is well.
        with closing(open_database(made.database_url)) as database:
            ours = RunningRole("receive", socket.gethostname(), os.getpid(), f"127.0.0.1:{port}", ready=True)
            roles.beat(database, ours)
        assert failed(examine(made)) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "storage").write_text("a file")
    fault = only_fault(examine(settings(tmp_path), "storage"))
    assert fault.what == "storage"


def test_doctor_leaves_nothing_behind(tmp_path: Path) -> None:
    made = settings(tmp_path)
    FileStore(made.storage.path)
    open_database(made.database_url).close()
    before = sorted(tmp_path.rglob("*"))
    examine(made)
    assert sorted(tmp_path.rglob("*")) == before
