"""Settings: `config.toml`, overridden by `PACS_NODE__SECTION__KEY` in the environment.

Nothing is read at import; `load` reads the file once and returns frozen settings. Relative paths are relative
to the configuration file or, without one, to the working directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, SecretStr, model_validator

from pacs_node import toml
from pacs_node.errors import ConfigError
from pacs_node.records import Outcome

ENV_PREFIX = "PACS_NODE__"
_AE = {"ae_title": "ARCHIVE", "host": "10.0.0.6", "port": 104}


def valid_ae_title(value: str) -> str:
    """PS3.5 6.2: at most 16 characters of the default repertoire, no backslash, not only spaces."""
    title = value.strip()
    if not title or len(title) > 16 or "\\" in title or not title.isascii() or not title.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


def valid_cron(value: str) -> str:
    """Five fields or nothing; the scheduler checks their contents."""
    fields = value.split()
    # APScheduler counts the days of the week from Monday, cron from Sunday: names are unambiguous.
    if fields and (len(fields) != 5 or re.search(r"(?<![/\d])\d", fields[4])):
        raise ValueError("must be empty or five cron fields with weekdays by name, e.g. 0 5 * * mon-fri")
    return value


def valid_network(value: str) -> str:
    ip_network(value, strict=False)
    return value


def without_password(url: str) -> str:
    return re.sub(r"(://[^:/]*:).*@", r"\1***@", url)


AETitle = Annotated[str, AfterValidator(valid_ae_title)]
Port = Annotated[int, Field(ge=0, le=65535)]
Cron = Annotated[str, AfterValidator(valid_cron)]
Network = Annotated[str, AfterValidator(valid_network)]
DatabaseUrl = Annotated[str, PlainSerializer(without_password, when_used="json")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeSettings(_Section):
    """The node as a DICOM application entity."""

    ae_title: AETitle = Field("PACSNODE", description="the node's AE title")
    ae_aliases: tuple[AETitle, ...] = Field((), description="other called AE titles that it answers to")
    require_called_ae: bool = Field(False, description="refuse associations that call any other AE title")
    host: str = Field(
        "", description="address to listen on; empty = all interfaces if there are [[peers]], else loopback"
    )
    port: Port = Field(11112, description="DICOM port; 0 = any free port")
    max_associations: int = Field(50, ge=1, description="limit of simultaneous associations")
    max_pdu: int = Field(1 << 20, ge=4096, description="largest PDU accepted, in bytes")
    workers: int = Field(1, ge=1, description="number of worker processes")


class StorageSettings(_Section):
    """Storage of files and the journal."""

    path: Path = Field(Path("storage"), description="folder of files, spool and database")
    database: DatabaseUrl = Field("", description="SQLAlchemy URL; empty = SQLite in `path`")
    min_free_gb: float = Field(1.0, ge=0, description="refuse images (0xA700) below this much free space")
    retention_days: int = Field(0, ge=0, description="delete studies this long after delivery; 0 = never")
    backups: int = Field(7, ge=0, description="number of backups of the SQLite database to keep; 0 = none")


class Peer(_Section):
    """Systems that may send; without any, every system may."""

    name: str = Field(examples=["pacs"], description="a name of your choice")
    ae_title: AETitle = Field(examples=["ORTHANC"], description="calling AE title")
    host: str = Field(
        "", examples=["10.0.0.0/8"], description="address, network (CIDR) or host name; empty = any"
    )
    reply_to: tuple[str, ...] = Field(
        (), examples=[["pacs"]], description="destinations of its studies; empty = all"
    )

    @property
    def network(self) -> IPv4Network | IPv6Network | None:
        """`host` as a network, or None for a host name or an empty value."""
        try:
            return ip_network(self.host, strict=False) if self.host else None
        except ValueError:
            return None


class ApplicationEntity(_Section):
    """A DICOM application entity and its address."""

    ae_title: AETitle
    host: str
    port: Port


class Destination(_Section):
    """Systems that receive the results."""

    name: str = Field(examples=["pacs"], description="a name of your choice")
    kind: Literal["dimse", "stow"] = Field("dimse", description="dimse = C-STORE, stow = DICOMweb STOW-RS")
    ae_title: AETitle | None = Field(None, examples=["ORTHANC"], description="dimse: called AE title")
    host: str = Field("", examples=["10.0.0.5"], description="dimse: host name or address")
    port: Port = Field(104, examples=[4242], description="dimse: DICOM port")
    url: str = Field("", description="stow: DICOMweb service, e.g. https://pacs.example.org/dicom-web")
    username: str = Field("", description="stow: user name (HTTP Basic)")
    password: SecretStr = Field(SecretStr(""), description="stow: password")
    results: tuple[Literal["SR", "SC"], ...] = Field(("SR", "SC"), description="kinds of results sent there")
    outcomes: tuple[Outcome, ...] = Field(tuple(Outcome), description="outcomes whose results are sent there")
    tls: bool = Field(
        False,
        description="use TLS as in [tls]: for dimse also with its commitment and query AE, for stow only to "
        "check its certificate against `ca` and to present the node's",
    )
    max_attempts: int = Field(0, ge=0, description="attempts before quarantine; 0 = unlimited")
    commitment: ApplicationEntity | None = Field(
        None, examples=[_AE], description="AE for storage commitment; absent = none"
    )
    query: ApplicationEntity | None = Field(
        None, examples=[_AE], description="dimse: AE for C-FIND and C-MOVE; absent = the destination itself"
    )

    _credentials: TlsSettings | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Destination:
        if self.kind == "stow":
            if not self.url.startswith(("http://", "https://")):
                raise ValueError(f"destination {self.name}: stow needs url = 'https://...'")
            if self.tls and not self.url.startswith("https://"):
                raise ValueError(f"destination {self.name}: tls needs url = 'https://...'")
            if "@" in urlsplit(self.url).netloc:
                # Errors, the audit log and the web page show the URL.
                raise ValueError(f"destination {self.name}: username and password have keys of their own")
        elif not self.ae_title or not self.host:
            raise ValueError(f"destination {self.name}: dimse needs ae_title and host")
        return self

    def secured_by(self, tls: TlsSettings) -> Destination:
        """A copy that knows the certificates and keys for its connections."""
        copy = self.model_copy()
        copy._credentials = tls
        return copy

    @property
    def credentials(self) -> TlsSettings | None:
        """`[tls]` if connections to it are secured, else None. Raises ConfigError if it is not known."""
        if self.tls and self._credentials is None:
            raise ConfigError(f"destinations.{self.name}.tls: [tls] is not known")
        return self._credentials if self.tls else None

    @property
    def address(self) -> ApplicationEntity | None:
        """The AE for C-STORE; None for STOW-RS."""
        if self.ae_title is None or self.kind == "stow":
            return None
        return ApplicationEntity(ae_title=self.ae_title, host=self.host, port=self.port)

    @property
    def query_address(self) -> ApplicationEntity | None:
        """The AE for C-FIND and C-MOVE; None if there is none."""
        return self.query or self.address


class AcceptSettings(_Section):
    """Images that are analyzed; all others are stored and recorded as skipped."""

    modalities: tuple[Literal["CR", "DX"], ...] = Field(("CR", "DX"), description="Modality (0008,0060)")
    body_parts: tuple[str, ...] = Field(
        (), description="BodyPartExamined (0018,0015); empty = all; images without one are accepted"
    )


class StudySettings(_Section):
    """When a study counts as complete, and which of its images are analyzed."""

    quiet_seconds: float = Field(60.0, ge=0, description="time from the last image to the report")
    max_study_age_days: int = Field(0, ge=0, description="skip studies older than this; 0 = off")
    expected_count: Literal["none", "cfind"] = Field(
        "none",
        description="cfind: ask the PACS for the number of images; with all here wait a quarter as long",
    )
    accept: AcceptSettings = AcceptSettings()


class ModelSettings(_Section):
    """The model and how it runs."""

    path: Path = Field(Path("models/fracture-squeezenet-2"), description="folder of the model package")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="processor")
    threshold: float | None = Field(
        None, gt=0, lt=1, examples=[0.5], description="operating point; absent = the model's own"
    )
    batch: int = Field(8, ge=1, le=256, description="images per forward pass")
    scope_limit: float = Field(
        1.0,
        ge=0,
        description="how unlike the training images an image may be: 1 = the model's own limit; 0 = check "
        "neither this nor the body part",
    )


class ReportSettings(_Section):
    """Form of the results."""

    iod: Literal["comprehensive", "comprehensive3d"] = Field(
        "comprehensive", description="SOP class of the SR; most viewers open comprehensive only"
    )
    secondary_capture: bool = Field(True, description="also send heat maps, as Secondary Captures")
    max_size: int = Field(2048, ge=0, description="longest side of the SC in pixels; 0 = same as the image")
    label: str = Field(
        "Research use only. Not for diagnosis.", min_length=1, max_length=200, description="on every result"
    )
    failures_per_hour: int = Field(
        20,
        ge=0,
        description="limit of failure reports for the same reason; the audit log has all of them; 0 = none",
    )


class ScheduleSettings(_Section):
    """Scheduled jobs: cron expressions in local time, empty for never."""

    validation: Cron = Field("0 5 * * *", description="validate: minute hour day month weekday (by name)")
    retention: Cron = Field("30 3 * * *", description="delete old studies and orphaned files")
    backup: Cron = Field("0 2 * * *", description="back up the SQLite database and check its integrity")
    disk: Cron = Field("*/10 * * * *", description="warn when free space falls below twice `min_free_gb`")
    echo: Cron = Field("*/30 * * * *", description="check that every destination can be reached")


class ValidationSettings(_Section):
    """Limits for validation against labels and for drift; beyond them there is an alarm."""

    days: int = Field(30, ge=1, description="length of the period that is evaluated")
    reference_days: int = Field(90, ge=1, description="length of the period before it, for drift")
    min_labels: int = Field(20, ge=1, description="positive and negative labels needed for a verdict")
    min_images: int = Field(50, ge=2, description="images of a station needed for a verdict")
    min_sensitivity: float = Field(
        0.7, ge=0, le=1, description="alarm if its whole 95 % CI is below; 0 = off"
    )
    min_specificity: float = Field(
        0.8, ge=0, le=1, description="alarm if its whole 95 % CI is below; 0 = off"
    )
    max_drift: float = Field(
        0.25, gt=0, le=1, description="alarm if a station's KS distance to its past is larger; 1 = off"
    )


class WebSettings(_Section):
    """The web pages, /metrics and /health; docs/security.md describes users and proxies."""

    enabled: bool = Field(True, description="start the web role")
    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback use `tls` or a proxy")
    port: Port = Field(8080, description="HTTP port; 0 = any free port")
    tls: bool = Field(False, description="HTTPS with the certificate of [tls]")
    users: Path = Field(Path("users.toml"), description="user accounts, written by `pacs-node users`")
    session_minutes: int = Field(60, ge=1, description="minutes of inactivity before logout")
    trusted_proxies: tuple[Network, ...] = Field(
        (), description="addresses or networks of proxies whose `user_header` and `role_header` are trusted"
    )
    user_header: str = Field("X-Forwarded-User", description="header with the user name from a proxy")
    role_header: str = Field(
        "X-Forwarded-Role", description="header with the role from a proxy: viewer, radiologist or admin"
    )


class TlsSettings(_Section):
    """TLS for DICOM (BCP 195 profile, PS3.15 B.12) and for the web pages; files in PEM format."""

    certificate: Path | None = Field(None, examples=["node.pem"], description="certificate with its chain")
    key: Path | None = Field(None, examples=["node.key"], description="its private key, without a passphrase")
    ca: Path | None = Field(None, examples=["ca.pem"], description="authorities trusted to certify others")
    receive: bool = Field(False, description="accept only TLS, and only certificates that `ca` issued")


class LogSettings(_Section):
    """The log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest severity logged")
    format: Literal["console", "json"] = Field("console", description="readable text or JSON lines")


