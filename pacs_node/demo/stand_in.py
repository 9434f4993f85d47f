"""A PACS for machines without Orthanc: it takes files, forwards them to the node and keeps what it gets."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, evt
from pynetdicom.transport import ThreadedAssociationServer

from pacs_node.demo.pacs import Address
from pacs_node.errors import PacsNodeError

_SUCCESS, _OUT_OF_RESOURCES = 0x0000, 0xA700
_VERIFICATION = "1.2.840.10008.1.1"
_RETRY_SECONDS = 1.0


class StandIn:
    """A storage SCP and SCU on 127.0.0.1, nothing more: no query, no viewer, no database.

    What is uploaded goes to `node` by C-STORE, again every second until the node takes it. What comes from
    `node` is kept in `folder` and never forwarded.
    """

    def __init__(self, folder: Path, node: Address, *, port: int = 0, ae_title: str = "STANDIN") -> None:
        self._folder, self._node = folder, node
        self._ae_title, self._port = ae_title, port
        self._server: ThreadedAssociationServer | None = None
        self._stopping = threading.Event()
        self._forwarders: list[threading.Thread] = []

    @property
    def address(self) -> Address:
        """Where it takes results; the real port once started."""
        port = int(self._server.server_address[1]) if self._server else self._port
        return Address(self._ae_title, "127.0.0.1", port)

    def start(self) -> None:
        """Listen. Raises PacsNodeError where the port is taken."""
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
        """Forward DICOM files to the node, in the background. Raises PacsNodeError for what is no DICOM."""
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
        """What the node has sent into this study so far, with pixel data."""
        datasets = (dcmread(path) for path in sorted(self._folder.glob("*.dcm")))
        return [dataset for dataset in datasets if dataset.StudyInstanceUID == study_instance_uid]

    def describe(self) -> str:
        """What it is and where, for people."""
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
        """One association; the files that the node did not take."""
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
