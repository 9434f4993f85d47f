"""TLS for DICOM: mutual certificates, TLS 1.2 or newer (PS3.15 B.12: BCP 195, RFC 9325)."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from pacs_node.config import TlsSettings
from pacs_node.errors import ConfigError

# RFC 9325 4.2: ephemeral keys and authenticated encryption only. TLS 1.3 has no others.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


_log = structlog.get_logger(__name__)


class _Peer(ssl.SSLSocket):
    """A peer's connection, whose first read does the handshake and logs why it failed."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ssl.SSLEOFError:
            # A load balancer's probe.
            raise
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", "") or (error.reason or "").replace("_", " ").lower()
            _log.warning("tls_refused", address=self.getpeername()[0], why=why)
            raise


class _Acceptor(ssl.SSLContext):
    """Leaves the handshake to the connection's thread, whose reads have a timeout.

    pynetdicom wraps a connection in the accepting thread, where a silent peer would block all others.
    """

    def wrap_socket(self, sock: socket.socket, *_: Any, **__: Any) -> ssl.SSLSocket:
        return super().wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


def acceptor(tls: TlsSettings) -> ssl.SSLContext:
    """Context of the DICOM port: peers need a certificate issued by `tls.ca`.

    Raises ConfigError naming the key whose file is absent, not PEM, or does not match.
    """
    context = _Acceptor(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = _Peer
    context.verify_mode = ssl.CERT_REQUIRED
    # An unread session ticket makes pynetdicom's select report data.
    context.num_tickets = 0
    return _prepared(context, tls)


def requestor(tls: TlsSettings) -> ssl.SSLContext:
    """For outgoing associations: checks certificate and host name, shows the node's certificate, if any.

    Raises ConfigError as `acceptor` does.
    """
    return _prepared(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls)


def _prepared(context: ssl.SSLContext, tls: TlsSettings) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    _trust(context, "ca", tls.ca)
    if tls.certificate and tls.key:
        _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "certificate", tls.certificate)
        _read("key", tls.key)
        try:
            # Without a password argument OpenSSL would prompt on the terminal.
            context.load_cert_chain(tls.certificate, tls.key, password="")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ConfigError(f"tls.key: {tls.key} is not the key of {tls.certificate}") from None
            what = "no private key in PEM without a passphrase"
            raise ConfigError(f"tls.key: {tls.key}: {what}") from None
    return context


def _trust(context: ssl.SSLContext, key: str, path: Path | None) -> None:
    try:
        context.load_verify_locations(cadata=_read(key, path))
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"tls.{key}: {path}: no certificate in PEM") from None


def _read(key: str, path: Path | None) -> str:
    if path is None:
        raise ConfigError(f"tls.{key}: name a file in PEM")
    try:
        return path.read_text(encoding="latin-1")
    except OSError as error:
        raise ConfigError(f"tls.{key}: {path}: cannot be read: {error.strerror}") from None


def expiry(tls: TlsSettings) -> datetime:
    """Expiry of the node's certificate. Raises ConfigError if peers that trust `tls.ca` would reject it.

    Does a handshake in memory, so that everything a peer checks is checked.
    """
    client, server = requestor(tls), acceptor(tls)
    client.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    node = server.wrap_bio(to_server, to_client, server_side=True)
    peer = client.wrap_bio(to_client, to_server)
    try:
        for side in (peer, node, peer, node):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(f"tls.certificate: {tls.certificate}: {error.verify_message}") from None
    certificate = peer.getpeercert() or {}
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
