"""C-STORE SCU (PS3.4 annex B): sends files as they are, in one association."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context

from pacs_node.config import Destination
from pacs_node.errors import DeliveryError
from pacs_node.records import SendOutcome

CONNECT_SECONDS = 10
ANSWER_SECONDS = 60
_REASONS = {
    (1, 3): "it does not know our calling AE title",
    (1, 7): "it does not answer to the AE title that we call",
    (3, 2): "it serves as many associations as it can; later",
}


def store(
    destination: Destination, calling_ae_title: str, objects: Sequence[tuple[Path, UID]]
) -> Iterator[SendOutcome]:
    """Send files, each given with its SOP Class UID, and yield what was answered to each, in order.

    An object without an answer yields a status of None. Raises DeliveryError, before the first, where no
    association can be had.
    """
    ae = AE(ae_title=calling_ae_title)
    ae.connection_timeout = CONNECT_SECONDS
    ae.dimse_timeout = ANSWER_SECONDS
    ae.requested_contexts = [
        build_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        for sop_class in dict.fromkeys(sop_class for _, sop_class in objects)
    ]
    where = f"{destination.name} ({destination.ae_title} at {destination.host}:{destination.port})"
    association = ae.associate(destination.host, destination.port, ae_title=destination.ae_title or "ANY-SCP")
    if association.is_rejected:
        primitive = association.acceptor.primitive
        reason = (getattr(primitive, "result_source", 0), getattr(primitive, "diagnostic", 0))
        raise DeliveryError(f"{where} rejected the association: {_REASONS.get(reason, str(reason))}")
    if not association.is_established:
        raise DeliveryError(f"{where} gave no association: does it listen there?")
    try:
        for path, _ in objects:
            if not association.is_established:
                yield SendOutcome(None, "the association was lost")
                continue
            try:
                answer = association.send_c_store(path)
            except ValueError as error:
                # pynetdicom's word for: no presentation context was accepted for this object.
                yield SendOutcome(None, f"not accepted: {error}")
                continue
            status = answer.get("Status")
            if status is None:
                yield SendOutcome(None, "no answer to the C-STORE")
            else:
                yield SendOutcome(int(status), str(answer.get("ErrorComment", "")))
    finally:
        if association.is_established:
            association.release()
