"""Serves the application over HTTP, and runs `analyze` for who tries a file out."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

import structlog
import uvicorn
from starlette.applications import Starlette

from pacs_node.config import Settings
from pacs_node.errors import InputError, PacsNodeError

TRY_SECONDS = 120.0
MOST_CONNECTIONS = 500

_log = structlog.get_logger(__name__)


def run(app: Starlette, settings: Settings, ready: Callable[[str], None], stop: threading.Event) -> None:
    """Serve until `stop` is set; `ready` is told the address once it answers.

    Raises PacsNodeError where the address cannot be had: the node goes on without its pages.
    """
    web, tls = settings.web, settings.tls
    try:
        listener = socket.create_server((web.host, web.port), family=_family(web.host), backlog=128)
    except OSError as error:
        raise PacsNodeError(f"web.host, web.port: cannot listen on {web.host}:{web.port}: {error}") from error
    if not (_is_loopback(listener) or web.tls or web.trusted_proxies):
        _log.warning("web_not_encrypted", why="passwords and patients' names are read by whoever listens")
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        # Only `trusted_proxies` are believed, and only by us.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        limit_concurrency=MOST_CONNECTIONS,
        ssl_certfile=tls.certificate if web.tls else None,
        ssl_keyfile=tls.key if web.tls else None,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise PacsNodeError(f"tls.certificate, tls.key: {error}") from error
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="http")
    thread.start()
    while not server.started and thread.is_alive():
        stop.wait(0.05)
    if not server.started:
        raise PacsNodeError("the web server did not start; its log says why")
    scheme = "https" if web.tls else "http"
    ready(f"{scheme}://{web.host}:{listener.getsockname()[1]}")
    while thread.is_alive() and not stop.wait(0.5):
        pass
    server.should_exit = True
    thread.join()
    listener.close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _is_loopback(listener: socket.socket) -> bool:
    return ip_address(listener.getsockname()[0]).is_loopback


def try_out(config: Path | None, files: Sequence[Path], out: Path) -> str:
    """Run `pacs-node analyze` on files in a process of its own, which a bad file may end without harm.

    Results lie in `out`. Returns what it printed. Raises InputError where it failed or took too long.
    """
    options = ["--config", str(config)] if config else []
    command = [sys.executable, "-m", "pacs_node", *options, "analyze", *map(str, files), "--out", str(out)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=TRY_SECONDS,
            # What it leaves behind when it is killed goes with the results.
            env=os.environ | {"TMPDIR": str(out)},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"given up after {TRY_SECONDS:.0f} s") from None
    if done.returncode < 0:
        raise InputError(f"the analysis ended with signal {-done.returncode}: the file is broken")
    return done.stdout if done.returncode == 0 else f"{done.stdout}\n{done.stderr}".strip()
