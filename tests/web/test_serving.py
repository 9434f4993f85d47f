"""The role `web` as a process and on the wire."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs
from support.web.people import Door, door
from support.web.site import Site, password

from pacs_node.config import TlsSettings, load
from pacs_node.journal import processes, sessions
from pacs_node.journal.database import Database, open_database
from pacs_node.roles import supervisor
from pacs_node.web import app
from pacs_node.web.users import Users

WaitUntil = Callable[[Callable[[], object], float], None]
Tool = Callable[[str], Path]


@pytest.fixture
def database_kind() -> str:
    """What is served is the same on both."""
    return "sqlite"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration of a node on free ports."""
    path = tmp_path / "config.toml"
    path.write_text('[node]\nhost = "127.0.0.1"\nport = 0\n[storage]\nmin_free_gb = 0\n[web]\nport = 0\n')
    return path


def run(config: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pacs_node", "--config", str(config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, input=given, check=False, timeout=120)


@pytest.mark.slow
def test_pages_that_cannot_be_served_stop_nothing_else(
    config: Path, monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil, capfd: pytest.CaptureFixture[str]
) -> None:
    started = []
    start = supervisor._start

    def counted(role: str, path: Path | None) -> Any:
        started.append(role)
        return start(role, path)

    monkeypatch.setattr(supervisor, "_start", counted)
    monkeypatch.setattr(supervisor, "FIRST_RESTART_SECONDS", 0.01)
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = config.read_text().replace("[web]\nport = 0", f"[web]\nport = {taken.getsockname()[1]}")
        config.write_text(text)
        database = open_database(load(config).database_url)
        thread = threading.Thread(target=supervisor.supervise, args=(config, ["receive", "web"], stop))
        thread.start()
        wait_until(lambda: started.count("web") >= 2, 60)
        wait_until(lambda: [one.role for one in processes.running(database) if one.ready] == ["receive"], 60)
    # Once the port is free, the pages are there.
    wait_until(lambda: "web" in [one.role for one in processes.running(database) if one.ready], 90)
    stop.set()
    thread.join()
    database.close()
    assert "cannot listen on" in capfd.readouterr().err


@pytest.mark.slow
def test_status_names_the_pages(site: Site, config: Path) -> None:
    assert json.loads(site.run("status", "--json"))["web"] == site.url
    assert site.url in site.run("status").replace("\n", "")
    open_database(load(config).database_url).close()
    told = run(config, "status")
    assert (told.returncode, "role web: no pages are served" in told.stdout) == (1, True)


def test_https_with_the_certificate_of_the_settings(
    database: Database, tmp_path: Path, users: Path, tool: Tool
) -> None:
    certificate, key = tmp_path / "node.pem", tmp_path / "node.key"
    command = [
        str(tool("openssl")),
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    tls = {"tls": TlsSettings(certificate=certificate, key=key)}
    with door(database, tmp_path / "storage", users, https=True, **tls) as node:
        assert node.url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=node.url, verify=trust) as client:
            form = {"name": "viewer", "password": password("viewer")}
            answer = client.post("/login", data=form)
            assert "Secure" in answer.headers["set-cookie"]
            assert client.get("/").headers["strict-transport-security"]
        with pytest.raises(httpx.ConnectError), httpx.Client() as client:
            client.get(node.url)


def test_who_listens_for_others_without_encryption_is_told(
    node: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    stop.set()
    for is_loopback, proxies, warned in (
        (True, (), False),
        (False, (), True),
        (False, ("127.0.0.7",), False),
    ):
        address = IPv4Address("127.0.0.1" if is_loopback else "10.0.0.1")
        monkeypatch.setattr(app, "ip_address", lambda _, address=address: address)
        web = node.settings.web.model_copy(update={"trusted_proxies": proxies})
        with capture_logs() as logs:
            app.serve(node.app, node.settings.model_copy(update={"web": web}), lambda _: None, stop)
        assert ("web_not_encrypted" in [one["event"] for one in logs]) == warned


def test_nothing_outside_of_the_assets_is_served(node: Door) -> None:
    for target in (
        *(
            "/static/../access.py",
            "/static/%2e%2e/access.py",
            "/static/..%2faccess.py",
            "/static/..%5caccess.py",
        ),
        *(
            "/static//etc/passwd",
            "/static/%2fetc%2fpasswd",
            "/static/",
            "/static/style.css%00.png",
            "/../users.py",
        ),
        *("/model/../../users.toml", "//evil.example/", "http://evil.example/", "/%c0%ae%c0%ae/"),
    ):
        head, _ = raw(node, f"GET {target} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
        assert head.split()[1] in (b"303", b"404", b"401", b"400"), target


def test_requests_that_are_none_are_refused(node: Door) -> None:
    head, _ = raw(node, "GET /static/style.css HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
    assert head.split()[1] == b"200"
    for text in (
        "NONSENSE\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: " + "a" * 200_000 + "\r\n\r\n",
        "POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\nConnection: close\r\n\r\n",
    ):
        head, body = raw(node, text)
        # A connection that is cut is an answer, too.
        assert head.split()[1:2] in ([b"400"], []), text[:60]
        assert b"Traceback" not in body


def raw(node: Door, text: str) -> tuple[bytes, bytes]:
    """What comes back for these very bytes: the head and the body."""
    host, port = node.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        answer = b""
        with suppress(ConnectionError):
            connection.sendall(text.encode("latin-1"))
            while data := connection.recv(65536):
                answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def test_people_are_made_changed_and_removed_by_command(config: Path) -> None:
    database = open_database(load(config).database_url)
    made = run(config, "users", "set", "anna", "--role", "radiologist", given="a long password\n")
    assert (made.returncode, "anna may log in as radiologist" in made.stdout) == (0, True)
    users = Users(config.parent / "users.toml")
    assert users.check("anna", "a long password") == "radiologist"
    assert json.loads(run(config, "users", "list", "--json").stdout) == [
        {"name": "anna", "role": "radiologist"}
    ]
    token = sessions.begin(database, "anna", "radiologist")
    again = run(config, "users", "set", "anna", "--role", "radiologist", given="another password\n")
    assert again.returncode == 0
    assert users.check("anna", "a long password") is None
    assert sessions.of(database, token, 3600, is_use=False) is None, "another password ends the sessions"
    for arguments, given, words in (
        (("set", "b", "--role", "root"), "a long password\n", "no such role"),
        (("set", "b", "--role", "admin"), "short\n", "at least 12"),
        (("set", "a b", "--role", "admin"), "a long password\n", "users.a b"),
        (("remove", "b"), "", "no such user"),
    ):
        refused = run(config, "users", *arguments, given=given)
        assert refused.returncode == 2
        assert words in refused.stderr
        assert "a long password" not in refused.stderr
    assert run(config, "users", "remove", "anna").returncode == 0
    assert users.roles == {}
    database.close()
