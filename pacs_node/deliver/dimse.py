"""Associations, and the C-STORE SCU (PS3.4 annex B): sends files as they are, in one association."""

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
"""Bytes per second of the slowest network on which an object is still waited for."""
_REASONS = {
    (1, 1): "it gives no reason; most often it does not know our AE title or address",
    (1, 3): "it does not know our calling AE title {calling}, or not from this address: add it there",
    (1, 7): "it does not answer to the AE title that we call, {called}: which one is it?",
    (3, 1): "it is busy; later",
    (3, 2): "it serves as many associations as it can; later",
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
    """An association with an AE (PS3.8 7.1), released on leaving. `name` is what the administrator calls it.

    With `credentials`, over TLS. Raises DeliveryError that says why none can be had, and ConfigError where
    the credentials cannot be used.
    """
    ae = AE(ae_title=calling_ae_title)
    ae.connection_timeout = reach.CONNECT_SECONDS
    ae.acse_timeout = ae.dimse_timeout = ANSWER_SECONDS
    ae.requested_contexts = list(contexts)
    where = f"{name} ({address.ae_title} at {address.host}:{address.port})"
    waits: list[evt.EventHandlerType] = [
        (evt.EVT_CONN_OPEN, _limit),
        (evt.EVT_CONN_CLOSE, _wake),
        (evt.EVT_ABORTED, _wake),
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
        # The host's name, which is looked up before anything else.
        raise DeliveryError(f"{where}: {reach.why_not(address, credentials)}") from None
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
            raise DeliveryError(f"{where} takes none of: {wanted}")
        if time.monotonic() - started > ANSWER_SECONDS:
            raise DeliveryError(f"{where} takes the connection and says nothing for {ANSWER_SECONDS} s")
        raise DeliveryError(f"{where}: {reach.why_not(address, credentials)}")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _limit(event: evt.Event) -> None:
    """pynetdicom waits for ever inside a PDU: a peer that stalls there would hold its thread for good."""
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.settimeout(ANSWER_SECONDS)
        # The second PDU of a message must not wait for a delayed acknowledgement of the first: 40 ms.
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _wake(event: evt.Event) -> None:
    """Tell who waits for an answer that none will come: pynetdicom's own word for it can get lost."""
    event.assoc.dimse.msg_queue.put((None, None))


def store(destination: Destination, calling_ae_title: str, paths: Sequence[Path]) -> Generator[SendOutcome]:
    """Send files (at most 60), their data sets byte for byte, and yield what was answered to each, in order.

    One is encoded anew only where the peer takes, of the uncompressed transfer syntaxes, only the other. An
    object without an answer yields a status of None. Raises DeliveryError, before the first, where no
    association can be had.
    """
    address = destination.address
    if address is None:
        raise DeliveryError(f"{destination.name}: it takes no C-STORE")
    # A path is sent as it lies there. A switch for the whole process, in which nothing else sends paths.
    _config.STORE_SEND_CHUNKED_DATASET = True
    metas = [read_file_meta_info(path) for path in paths]
    contexts, credentials = _contexts(metas), destination.credentials
    with associated(destination.name, address, calling_ae_title, contexts, credentials) as association:
        accepted = {(each.abstract_syntax, each.transfer_syntax[0]) for each in association.accepted_contexts}
        for path, meta in zip(paths, metas, strict=True):
            if not association.is_established:
                yield SendOutcome(None, "the association was lost")
                continue
            as_it_is = (meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID) in accepted
            # pynetdicom counts from the moment at which the object is only queued to be sent.
            association.dimse_timeout = ANSWER_SECONDS + path.stat().st_size / SLOWEST
            try:
                answer = association.send_c_store(path if as_it_is else dcmread(path))
            except ValueError as error:
                # pynetdicom's word for: no presentation context was accepted for this object.
                yield SendOutcome(None, f"not accepted: {error}")
                continue
            except RuntimeError:
                yield SendOutcome(None, "the association was lost")
                continue
            status = answer.get("Status")
            if status is None:
                yield SendOutcome(None, "no answer to the C-STORE")
            else:
                yield answers.c_store(int(status), str(answer.get("ErrorComment", "")))


def _contexts(metas: Sequence[FileMetaDataset]) -> list[PresentationContext]:
    """One context for each SOP class and transfer syntax: among several in one, the choice is the peer's.

    Verification rides along: where no context at all is accepted, pynetdicom aborts, as if nobody were there.
    """
    uncompressed = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    wanted = {(Verification, ImplicitVRLittleEndian): None}
    for meta in metas:
        own = meta.TransferSyntaxUID
        for syntax in (own, *uncompressed) if own in uncompressed else (own,):
            wanted[meta.MediaStorageSOPClassUID, syntax] = None
    return [build_context(sop_class, syntax) for sop_class, syntax in wanted]
