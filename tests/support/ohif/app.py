"""OHIF as its npm package ships it, served on 127.0.0.1 in front of an Orthanc with the DICOMweb plugin.

The package is fetched once with `npm pack` into PACS_NODE_CACHE (default: ~/.cache/pacs-node).
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

VERSION = "3.12.10"
CACHE = "PACS_NODE_CACHE"

_SOURCE = {
    "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
    "sourceName": "orthanc",
    "configuration": {
        "friendlyName": "Orthanc",
        "name": "orthanc",
        "wadoUriRoot": "/wado",
        "qidoRoot": "/dicom-web",
        "wadoRoot": "/dicom-web",
        "qidoSupportsIncludeField": False,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "supportsFuzzyMatching": False,
        "supportsWildcard": True,
        "omitQuotationForMultipartRequest": True,
        "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
    },
}
_CONFIG = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "showStudyList": True,
    "maxNumberOfWebWorkers": 1,
    "showLoadingIndicator": True,
    "showCPUFallbackMessage": False,
    "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "orthanc",
    "dataSources": [_SOURCE],
}


def fetch(tool: Callable[[str], Path]) -> Path:
    """The folder of the built OHIF, from the cache, else by `npm pack`; `tool` finds npm.

    Raises subprocess.SubprocessError where npm cannot fetch it.
    """
    cache = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "pacs-node")
    folder = cache / f"ohif-app-{VERSION}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            command = [str(tool("npm")), "pack", "--silent", f"@ohif/app@{VERSION}"]
            subprocess.run(command, cwd=temporary, check=True, capture_output=True, text=True, timeout=240)
            (archive,) = Path(temporary).glob("*.tgz")
            with tarfile.open(archive) as packed:
                wanted = [member for member in packed if not member.name.endswith(".map")]
                packed.extractall(temporary, wanted, filter="data")
            Path(temporary, "package", "dist").rename(folder)
    return folder


class Ohif:
    """A server for OHIF's files that passes /dicom-web on to Orthanc."""

    def __init__(self, folder: Path, orthanc: str) -> None:
        class Handler(_Handler):
            target = urlsplit(orthanc).netloc

            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(folder))

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target: str

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/dicom-web/"):
            self._ask_orthanc()
        elif path == "/app-config.js":
            self._answer(200, "text/javascript", f"window.config = {json.dumps(_CONFIG)};".encode())
        else:
            if not Path(self.translate_path(path)).is_file():
                self.path = "/index.html"  # OHIF's own pages, such as /viewer
            super().do_GET()

    def _ask_orthanc(self) -> None:
        # Host makes the URLs of bulk data that Orthanc writes lead back here.
        connection = http.client.HTTPConnection(self.target, timeout=60)
        headers = {"Accept": self.headers.get("Accept", "*/*"), "Host": self.headers["Host"]}
        connection.request("GET", self.path, headers=headers)
        with connection.getresponse() as answer:
            self._answer(answer.status, answer.headers["Content-Type"] or "text/plain", answer.read())
        connection.close()

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "max-age=600")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing: the tests look at the pages."""
