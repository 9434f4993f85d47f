"""The PACS of the demo: Orthanc as a process or in a container, or a minimal stand-in."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, evt
from pynetdicom.transport import ThreadedAssociationServer

from pacs_node.errors import PacsNodeError

PacsKind = Literal["auto", "orthanc", "docker", "stand-in"]

FORWARD_LUA = Path(__file__).with_name("forward.lua")
"""The forwarding rule for Orthanc, the same one in the demo, in docker/ and in the tests."""
MODALITY = "pacs-node"
"""The node's name under Orthanc's DicomModalities and in forward.lua."""

ORTHANC_IMAGE = "jodogne/orthanc:1.12.4"
_START_SECONDS = 30.0
_PULL_SECONDS = 600.0
_SUCCESS, _OUT_OF_RESOURCES = 0x0000, 0xA700
_VERIFICATION = "1.2.840.10008.1.1"
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Address:
    """AE title, host and port of a DICOM application entity."""

    ae_title: str
    host: str
    port: int


class Pacs(Protocol):
    """A PACS that forwards uploaded files to the node and stores the node's results."""

    @property
    def address(self) -> Address:
        """The address that results are sent to."""

    def start(self) -> None:
        """Start it and wait until it answers. Raises PacsNodeError if it does not."""

    def upload(self, paths: Iterable[Path]) -> None:
        """Store DICOM files as a modality would; the PACS forwards them to the node by C-STORE."""

    def results(self, study_instance_uid: str) -> list[Dataset]:
        """The objects that the node has sent into this study so far."""

    def describe(self) -> str:
        """Its kind and address, in words."""

    def stop(self) -> None:
        """Stop it."""


class OrthancRest:
    """Orthanc's REST API on 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        # Proxies of the environment must not come between two programs on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The response body. Raises urllib.error.HTTPError, or URLError if the port is closed."""
        request = urllib.request.Request(self.url + path, data=body, method=method)
        with self._opener.open(request, timeout=60) as answer:
            content: bytes = answer.read()
        return content

    def get(self, path: str) -> Any:
        """GET JSON."""
        return json.loads(self.call("GET", path))

    def post(self, path: str, value: object) -> Any:
        """POST JSON; the response, parsed."""
        return json.loads(self.call("POST", path, json.dumps(value).encode()))

    def put(self, path: str, value: object) -> None:
        """PUT JSON."""
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
        """AE title that sent an object; empty if it was uploaded."""
        path = f"/instances/{instance}/metadata"
        return self.call("GET", f"{path}/RemoteAET").decode() if "RemoteAET" in self.get(path) else ""

    def dataset(self, instance: str) -> Dataset:
        """An object as stored."""
        return dcmread(io.BytesIO(self.call("GET", f"/instances/{instance}/file")))


