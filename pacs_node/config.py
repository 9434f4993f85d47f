"""Settings: `config.toml`, overridden by `PACS_NODE__SECTION__KEY` in the environment.

Nothing is read at import; `load` reads the file once and returns frozen settings. Relative paths are relative
to the config file, without one to the working directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    field_serializer,
    field_validator,
    model_validator,
)

from pacs_node import toml
from pacs_node.errors import ConfigError
from pacs_node.records import Outcome

ENV_PREFIX = "PACS_NODE__"


def _ae_title(value: str) -> str:
    """PS3.5 6.2: at most 16 characters of the default repertoire, no backslash, not only spaces."""
    title = value.strip()
    if not title or len(title) > 16 or "\\" in title or not title.isascii() or not title.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


AETitle = Annotated[str, AfterValidator(_ae_title)]
Port = Annotated[int, Field(ge=0, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeSettings(_Section):
    """The node as a DICOM application entity."""

    ae_title: AETitle = Field("PACSNODE", description="our AE title")
    ae_aliases: tuple[AETitle, ...] = Field((), description="other called AE titles that we answer to")
    require_called_ae: bool = Field(False, description="refuse associations that call another AE title")
    host: str = Field("0.0.0.0", description="address to listen on")
    port: Port = Field(11112, description="DICOM port; 0 = any free one")
    max_associations: int = Field(50, ge=1, description="associations served at the same time")
    max_pdu: int = Field(1 << 20, ge=4096, description="largest PDU that we accept, in bytes")
    workers: int = Field(1, ge=1, description="worker processes that `serve` starts")


class StorageSettings(_Section):
    """Where the node keeps what it must not lose."""

    path: Path = Field(Path("storage"), description="directory for files, spool and database")
    database: str = Field("", description="SQLAlchemy URL; empty = SQLite in `path`")
    min_free_gb: float = Field(1.0, ge=0, description="answer Out of Resources (0xA700) below this")
    retention_days: int = Field(
        0, ge=0, description="delete studies this long after they were delivered; 0 = never"
    )
    backups: int = Field(7, ge=0, description="copies of the SQLite database that are kept; 0 = make none")

    @field_serializer("database", when_used="json")
    def _hide_password(self, url: str) -> str:
        return re.sub(r"(://[^:/]*:).*@", r"\1***@", url)


class Peer(_Section):
    """Who may send. No peer at all means that anyone may."""

    name: str = Field(description="your name for it")
    ae_title: AETitle = Field(description="calling AE title")
    host: str = Field("", description="address, network (CIDR) or host name; empty = from anywhere")
    reply_to: tuple[str, ...] = Field((), description="destinations for its studies; empty = all")

    @property
    def network(self) -> IPv4Network | IPv6Network | None:
        """`host` as a network, or None for a host name or an empty value."""
        try:
            return ip_network(self.host, strict=False) if self.host else None
        except ValueError:
            return None


class ApplicationEntity(_Section):
    """A DICOM application entity and where it listens."""

    ae_title: AETitle
    host: str
    port: Port


class Destination(_Section):
    """Where results go."""

    name: str = Field(description="your name for it")
    kind: Literal["dimse", "stow"] = Field(
        "dimse", description='how to send: "dimse" = C-STORE, "stow" = DICOMweb STOW-RS'
    )
    ae_title: AETitle | None = Field(None, description="dimse: AE title to call")
    host: str = Field("", description="dimse: host name or address")
    port: Port = Field(104, description="dimse: DICOM port")
    url: str = Field("", description="stow: DICOMweb service, such as https://pacs.example.org/dicom-web")
    username: str = Field("", description="stow: user name (HTTP Basic)")
    password: SecretStr = Field(SecretStr(""), description="stow: password")
    results: tuple[Literal["SR", "SC"], ...] = Field(("SR", "SC"), description="which results go there")
    outcomes: tuple[Outcome, ...] = Field(
        tuple(Outcome), description="results of studies with these outcomes go there"
    )
    tls: bool = Field(
        False,
        description="dimse: associations with it, its commitment and its query AE use TLS as [tls] says; "
        "stow: its certificate is checked against [tls] ca, and ours is shown",
    )
    max_attempts: int = Field(0, ge=0, description="quarantine after so many attempts; 0 = try for ever")
    commitment: ApplicationEntity | None = Field(
        None, description="ask this AE for storage commitment: {ae_title, host, port}; absent = none"
    )
    query: ApplicationEntity | None = Field(
        None, description="dimse: C-FIND and C-MOVE go to this AE; absent = to the destination itself"
    )

    _credentials: TlsSettings | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _reachable(self) -> Destination:
        if self.kind == "stow":
            if not self.url.startswith(("http://", "https://")):
                raise ValueError(f"destination {self.name}: stow needs url = 'https://...'")
            if self.tls and not self.url.startswith("https://"):
                raise ValueError(f"destination {self.name}: tls needs url = 'https://...'")
            if "@" in urlsplit(self.url).netloc:
                # The url is told in errors, in the audit log and on the web page.
                raise ValueError(f"destination {self.name}: username and password have keys of their own")
        elif not self.ae_title or not self.host:
            raise ValueError(f"destination {self.name}: dimse needs ae_title and host")
        return self

    def secured_by(self, tls: TlsSettings) -> Destination:
        """The same destination, with what it needs where its `tls` is true."""
        secured = self.model_copy()
        secured._credentials = tls
        return secured

    @property
    def credentials(self) -> TlsSettings | None:
        """`[tls]` where connections to it are secured, else None. Raises ConfigError where it has none."""
        if self.tls and self._credentials is None:
            raise ConfigError(f"destinations.{self.name}.tls: [tls] is not known")
        return self._credentials if self.tls else None

    @property
    def address(self) -> ApplicationEntity | None:
        """Where C-STORE goes; None for STOW-RS."""
        if self.ae_title is None or self.kind == "stow":
            return None
        return ApplicationEntity(ae_title=self.ae_title, host=self.host, port=self.port)

    @property
    def query_address(self) -> ApplicationEntity | None:
        """Where C-FIND and C-MOVE go; None where nothing is named."""
        return self.query or self.address


class AcceptSettings(_Section):
    """Which images are analyzed; all others are stored and recorded as skipped."""

    modalities: tuple[Literal["CR", "DX"], ...] = Field(("CR", "DX"), description="Modality (0008,0060)")
    body_parts: tuple[str, ...] = Field(
        (), description="BodyPartExamined (0018,0015); empty = all; images that state none are accepted"
    )


class StudySettings(_Section):
    """When a study is complete and what of it is analyzed."""

    quiet_seconds: float = Field(60.0, ge=0, description="report this long after the last image")
    max_study_age_days: int = Field(0, ge=0, description="skip studies older than this; 0 = off")
    expected_count: Literal["none", "cfind"] = Field(
        "none",
        description='"cfind": ask the PACS how many images the study has; once all are here, a quarter of '
        "the quiet period is enough",
    )
    accept: AcceptSettings = AcceptSettings()


class ModelSettings(_Section):
    """Which model package is served, and how."""

    path: Path = Field(Path("models/fracture-squeezenet-2"), description="folder of the model package")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where it runs")
    threshold: float | None = Field(
        None, gt=0, lt=1, examples=[0.5], description="operating point; absent = the model's own"
    )
    batch: int = Field(8, ge=1, le=256, description="images per forward pass")
    scope_limit: float = Field(
        1.0,
        ge=0,
        description="refuse images that are more unlike those the model knows, 1 = the model's own limit; "
        "0 = check neither that nor the body part",
    )


class ReportSettings(_Section):
    """What the results look like."""

    iod: Literal["comprehensive", "comprehensive3d"] = Field(
        "comprehensive", description="SR SOP class; comprehensive is what most viewers open"
    )
    secondary_capture: bool = Field(
        True, description="send the heat map of each image as a Secondary Capture"
    )
    max_size: int = Field(2048, ge=0, description="long side of the SC in pixels; 0 = as the source")
    label: str = Field(
        "Research use only. Not for diagnosis.", min_length=1, max_length=200, description="on every result"
    )
    failures_per_hour: int = Field(
        20,
        ge=0,
        description="reports that say why a study was not analyzed, for each reason; above that the audit "
        "log alone says so; 0 = none",
    )


def _cron(value: str) -> str:
    """Five fields or nothing; what is in them is judged where the calendar is made.

    APScheduler counts the days of the week from Monday, cron from Sunday: names leave no doubt.
    """
    fields = value.split()
    if fields and (len(fields) != 5 or re.search(r"(?<![/\d])\d", fields[4])):
        raise ValueError("five cron fields, the day of the week by name, such as 0 5 * * mon-fri; or empty")
    return value


Cron = Annotated[str, AfterValidator(_cron)]


class ScheduleSettings(_Section):
    """When the calendar work of the role housekeep is done: cron expressions in local time, or empty."""

    validation: Cron = Field(
        "0 5 * * *", description="periodic validation: minute hour day month weekday (by name); empty = never"
    )
    retention: Cron = Field("30 3 * * *", description="delete what `retention_days` says, and orphan files")
    backup: Cron = Field("0 2 * * *", description="copy the SQLite database and check its integrity")
    disk: Cron = Field("*/10 * * * *", description="compare the free space with twice `min_free_gb`")
    echo: Cron = Field("*/30 * * * *", description="C-ECHO to every destination")


class ValidationSettings(_Section):
    """What came back as labels against what was said, and drift; outside of these limits it is an alarm."""

    days: int = Field(30, ge=1, description="labels and images of so many days are judged")
    reference_days: int = Field(90, ge=1, description="drift is told against so many days before those")
    min_labels: int = Field(20, ge=1, description="fewer positive (negative) labels are too few to judge")
    min_images: int = Field(50, ge=2, description="fewer images of a station are too few to judge")
    min_sensitivity: float = Field(
        0.7, ge=0, le=1, description="alarm when the whole 95 % interval lies below; 0 = off"
    )
    min_specificity: float = Field(
        0.8, ge=0, le=1, description="alarm when the whole 95 % interval lies below; 0 = off"
    )
    max_drift: float = Field(
        0.25, gt=0, le=1, description="largest change of a station's distribution (KS distance); 1 = off"
    )


class WebSettings(_Section):
    """The web page, /metrics and /health. Who may log in stands in `users`; see docs/security.md."""

    enabled: bool = Field(True, description="`serve` starts it")
    host: str = Field(
        "127.0.0.1", description="address to listen on; others than loopback want `tls` or a proxy"
    )
    port: Port = Field(8080, description="HTTP port; 0 = any free one")
    tls: bool = Field(False, description="HTTPS with the certificate of [tls]")
    users: Path = Field(
        Path("users.toml"), description="who may log in, with which role; `pacs-node users` writes it"
    )
    session_minutes: int = Field(60, ge=1, description="log out who did nothing for so long")
    trusted_proxies: tuple[str, ...] = Field(
        (), description="addresses or networks of proxies whose `user_header` and `role_header` are believed"
    )
    user_header: str = Field("X-Forwarded-User", description="header with the user whom a proxy logged in")
    role_header: str = Field(
        "X-Forwarded-Role", description="header with the role: viewer, radiologist, admin"
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for one in given:
            ip_network(one, strict=False)
        return given


class TlsSettings(_Section):
    """TLS, for DICOM as the BCP 195 profile wants it (PS3.15 B.12) and for the web page; files in PEM."""

    certificate: Path | None = Field(
        None, examples=["node.pem"], description="our certificate, with its chain"
    )
    key: Path | None = Field(None, examples=["node.key"], description="its private key, without a passphrase")
    ca: Path | None = Field(
        None, examples=["ca.pem"], description="certificates by which peers and destinations are trusted"
    )
    receive: bool = Field(
        False,
        description="the DICOM port takes TLS only, from peers with a certificate that `ca` vouches for",
    )


class LogSettings(_Section):
    """What the processes print on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severity")
    format: Literal["console", "json"] = Field("console", description="for people or for machines")


