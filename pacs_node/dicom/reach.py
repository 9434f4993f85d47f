"""Diagnosis of a failed association: name resolution, TCP and TLS, step by step."""

from __future__ import annotations

import socket
import ssl

from pacs_node.config import ApplicationEntity, TlsSettings
from pacs_node.dicom import tls
from pacs_node.errors import DeliveryError

CONNECT_SECONDS = 10
ALERT_SECONDS = 2.0
"""With TLS 1.3 a peer rejects the client's certificate only after the client's handshake is done."""

_NO_TLS = "set `tls = false` for this destination, or name its TLS port"


def diagnose(address: ApplicationEntity, credentials: TlsSettings | None) -> str:
    """The cause of a failed association that did not time out."""
    try:
        connection = connect(address.host, address.port)
    except DeliveryError as error:
        return str(error)
    with connection:
        if credentials:
            return _why_no_tls(connection, address, credentials)
        if _speaks_tls(connection):
            return "this port requires TLS: set `tls = true` for this destination"
    return "it accepts the connection and closes it: is this its DICOM port?"


def connect(host: str, port: int) -> socket.socket:
    """A TCP connection. Raises DeliveryError with the cause of a failure."""
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        words = f"the host name {host} is not known: is it correct, and known to this machine's DNS?"
        raise DeliveryError(words) from None
    try:
        return socket.create_connection((host, port), CONNECT_SECONDS)
    except ConnectionRefusedError:
        words = f"port {port} is closed: is the PACS running there, and is the port correct?"
    except TimeoutError:
        words = (
            f"no answer within {CONNECT_SECONDS} s: is the host correct, and does a firewall block this node?"
        )
    except OSError as error:
        words = f"it cannot be reached: {error.strerror or type(error).__name__}"
    raise DeliveryError(words)


def local_address(address: ApplicationEntity) -> str:
    """This machine's address on the route to an AE; nothing is sent. Raises OSError if there is no route."""
    family, kind, _, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(where)
        return str(probe.getsockname()[0])


def _why_no_tls(connection: socket.socket, address: ApplicationEntity, credentials: TlsSettings) -> str:
    connected = False
    try:
        with tls.requestor(credentials).wrap_socket(connection, server_hostname=address.host) as secured:
            connected = True
            secured.settimeout(ALERT_SECONDS)
            secured.recv(1)
    except ssl.SSLCertVerificationError as error:
        return f"TLS: its certificate is not accepted by `tls.ca`: {error.verify_message}"
    except ssl.SSLError as error:
        reason = error.reason or ""
        if "ALERT" in reason:
            advice = "it must trust the issuer of `tls.certificate`"
            return f"TLS: it rejects this node ({reason.replace('_', ' ').lower()}): {advice}"
        return f"no TLS on this port: {_NO_TLS}"
    except OSError:
        # Silence or a closed connection; after the handshake, the peer waits for an association request.
        if not connected:
            return f"no answer to TLS: {_NO_TLS}"
    return "TLS works, but then it closes the connection: is this its DICOM port?"


def _speaks_tls(connection: socket.socket) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        context.wrap_socket(connection).close()
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
    return True
