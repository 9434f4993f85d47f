"""The PACS of the demo: Orthanc as a process or in a container, or a stand-in of our own."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydicom import dcmread
from pydicom.dataset import Dataset

from pacs_node.errors import PacsNodeError

PacsKind = Literal["auto", "orthanc", "docker", "stand-in"]

FORWARD_LUA = Path(__file__).with_name("forward.lua")
"""The forwarding rule for Orthanc, the same one in the demo, in docker/ and in the tests."""
MODALITY = "pacs-node"
"""What the node is called under Orthanc's DicomModalities; forward.lua names it too."""

ORTHANC_IMAGE = "jodogne/orthanc:1.12.4"
_START_SECONDS = 30.0
_PULL_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where a DICOM application entity listens."""

    ae_title: str
    host: str
    port: int


class Pacs(Protocol):
    """A PACS that forwards what it is given to the node and takes the node's results."""

    @property
    def address(self) -> Address:
        """Where it takes results."""

    def start(self) -> None:
        """Return once it answers. Raises PacsNodeError where it does not."""

    def upload(self, paths: Iterable[Path]) -> None:
        """Store DICOM files in it, as a modality would; it forwards them to the node by C-STORE."""

    def results(self, study_instance_uid: str) -> list[Dataset]:
        """What the node has sent into this study so far, with pixel data."""

    def describe(self) -> str:
        """What it is and where, for people."""

    def stop(self) -> None:
        """Stop it, and nothing else."""


class OrthancRest:
    """Orthanc's REST API on 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        # Proxies of the environment must not come between two programs on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The answer's body. Raises urllib.error.HTTPError, or URLError where nobody listens."""
        request = urllib.request.Request(self.url + path, data=body, method=method)
        with self._opener.open(request, timeout=60) as answer:
            content: bytes = answer.read()
        return content

    def get(self, path: str) -> Any:
        """GET, read as JSON."""
        return json.loads(self.call("GET", path))

    def post(self, path: str, value: object) -> Any:
        """POST a value as JSON; the answer read as JSON."""
        return json.loads(self.call("POST", path, json.dumps(value).encode()))

    def put(self, path: str, value: object) -> None:
        """PUT a value as JSON."""
        self.call("PUT", path, json.dumps(value).encode())

    def upload(self, path: Path) -> str:
        """Store a DICOM file; its Orthanc identifier."""
        answer = json.loads(self.call("POST", "/instances", path.read_bytes()))
        return str(answer["ID"])

    def instances(self, study_instance_uid: str) -> list[str]:
        """Orthanc identifiers of a study's objects."""
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study_instance_uid}}
        return [str(identifier) for identifier in self.post("/tools/find", query)]

    def sender(self, instance: str) -> str:
        """AE title that an object came from; empty where it was uploaded."""
        path = f"/instances/{instance}/metadata"
        return self.call("GET", f"{path}/RemoteAET").decode() if "RemoteAET" in self.get(path) else ""

    def dataset(self, instance: str) -> Dataset:
        """An object as stored."""
        return dcmread(io.BytesIO(self.call("GET", f"/instances/{instance}/file")))


