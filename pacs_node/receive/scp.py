"""The storage SCP: C-ECHO, C-STORE and storage commitment reports (PS3.4 annexes A, B and J).

Success means durable.
"""

from __future__ import annotations

import errno
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import cast

import structlog
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import ThreadedAssociationServer

from pacs_node import __version__
from pacs_node.config import NodeSettings, Peer
from pacs_node.dicom import association, event_report
from pacs_node.errors import AdmissionError, ConfigError
from pacs_node.files import FileStore, SpooledFile
from pacs_node.receive import admission

VERIFICATION = UID("1.2.840.10008.1.1")
REQUEST_SECONDS = 30.0
STALL_SECONDS = 60.0
"""Timeouts of a connection, before the association request and between PDUs."""
SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700

# The order of choice among proposed transfer syntaxes: lossless before lossy, any other last.
PREFERRED_TRANSFER_SYNTAXES: list[str | bytes] = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    RLELossless,
    JPEGLSNearLossless,
    JPEG2000,
    JPEGExtended12Bit,
    JPEGBaseline8Bit,
]
IMPLEMENTATION_CLASS_UID = UID("2.25.190225597323670437850691876262396535473")
IMPLEMENTATION_VERSION_NAME = f"PACSNODE_{__version__.replace('.', '')}"

_log = structlog.get_logger(__name__)


class StorageScp:
    """Receives objects into the file store's spool and calls `arrived` with each.

    Storage commitment reports go to `settle`. With `secured` (`tls.acceptor`) the port accepts only TLS.
    """

    def __init__(
        self,
        node: NodeSettings,
        peers: tuple[Peer, ...],
        files: FileStore,
        min_free_gb: float,
        arrived: Callable[[SpooledFile, FileDataset], None],
        settle: event_report.Settle = lambda _: False,
        secured: ssl.SSLContext | None = None,
    ) -> None:
        self._node = node
        self._peers = peers
        self._files = files
        self._min_free_gb = min_free_gb
        self._arrived = arrived
        self._settle = settle
        self._secured = secured
        self._space = _FreeSpace(files)
        self._counts: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._server: ThreadedAssociationServer | None = None
        self._stopping = threading.Event()

    @property
    def port(self) -> int:
        """The real port, also if the settings have 0; raises RuntimeError before `start`."""
        if self._server is None:
            raise RuntimeError("the SCP was not started")
        return int(self._server.server_address[1])

    def stats(self) -> dict[str, float]:
        """Associations accepted, rejected and open; refused C-STOREs by status, such as refused_0xA700."""
        server = self._server
        active = server.active_associations if server else []
        with self._counting:
            return {**self._counts, "associations_open": sum(each.is_established for each in active)}

    def start(self) -> None:
        """Listen; returns once the port answers. Raises ConfigError if the address is not available."""
        ae = AE(ae_title=self._node.ae_title)
        ae.maximum_associations = self._node.max_associations
        ae.maximum_pdu_size = self._node.max_pdu
        ae.acse_timeout, ae.network_timeout = REQUEST_SECONDS, STALL_SECONDS
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.add_supported_context(VERIFICATION)
        # The archive opens this association and yet is the SCP of the class (PS3.4 J.3.3, PS3.7 D.3.3.4).
        ae.add_supported_context(event_report.PUSH_MODEL, scp_role=True, scu_role=False)
        # Private and retired storage classes too: a PACS that forwards whole studies must not fail on one.
        # pynetdicom then accepts the first transfer syntax of each proposal, so on_requested sorts them.
        _config.UNRESTRICTED_STORAGE_SERVICE = True
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_CONN_OPEN, association.bound, [STALL_SECONDS, self._node.max_pdu]),
            (evt.EVT_CONN_CLOSE, association.let_go),
            (evt.EVT_REQUESTED, self.on_requested),
            (evt.EVT_ACCEPTED, lambda _: self._count("associations_accepted")),
            (evt.EVT_REJECTED, lambda _: self._count("associations_rejected")),
            (evt.EVT_C_ECHO, self.on_echo),
            (evt.EVT_C_STORE, self.on_store),
            (evt.EVT_N_EVENT_REPORT, event_report.on_event_report, [self._settle]),
        ]
        where = (self._node.host, self._node.port)
        try:
            server = ae.start_server(where, block=False, evt_handlers=handlers, ssl_context=self._secured)
        except OSError as error:
            raise ConfigError(
                f"node.host, node.port: cannot listen on {where[0]}:{where[1]}: {error}"
            ) from error
        self._server = cast(ThreadedAssociationServer, server)
        # pynetdicom's backlog is five; further connections of a burst would be delayed by a second.
        cast(socket.socket, self._server.socket).listen(128)

    def stop(self) -> None:
        """Refuse new objects, close the port and abort the open associations."""
        self._stopping.set()
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        for active in server.active_associations:
            if active.is_established:
                active.abort()
            else:
                association.hang_up(active)

    def on_requested(self, event: evt.Event) -> None:
        """Reject an association from an unknown peer, or to another called AE title (PS3.8 9.3.4).

        Otherwise sort the proposed transfer syntaxes by preference.
        """
        request = cast(A_ASSOCIATE, event.assoc.requestor.primitive)
        address = str(event.assoc.requestor.address)
        calling, called = request.calling_ae_title.strip(), request.called_ae_title.strip()
        if not admission.may_send(self._peers, calling, address):
            diagnostic = 0x03
        elif self._node.require_called_ae and called not in (self._node.ae_title, *self._node.ae_aliases):
            diagnostic = 0x07
        else:
            for context in request.presentation_context_definition_list:
                context.transfer_syntax = sorted(context.transfer_syntax, key=_rank)
            return
        _log.warning("association_rejected", calling=calling, called=called, address=address, why=diagnostic)
        event.assoc.acse.send_reject(0x01, 0x01, diagnostic)
        evt.trigger(event.assoc, evt.EVT_REJECTED, {})
        event.assoc.kill()

    def on_echo(self, event: evt.Event) -> int:
        """Respond to a C-ECHO."""
        return SUCCESS

    def on_store(self, event: evt.Event) -> Dataset:
        """Store one object durably, exactly as received; a refused one leaves nothing behind."""
        request = cast(C_STORE, event.request)
        sender = _sender(event)
        try:
            if self._stopping.is_set():
                raise AdmissionError(OUT_OF_RESOURCES, "the node is shutting down")
            if self._space.gb() < self._min_free_gb:
                raise AdmissionError(OUT_OF_RESOURCES, "the node is short of disk space")
            data = request.DataSet or BytesIO()
            meta = _file_meta(request, event.context.transfer_syntax, sender)
            spooled, header = self._files.spool(
                (meta, data.getbuffer()), lambda path: admission.read_header(path, request)
            )
        except AdmissionError as error:
            return self._refuse(request, sender, error.status, str(error))
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, type(error).__name__)
            return self._refuse(request, sender, OUT_OF_RESOURCES, f"the object could not be written: {name}")
        self._arrived(spooled, header)
        return _status(SUCCESS)

    def _count(self, what: str) -> None:
        with self._counting:
            self._counts[what] += 1

    def _refuse(self, request: C_STORE, sender: _Sender, status: int, comment: str) -> Dataset:
        self._count(f"refused_0x{status:04X}")
        _log.warning(
            "store_refused",
            status=f"0x{status:04X}",
            comment=comment,
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            calling=sender.calling_ae_title,
        )
        return _status(status, comment)