class Settings(_Section):
    """All settings; `pacs-node config init` writes the documented file."""

    node: NodeSettings = NodeSettings()
    storage: StorageSettings = StorageSettings()
    peers: tuple[Peer, ...] = ()
    destinations: tuple[Destination, ...] = ()
    study: StudySettings = StudySettings()
    model: ModelSettings = ModelSettings()
    report: ReportSettings = ReportSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    validation: ValidationSettings = ValidationSettings()
    web: WebSettings = WebSettings()
    tls: TlsSettings = TlsSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _names_agree(self) -> Settings:
        names = [destination.name for destination in self.destinations]
        if len(names) != len(set(names)):
            raise ValueError(f"destinations: names must be unique: {names}")
        if (self.tls.receive or self.web.tls) and not (self.tls.certificate and self.tls.key):
            raise ValueError("tls: `tls.receive` and `web.tls` need `tls.certificate` and `tls.key`")
        if (
            self.tls.receive or any(destination.tls for destination in self.destinations)
        ) and not self.tls.ca:
            raise ValueError("tls: `tls.receive` and destinations with TLS need `tls.ca`")
        if bool(self.tls.certificate) != bool(self.tls.key):
            raise ValueError("tls: `tls.certificate` and `tls.key` go together")
        for peer in self.peers:
            for name in set(peer.reply_to) - set(names):
                raise ValueError(f"peers.{peer.name}.reply_to: no destination is named {name!r}")
        return self

    @property
    def database_url(self) -> str:
        """The journal's SQLAlchemy URL."""
        return self.storage.database or f"sqlite:///{self.storage.path / 'journal.sqlite'}"

    def destinations_for(self, calling_ae_titles: set[str]) -> tuple[str, ...]:
        """Names of the destinations for a study that these AE titles sent, in the order of the file.

        A peer's `reply_to` applies to what it sent; without one, results go to all destinations.
        """
        everything = tuple(destination.name for destination in self.destinations)
        wanted: set[str] = set()
        for title in calling_ae_titles:
            replies = [peer.reply_to for peer in self.peers if peer.ae_title == title]
            wanted.update(*(reply or everything for reply in replies or [everything]))
        return tuple(name for name in everything if name in wanted)

    def routes(
        self, calling_ae_titles: set[str], outcome: Outcome, informed: Collection[str] = ()
    ) -> dict[str, tuple[str, ...]]:
        """Names of the destinations for each kind of result of a study with this outcome.

        Destinations in `informed` hold an earlier report, which must not stand as the last word: they get
        the report that replaces it whatever its outcome.
        """
        asked = self.destinations_for(calling_ae_titles)
        return {
            role: tuple(
                destination.name
                for destination in self.destinations
                if (
                    destination.name in asked
                    and role in destination.results
                    and outcome in destination.outcomes
                )
                or (role == "SR" and destination.name in informed)
            )
            for role in ("SC", "SR")
        }