class Orthanc:
    """Orthanc with temporary storage in `folder`, forwarding to `node`.

    `command` is what starts it, without the configuration's path. Its HTTP server answers 127.0.0.1 only, its
    DICOM server (which Orthanc cannot bind to one address) takes C-STORE from `node` at its host only.
    `settings` are laid over the configuration.
    """

    def __init__(
        self,
        folder: Path,
        node: Address,
        *,
        command: Sequence[str],
        ports: tuple[int, int],
        ae_title: str = "ORTHANC",
        settings: Mapping[str, object] | None = None,
        start_seconds: float = _START_SECONDS,
    ) -> None:
        self._folder, self._node = folder.resolve(), node
        self._command, self._start_seconds = tuple(command), start_seconds
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        http, dicom = ports
        self.rest = OrthancRest(http)
        self.address = Address(ae_title, "127.0.0.1", dicom)

    @property
    def configuration(self) -> dict[str, object]:
        """Orthanc's configuration, as its JSON file holds it."""
        http = int(self.rest.url.rpartition(":")[2])
        return {
            "Name": "pacs-node demo",
            "StorageDirectory": str(self._folder / "storage"),
            "IndexDirectory": str(self._folder / "storage"),
            "HttpPort": http,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": self.address.ae_title,
            "DicomPort": self.address.port,
            "DicomAlwaysAllowStore": False,
            "DicomCheckModalityHost": True,
            "DicomModalities": {MODALITY: [self._node.ae_title, self._node.host, self._node.port]},
            "LuaScripts": [str(self._folder / FORWARD_LUA.name)],
            **self._settings,
        }

    def start(self) -> None:
        """Return once it answers. Raises PacsNodeError with its log's end where it does not."""
        self._folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FORWARD_LUA, self._folder / FORWARD_LUA.name)
        configuration = self._folder / "orthanc.json"
        configuration.write_text(json.dumps(self.configuration, indent=2), encoding="utf-8")
        with (self._folder / "orthanc.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._command, str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + self._start_seconds
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                log_end = (self._folder / "orthanc.log").read_text(errors="replace")[-1500:]
                raise PacsNodeError(
                    f"Orthanc did not start ({self.describe()}); the end of its log:\n{log_end}"
                )
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            self.rest.get("/system")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True

    def upload(self, paths: Iterable[Path]) -> None:
        """Store DICOM files through the REST API. Raises PacsNodeError for a file that Orthanc refuses."""
        for path in paths:
            try:
                self.rest.upload(path)
            except urllib.error.HTTPError as error:
                said = json.loads(error.read())
                reason = said.get("Details") or said.get("Message") or error.reason
                raise PacsNodeError(f"{path}: Orthanc refused it: {reason}") from None

    def results(self, study_instance_uid: str) -> list[Dataset]:
        """What the node has sent into this study so far, with pixel data."""
        identifiers = self.rest.instances(study_instance_uid)
        return [self.rest.dataset(i) for i in identifiers if self.rest.sender(i) == self._node.ae_title]

    def describe(self) -> str:
        """What it is and where, for people."""
        return (
            f"Orthanc as {self.address.ae_title}, DICOM port {self.address.port}, "
            f"{self.rest.url} (started as {Path(self._command[0]).name})"
        )

    def stop(self) -> None:
        """Stop this Orthanc; the container, too, ends with its client."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def find_orthanc() -> str | None:
    """Orthanc's program, on the PATH or where Debian puts it."""
    return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")


def find_engine() -> str | None:
    """The container engine that answers, if one does."""
    for engine in ("docker", "podman"):
        if shutil.which(engine) is None:
            continue
        try:
            answer = subprocess.run([engine, "info"], capture_output=True, timeout=20, check=False)
        except (subprocess.TimeoutExpired, OSError):
            continue
        if answer.returncode == 0:
            return engine
    return None


def choose(kind: PacsKind, folder: Path, node: Address, ports: tuple[int, int]) -> Pacs:
    """The PACS to use: the one asked for, or with "auto" the first that this machine can run.

    The order is Orthanc's program, Orthanc in a container, the stand-in. `ports` are for HTTP and DICOM.
    Raises PacsNodeError where the one asked for cannot be run.
    """
    program = find_orthanc() if kind in ("auto", "orthanc") else None
    if program is not None:
        return Orthanc(folder, node, command=[program], ports=ports)
    if kind == "orthanc":
        raise PacsNodeError("no Orthanc on the PATH or in /usr/sbin; scripts/install-tools installs it")
    engine = find_engine() if kind in ("auto", "docker") else None
    if engine is not None:
        command = in_container(engine, folder.resolve())
        return Orthanc(folder, node, command=command, ports=ports, start_seconds=_PULL_SECONDS)
    if kind == "docker":
        raise PacsNodeError("neither docker nor podman answers `info`; is the engine running?")
    from pacs_node.demo.stand_in import StandIn

    return StandIn(folder, node, port=ports[1])


def in_container(engine: str, folder: Path, image: str = ORTHANC_IMAGE) -> list[str]:
    """The command of Orthanc in its image: on the host's network, as this user, `folder` at its own path."""
    mapping = ["--userns", "keep-id"] if engine == "podman" else []
    user = f"{os.getuid()}:{os.getgid()}"
    options = ["--rm", "--init", "--network", "host", *mapping, "--user", user]
    mount = ["--volume", f"{folder}:{folder}"]
    return [engine, "run", *options, *mount, "--entrypoint", "Orthanc", image]