class Settings(_Section):
    """All settings. See `config init` for the documented file."""

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
            raise ValueError(f"destinations: every name must be used once, not {names}")
        if (self.tls.receive or self.web.tls) and not (self.tls.certificate and self.tls.key):
            raise ValueError("tls: `tls.receive` and `web.tls` need `tls.certificate` and `tls.key`")
        if (self.tls.receive or any(one.tls for one in self.destinations)) and not self.tls.ca:
            raise ValueError("tls: `tls.receive` and destinations with tls need `tls.ca`")
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

        A peer's `reply_to` rules for what it sent; what came from a sender without one goes to all.
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

        Those in `informed` hold an earlier report of the study; they get the one that replaces it whatever it
        says, or the old one would stand there for good.
        """
        asked = self.destinations_for(calling_ae_titles)
        return {
            role: tuple(
                one.name
                for one in self.destinations
                if (one.name in asked and role in one.results and outcome in one.outcomes)
                or (role == "SR" and one.name in informed)
            )
            for role in ("SC", "SR")
        }


def load(path: Path | None) -> Settings:
    """Settings from a TOML file (None: defaults) and the environment.

    Raises ConfigError naming the file, the key, what is wrong and what would be right.
    """
    data = toml.read(path, if_missing="`pacs-node config init` writes one") if path else {}
    _overlay(data, dict(os.environ))
    settings = toml.validated(Settings, data, path or "the environment")
    base = (path.parent if path else Path()).resolve()
    storage = settings.storage.model_copy(update={"path": base / settings.storage.path})
    model = settings.model.model_copy(update={"path": _model_path(base, settings.model.path)})
    web = settings.web.model_copy(update={"users": base / settings.web.users})
    files = {name: base / path for name, path in settings.tls if isinstance(path, Path)}
    tls = settings.tls.model_copy(update=files)
    destinations = tuple(destination.secured_by(tls) for destination in settings.destinations)
    changes = {"storage": storage, "model": model, "web": web, "tls": tls, "destinations": destinations}
    return settings.model_copy(update=changes)


def _overlay(data: dict[str, Any], environment: dict[str, str]) -> None:
    """Lay PACS_NODE__SECTION__KEY over the file's data; values are read as TOML, else as plain text."""
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
    """The given path, then the package's `models`, then the checkout's; the given one where none exists."""
    package = Path(__file__).parent
    candidates = [base / path, package / path, package.parent / path]
    return next((candidate for candidate in candidates if candidate.is_dir()), candidates[0])
