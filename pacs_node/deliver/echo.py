"""Does a destination answer? C-ECHO (PS3.4 annex A), or one small QIDO-RS search (PS3.18 10.6)."""

from __future__ import annotations

from pynetdicom import build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from pacs_node.config import Destination
from pacs_node.deliver import dimse, stow
from pacs_node.errors import DeliveryError


def echo(destination: Destination, calling_ae_title: str) -> None:
    """Ask a destination whether it is there and lets us in. Raises DeliveryError that says why not."""
    if destination.address is None:
        stow.search(destination)
        return
    name, contexts, credentials = destination.name, [build_context(Verification)], destination.credentials
    with dimse.associated(name, destination.address, calling_ae_title, contexts, credentials) as association:
        status = association.send_c_echo().get("Status")
    if status != 0x0000:
        answer = "no answer" if status is None else f"0x{status:04X}"
        raise DeliveryError(f"{destination.name}: {answer} to the C-ECHO")
