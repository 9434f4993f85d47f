"""Limits on peers of the storage SCP: stalls, endless messages, and bytes that break pynetdicom's threads."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from pynetdicom import evt
from pynetdicom.association import Association

LARGEST_REQUEST = 1 << 20
"""More than 128 presentation contexts with every transfer syntax need (PS3.8 9.3.2)."""
LARGEST_OBJECT = 4 << 30
"""The size of the longest element (PS3.5 7.1); an object is received into memory."""

_log = structlog.get_logger(__name__)


def bound(event: evt.Event, stall_seconds: float, max_pdu: int) -> None:
    """Limit the wait inside a PDU and the length of PDUs and messages; end an association in order on errors.

    pynetdicom waits without end inside a PDU, so a stalled sender would hold two threads. It accepts 4 GB for
    one PDU from any peer, and any number of fragments for one message. Malformed bytes end one of its two
    threads, with the data on standard error, while the other keeps waiting.
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
    """End pynetdicom's wait for the request of a closed connection: probes would use up all associations."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)


def hang_up(association: Association) -> None:
    """Close the connection of an association that is not established.

    Before the request and after a rejection A-ABORT is not an event of the state machine (PS3.8 9.2.3, Sta2
    and Sta13): pynetdicom's thread would end with an exception.
    """
    connection = association.dul.socket
    if connection is not None and connection.socket is not None:
        with suppress(OSError):
            connection.socket.shutdown(socket.SHUT_RDWR)


def _surviving(association: Association, step: Callable[..., Any]) -> Callable[..., None]:
    """Wrap a step of pynetdicom's threads so that an exception ends both in order."""

    def survive(*arguments: Any) -> None:
        try:
            step(*arguments)
        except Exception as error:  # noqa: BLE001 - any bytes arrive here
            # Without the message, which quotes the bytes.
            _log.warning(
                "association_broken", address=association.requestor.address, error=type(error).__name__
            )
            hang_up(association)
            association.dul.kill_dul()
            association.dul.to_user_queue.put(None)

    return survive
