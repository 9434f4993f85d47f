"""Does a destination answer? C-ECHO (PS3.4 annex A), or one small QIDO-RS search (PS3.18 10.6)."""

from __future__ import annotations

from collections.abc import Sequence

from pynetdicom import build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from pacs_node.config import ApplicationEntity, Destination, TlsSettings
from pacs_node.deliver import dimse, stow
from pacs_node.errors import DeliveryError


def echo(destination: Destination, calling_ae_title: str) -> None:
    """Ask a destination whether it is there and lets us in. Raises DeliveryError that says why not."""
    if destination.address is None:
        stow.search(destination)
    else:
        refused(destination.name, destination.address, calling_ae_title, (), destination.credentials)


def refused(
    name: str,
    address: ApplicationEntity,
    calling_ae_title: str,
    sop_classes: Sequence[str],
    credentials: TlsSettings | None,
) -> list[str]:
    """Ask an AE for a C-ECHO, and for these SOP classes; those that it does not take.

    Raises DeliveryError where it gives no association or does not answer well.
    """
    contexts = [build_context(sop_class) for sop_class in (Verification, *sop_classes)]
    with dimse.associated(name, address, calling_ae_title, contexts, credentials) as association:
        accepted = {context.abstract_syntax for context in association.accepted_contexts}
        if Verification in accepted:
            status = association.send_c_echo().get("Status")
            if status != 0x0000:
                answer = "no answer" if status is None else f"0x{status:04X}"
                raise DeliveryError(f"{name}: {answer} to the C-ECHO")
    return [sop_class for sop_class in sop_classes if sop_class not in accepted]
