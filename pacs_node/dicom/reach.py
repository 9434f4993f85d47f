"""Why an application entity gives no association: one step after the other, until one fails."""

from __future__ import annotations

import socket
import ssl

from pacs_node.config import ApplicationEntity, TlsSettings
from pacs_node.dicom import tls
from pacs_node.errors import DeliveryError

CONNECT_SECONDS = 10
ALERT_SECONDS = 2.0
"""With TLS 1.3 a peer refuses our certificate only after the handshake is done for us."""

_NO_TLS = "set `tls = false` for this destination, or name its TLS port"


def why_not(address: ApplicationEntity, credentials: TlsSettings | None) -> str:
    """What stands between us and an AE that gave no association and did not keep us waiting."""
    try:
        connection = connect(address.host, address.port)
    except DeliveryError as error:
        return str(error)
    with connection:
        if credentials:
            return _why_no_tls(connection, address, credentials)
        if _speaks_tls(connection):
            return "it speaks TLS on this port, we do not: set `tls = true` for this destination"
    return "it takes the connection and hangs up: is that its DICOM port?"


def connect(host: str, port: int) -> socket.socket:
    """A TCP connection. Raises DeliveryError that says why there is none."""
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        words = f"the host name {host} is not known: is it right, and does this machine's DNS know it?"
        raise DeliveryError(words) from None
    try:
        return socket.create_connection((host, port), CONNECT_SECONDS)
    except ConnectionRefusedError:
        words = f"port {port} is closed: is the PACS running there, and is the port right?"
    except TimeoutError:
        words = (
            f"no answer within {CONNECT_SECONDS} s: is the host right, and does a firewall let us through?"
        )
    except OSError as error:
        words = f"it cannot be reached: {error.strerror or type(error).__name__}"
    raise DeliveryError(words)


def local_address(address: ApplicationEntity) -> str:
    """Our own address on the way there; nothing is sent. Raises OSError where there is no way."""
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
            return f"TLS: it refuses us ({reason.replace('_', ' ').lower()}): {advice}"
        return f"it speaks no TLS on this port: {_NO_TLS}"
    except OSError:
        # Silence or a hang-up; after the handshake, its answer to an association request that never came.
        if not connected:
            return f"it does not answer to TLS: {_NO_TLS}"
    return "TLS works, but then it hangs up: is that its DICOM port?"


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
