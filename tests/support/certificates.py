"""Certificates of a hospital's own authority, issued anew in each test session."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest
import trustme

from pacs_node.config import Destination, TlsSettings


@dataclass
class Authority:
    """A certification authority, with its certificate and those that it issues in `folder`."""

    folder: Path
    _authority: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.path)

    def issue(
        self, name: str, *hosts: str, ends: datetime | None = None, trusts: Authority | None = None
    ) -> TlsSettings:
        """A certificate for hosts (this machine), as settings that trust this authority or another one."""
        made = self._authority.issue_cert(*(hosts or ("127.0.0.1", "localhost")), not_after=ends)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.unlink(missing_ok=True)
        for blob in made.cert_chain_pems:
            blob.write_to_path(certificate, append=True)
        made.private_key_pem.write_to_path(key)
        return TlsSettings(certificate=certificate, key=key, ca=(trusts or self).path)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that both sides trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that neither side trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


def destination(port: int, credentials: TlsSettings | None, host: str = "127.0.0.1") -> Destination:
    """The AE title PACS at a port of this machine, over TLS or, without credentials, in plain."""
    made = Destination(name="pacs", ae_title="PACS", host=host, port=port, tls=credentials is not None)
    return made.secured_by(credentials or TlsSettings())


def arguments(credentials: TlsSettings) -> list[str]:
    """dcmtk's TLS options for a certificate and its authority."""
    return ["+tls", str(credentials.key), str(credentials.certificate), "+cf", str(credentials.ca)]
