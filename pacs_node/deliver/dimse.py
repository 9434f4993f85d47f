"""Association requestor, C-ECHO SCU (PS3.4 annex A) and C-STORE SCU (annex B), files sent byte for byte."""

from __future__ import annotations

import socket
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from pacs_node.config import ApplicationEntity, Destination, TlsSettings
from pacs_node.deliver import answers
from pacs_node.dicom import reach, tls
from pacs_node.errors import DeliveryError
from pacs_node.records import SendOutcome

ANSWER_SECONDS = 60
SLOWEST = 20_000
"""Bytes per second of the slowest network that the C-STORE timeout allows for."""
_REASONS = {
    (
        1,
        1,
    ): "no reason given; most often AE title {calling} or this address is not registered there",
    (1, 3): "calling AE title {calling} not recognized, or not from this address; register it there",
    (1, 7): "called AE title {called} not recognized; check the destination's AE title",
    (3, 1): "temporary congestion; will be retried",
    (3, 2): "local limit of associations exceeded; will be retried",
}


@contextmanager
def associated(
    name: str,
    address: ApplicationEntity,
    calling_ae_title: str,
    contexts: Sequence[PresentationContext],
    credentials: TlsSettings | None,
    handlers: Sequence[evt.EventHandlerType] = (),
) -> Iterator[Association]:
    """An association with an AE (PS3.8 7.1), released at the end; `name` is the AE's name in messages.

    With `credentials`, over TLS. Raises DeliveryError with the cause if it fails, ConfigError if the
    credentials are unusable.
    """
    ae = AE(ae_title=calling_ae_title)
    ae.connection_timeout = reach.CONNECT_SECONDS
    ae.acse_timeout = ae.dimse_timeout = ANSWER_SECONDS
    ae.requested_contexts = list(contexts)
    where = f"{name} ({address.ae_title} at {address.host}:{address.port})"
    waits: list[evt.EventHandlerType] = [
        (evt.EVT_CONN_OPEN, limit),
        (evt.EVT_CONN_CLOSE, wake),
        (evt.EVT_ABORTED, wake),
    ]
    secured = (tls.requestor(credentials), address.host) if credentials else None
    started = time.monotonic()
    try:
        association = ae.associate(
            address.host,
            address.port,
            ae_title=address.ae_title,
            evt_handlers=[*waits, *handlers],
            tls_args=secured,
        )
    except OSError:
        # The host name is resolved before anything else.
        raise DeliveryError(f"{where}: {reach.diagnose(address, credentials)}") from None
    answer = association.acceptor.primitive
    if association.is_rejected:
        reason = (getattr(answer, "result_source", 0), getattr(answer, "diagnostic", 0))
        words = _REASONS.get(reason, f"source {reason[0]}, reason {reason[1]} (PS3.8 table 9-21)")
        words = words.format(calling=calling_ae_title, called=address.ae_title)
        raise DeliveryError(f"{where} rejected the association: {words}")
    if not association.is_established:
        if getattr(answer, "result", None) == 0:
            # pynetdicom aborts an association without a presentation context.
            wanted = ", ".join(UID(str(context.abstract_syntax)).name for context in contexts)
            raise DeliveryError(f"{where} accepts none of: {wanted}")
        if time.monotonic() - started > ANSWER_SECONDS:
            raise DeliveryError(f"{where} accepts the connection but does not answer for {ANSWER_SECONDS} s")
        raise DeliveryError(f"{where}: {reach.diagnose(address, credentials)}")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def limit(event: evt.Event) -> None:
    """Limit the wait inside a PDU: pynetdicom waits without end, so a stalled peer would block its thread."""
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.settimeout(ANSWER_SECONDS)
        # Else the second PDU of a message waits 40 ms for the delayed acknowledgement of the first.
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def wake(event: evt.Event) -> None:
    """End the wait for a response that will not come: pynetdicom's own signal can get lost."""
    event.assoc.dimse.msg_queue.put((None, None))


def store(destination: Destination, calling_ae_title: str, paths: Sequence[Path]) -> Generator[SendOutcome]:
    """Send at most 60 files, their data sets byte for byte, and yield the outcome of each, in order.

    A file is re-encoded only if the peer accepts just the other uncompressed transfer syntax. Without a
    response the status is None. Raises DeliveryError, before the first, if there is no association.
    """
    address = destination.address
    if address is None:
        raise DeliveryError(f"{destination.name}: no C-STORE at a STOW-RS destination")
    # Makes pynetdicom send a path byte for byte, in the whole process; nothing else here sends paths.
    _config.STORE_SEND_CHUNKED_DATASET = True
    metas = [read_file_meta_info(path) for path in paths]
    contexts, credentials = storage_contexts(metas), destination.credentials
    with associated(destination.name, address, calling_ae_title, contexts, credentials) as association:
        accepted = {(each.abstract_syntax, each.transfer_syntax[0]) for each in association.accepted_contexts}
        for path, meta in zip(paths, metas, strict=True):
            if not association.is_established:
                yield SendOutcome(None, "the association was lost")
                continue
            unchanged = (meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID) in accepted
            # pynetdicom counts from the moment at which the object is queued.
            association.dimse_timeout = ANSWER_SECONDS + path.stat().st_size / SLOWEST
            try:
                answer = association.send_c_store(path if unchanged else dcmread(path))
            except ValueError as error:
                # No presentation context was accepted for this object.
                yield SendOutcome(None, f"not accepted: {error}")
                continue
            except RuntimeError:
                yield SendOutcome(None, "the association was lost")
                continue
            status = answer.get("Status")
            if status is None:
                yield SendOutcome(None, "no response to the C-STORE")
            else:
                yield answers.c_store(int(status), str(answer.get("ErrorComment", "")))


def storage_contexts(metas: Sequence[FileMetaDataset]) -> list[PresentationContext]:
    """One context for each SOP class and transfer syntax, since among several the peer would choose.

    With Verification: if no context is accepted, pynetdicom aborts as if the peer had not answered.
    """
    uncompressed = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    wanted = {(Verification, ImplicitVRLittleEndian): None}
    for meta in metas:
        own = meta.TransferSyntaxUID
        for syntax in (own, *uncompressed) if own in uncompressed else (own,):
            wanted[meta.MediaStorageSOPClassUID, syntax] = None
    return [build_context(sop_class, syntax) for sop_class, syntax in wanted]


def refused(
    name: str,
    address: ApplicationEntity,
    calling_ae_title: str,
    sop_classes: Sequence[str],
    credentials: TlsSettings | None,
) -> list[str]:
    """Send a C-ECHO and propose these SOP classes; returns those that the AE does not accept.

    Raises DeliveryError if there is no association or no success.
    """
    contexts = [build_context(sop_class) for sop_class in (Verification, *sop_classes)]
    with associated(name, address, calling_ae_title, contexts, credentials) as association:
        accepted = {context.abstract_syntax for context in association.accepted_contexts}
        if Verification in accepted:
            status = association.send_c_echo().get("Status")
            if status != 0x0000:
                answer = "no response" if status is None else f"status 0x{status:04X}"
                raise DeliveryError(f"{name}: {answer} to the C-ECHO")
    return [sop_class for sop_class in sop_classes if sop_class not in accepted]