class Orthanc:
    """Orthanc with temporary storage in `folder`, forwarding to `node`.

    `command` starts it, with the configuration's path appended. HTTP answers 127.0.0.1 only; DICOM (which
    Orthanc cannot bind to one address) accepts C-STORE only from `node`. `settings` override the
    configuration.
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
        """The content of Orthanc's JSON configuration file."""
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
        """Start it and wait until it answers. Raises PacsNodeError with the end of its log if it does not."""
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
                answer = json.loads(error.read())
                reason = answer.get("Details") or answer.get("Message") or error.reason
                raise PacsNodeError(f"{path}: refused by Orthanc: {reason}") from None

    def results(self, study_instance_uid: str) -> list[Dataset]:
        """The objects that the node has sent into this study so far."""
        identifiers = self.rest.instances(study_instance_uid)
        return [self.rest.dataset(i) for i in identifiers if self.rest.sender(i) == self._node.ae_title]

    def describe(self) -> str:
        """Its kind and address, in words."""
        return (
            f"Orthanc as {self.address.ae_title}, DICOM port {self.address.port}, "
            f"{self.rest.url} (started as {Path(self._command[0]).name})"
        )

    def stop(self) -> None:
        """Stop this Orthanc; a container ends with its client."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class StandIn:
    """A storage SCP and SCU on 127.0.0.1 for machines without Orthanc: no query, no viewer, no database.

    Uploaded files go to `node` by C-STORE, retried every second. Received objects are kept in `folder` and
    never forwarded.
    """

    def __init__(self, folder: Path, node: Address, *, port: int = 0, ae_title: str = "STANDIN") -> None:
        self._folder, self._node = folder, node
        self._ae_title, self._port = ae_title, port
        self._server: ThreadedAssociationServer | None = None
        self._stopping = threading.Event()
        self._forwarders: list[threading.Thread] = []

    @property
    def address(self) -> Address:
        """The address that results are sent to; the real port once started."""
        port = int(self._server.server_address[1]) if self._server else self._port
        return Address(self._ae_title, "127.0.0.1", port)

    def start(self) -> None:
        """Listen. Raises PacsNodeError if the port is taken."""
        self._folder.mkdir(parents=True, exist_ok=True)
        ae = AE(ae_title=self._ae_title)
        ae.supported_contexts = [
            build_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
            for context in AllStoragePresentationContexts
        ]
        ae.add_supported_context(_VERIFICATION)
        try:
            self._server = ae.start_server(
                ("127.0.0.1", self._port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._on_store)]
            )
        except OSError as error:
            raise PacsNodeError(f"127.0.0.1:{self._port}: the stand-in cannot listen: {error}") from None

    def upload(self, paths: Iterable[Path]) -> None:
        """Forward DICOM files to the node in the background. Raises PacsNodeError for other files."""
        files = tuple(paths)
        for path in files:
            try:
                dcmread(path, stop_before_pixels=True)
            except InvalidDicomError:
                raise PacsNodeError(f"{path}: not a DICOM file") from None
        forwarder = threading.Thread(target=self._forward, args=(files,), daemon=True)
        self._forwarders.append(forwarder)
        forwarder.start()

    def results(self, study_instance_uid: str) -> list[Dataset]:
        """The objects that the node has sent into this study so far."""
        datasets = (dcmread(path) for path in sorted(self._folder.glob("*.dcm")))
        return [dataset for dataset in datasets if dataset.StudyInstanceUID == study_instance_uid]

    def describe(self) -> str:
        """Its kind and address, in words."""
        return f"stand-in as {self._ae_title}, DICOM port {self.address.port} (no Orthanc here)"

    def stop(self) -> None:
        """Stop listening and forwarding."""
        self._stopping.set()
        for forwarder in self._forwarders:
            forwarder.join()
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _on_store(self, event: evt.Event) -> int:
        content = event.encoded_dataset()
        name = hashlib.sha256(content).hexdigest()
        part = self._folder / f"{name}.part"
        try:
            part.write_bytes(content)
            part.rename(part.with_suffix(".dcm"))
        except OSError:
            return _OUT_OF_RESOURCES
        return _SUCCESS

    def _forward(self, paths: tuple[Path, ...]) -> None:
        waiting = list(paths)
        while waiting and not self._stopping.is_set():
            waiting = self._send(waiting)
            if waiting:
                self._stopping.wait(_RETRY_SECONDS)

    def _send(self, paths: list[Path]) -> list[Path]:
        """Send in one association; returns the files that were not stored."""
        ae = AE(ae_title=self._ae_title)
        for meta in map(read_file_meta_info, paths):
            ae.add_requested_context(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
        association = ae.associate(self._node.host, self._node.port, ae_title=self._node.ae_title)
        if not association.is_established:
            return paths
        try:
            statuses = {path: association.send_c_store(path) for path in paths}
        finally:
            association.release()
        return [path for path in paths if statuses[path].get("Status") != _SUCCESS]


def find_orthanc() -> str | None:
    """Path of Orthanc's program, from the PATH or Debian's location."""
    return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")


def find_engine() -> str | None:
    """The first container engine that is running, docker or podman."""
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
    """The PACS of this kind; "auto" prefers Orthanc's program, then a container, then the stand-in.

    `ports` are HTTP and DICOM. Raises PacsNodeError if this machine cannot run it.
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
    return StandIn(folder, node, port=ports[1])


def in_container(engine: str, folder: Path, image: str = ORTHANC_IMAGE) -> list[str]:
    """The command that runs Orthanc's image: host network, this user, `folder` mounted at the same path."""
    mapping = ["--userns", "keep-id"] if engine == "podman" else []
    user = f"{os.getuid()}:{os.getgid()}"
    options = ["--rm", "--init", "--network", "host", *mapping, "--user", user]
    mount = ["--volume", f"{folder}:{folder}"]
    return [engine, "run", *options, *mount, "--entrypoint", "Orthanc", image]