class _FreeSpace:
    """Free space, read at most once a second."""

    def __init__(self, files: FileStore) -> None:
        self._files = files
        self._asked_at = float("-inf")
        self._gb = 0.0

    def gb(self) -> float:
        if time.monotonic() - self._asked_at > 1:
            self._gb = self._files.free_gb()
            self._asked_at = time.monotonic()
        return self._gb


def _status(status: int, comment: str = "") -> Dataset:
    answer = Dataset()
    answer.Status = status
    if comment:
        answer.ErrorComment = comment[:64]
    return answer


def _rank(transfer_syntax: str | bytes) -> int:
    order = PREFERRED_TRANSFER_SYNTAXES
    return order.index(transfer_syntax) if transfer_syntax in order else len(order)


@dataclass(frozen=True, slots=True)
class _Sender:
    """The AE titles of an association and the peer's address."""

    calling_ae_title: str
    called_ae_title: str
    address: str


def _sender(event: evt.Event) -> _Sender:
    requestor = event.assoc.requestor
    association_request = cast(A_ASSOCIATE, requestor.primitive)
    return _Sender(
        calling_ae_title=requestor.ae_title.strip(),
        called_ae_title=association_request.called_ae_title.strip(),
        address=str(requestor.address),
    )


def _file_meta(request: C_STORE, transfer_syntax: UID | str | None, sender: _Sender) -> bytes:
    """Preamble and file meta (PS3.10 7.1), including sender and receiver."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(str(request.AffectedSOPClassUID))
    meta.MediaStorageSOPInstanceUID = UID(str(request.AffectedSOPInstanceUID))
    meta.TransferSyntaxUID = UID(str(transfer_syntax))
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    meta.SourceApplicationEntityTitle = sender.calling_ae_title
    meta.SendingApplicationEntityTitle = sender.calling_ae_title
    meta.ReceivingApplicationEntityTitle = sender.called_ae_title
    meta.PrivateInformationCreatorUID = IMPLEMENTATION_CLASS_UID
    meta.PrivateInformation = sender.address.encode("ascii")
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta, enforce_standard=True)
    return b"\0" * 128 + b"DICM" + bytes(buffer.getvalue())