def load(path: Path | None) -> Settings:
    """Settings from a TOML file (None: the defaults) and the environment.

    Raises ConfigError, which names the file, the key, the mistake and the remedy.
    """
    data = toml.read(path, if_missing="`pacs-node config init` writes one") if path else {}
    _overlay(data, dict(os.environ))
    settings = toml.validated(Settings, data, path or "the environment")
    base = (path.parent if path else Path()).resolve()
    tls = settings.tls.model_copy(
        update={key: base / file for key, file in settings.tls if isinstance(file, Path)}
    )
    listening = settings.node.host or ("0.0.0.0" if settings.peers else "127.0.0.1")
    changes = {
        "node": settings.node.model_copy(update={"host": listening}),
        "storage": settings.storage.model_copy(update={"path": base / settings.storage.path}),
        "model": settings.model.model_copy(update={"path": _model_path(base, settings.model.path)}),
        "web": settings.web.model_copy(update={"users": base / settings.web.users}),
        "tls": tls,
        "destinations": tuple(destination.secured_by(tls) for destination in settings.destinations),
    }
    return settings.model_copy(update=changes)


def _overlay(data: dict[str, Any], environment: dict[str, str]) -> None:
    """Override `data` with PACS_NODE__SECTION__KEY; values are TOML, else plain text."""
    for variable in sorted(environment):
        if not variable.startswith(ENV_PREFIX):
            continue
        *sections, key = variable.removeprefix(ENV_PREFIX).lower().split("__")
        target = data
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{variable}: {section} is a list; it can be set in the file only")
        target[key] = toml.parse_value(environment[variable])


def _model_path(base: Path, path: Path) -> Path:
    """The first folder that exists: `path`, the package's `models`, the checkout's; else `path`."""
    package = Path(__file__).parent
    candidates = [base / path, package / path, package.parent / path]
    return next((candidate for candidate in candidates if candidate.is_dir()), candidates[0])
