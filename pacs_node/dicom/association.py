"""What a peer may not do to us over its connection: stall, send without end, or break a thread."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from pynetdicom import evt
from pynetdicom.association import Association

LARGEST_REQUEST = 1 << 20
"""More than 128 presentation contexts with every transfer syntax take (PS3.8 9.3.2)."""
LARGEST_OBJECT = 4 << 30
"""As much as the longest element takes (PS3.5 7.1); an object is received into memory."""

_log = structlog.get_logger(__name__)


def bound(event: evt.Event, stall_seconds: float, max_pdu: int) -> None:
    """Bound the wait inside of a PDU, its length and that of a message; survive what pynetdicom makes of it.

    pynetdicom waits for ever inside a PDU: a sender that stalls there would hold two threads for good. It
    takes up to 4 GB for one, from whoever connects, and any number of fragments for a message that does not
    end. What it cannot make sense of ends one of its two threads, with the data on standard error, and the
    other waits on.
    """
    association: Any = event.assoc
    connection = association.dul.socket
    if connection is None or connection.socket is None:
        return
    connection.socket.settimeout(stall_seconds)
    receive: Callable[[int], bytearray] = connection.recv

    def receive_bounded(count: int) -> bytearray:
        message = association.dimse.message
        data = message.data_set.tell() if message else 0
        command = message.encoded_command_set.tell() if message else 0
        if count > max_pdu + LARGEST_REQUEST or command > LARGEST_REQUEST or data > LARGEST_OBJECT:
            _log.warning("too_long", address=association.requestor.address, pdu=count, message=command + data)
            raise ConnectionAbortedError("the PDU or the message is longer than it may be")
        return receive(count)

    connection.recv = receive_bounded
    machine, acse = association.dul.state_machine, association.acse
    machine.do_action = _surviving(association, machine.do_action)
    acse.negotiate_association = _surviving(association, acse.negotiate_association)


def let_go(event: evt.Event) -> None:
    """pynetdicom waits on for the request of a connection that is closed: probes would take all places."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)


def hang_up(association: Association) -> None:
    """Close the connection of an association that is not yet, or no longer, one.

    A-ABORT is no event of the state machine before the request and after a rejection (PS3.8 9.2.3, Sta2 and
    Sta13): pynetdicom's thread would end with an exception there.
    """
    connection = association.dul.socket
    if connection is not None and connection.socket is not None:
        with suppress(OSError):
            connection.socket.shutdown(socket.SHUT_RDWR)


def _surviving(association: Association, step: Callable[..., Any]) -> Callable[..., None]:
    """A step of pynetdicom's threads after which, whatever happens in it, both end in order."""

    def survive(*arguments: Any) -> None:
        try:
            step(*arguments)
        except Exception as error:  # noqa: BLE001 - any bytes come here, and anything may come of them
            # Not what it says: that quotes them.
            _log.warning(
                "association_broken", address=association.requestor.address, error=type(error).__name__
            )
            hang_up(association)
            association.dul.kill_dul()
            association.dul.to_user_queue.put(None)

    return survive
