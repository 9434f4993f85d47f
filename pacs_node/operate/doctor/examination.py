"""Checks of the node itself: configuration, storage, journal, processes, model; the list of all checks."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from pydicom.dataset import FileDataset

from pacs_node.config import Settings
from pacs_node.dicom import tls
from pacs_node.errors import ModelError
from pacs_node.files import FileStore
from pacs_node.journal import audit, processes, views
from pacs_node.journal.database import Database
from pacs_node.journal.schema import REVISION
from pacs_node.operate import housekeeping
from pacs_node.operate.doctor import Check, State, Step, remote
from pacs_node.operate.problems import ProblemKind, problems

RENEW = timedelta(days=30)
SLOW_FSYNC = 0.05
SYNCS = 20
QUICK_EVENTS = 10_000
CHECKED_ELSEWHERE = {ProblemKind.JOURNAL, ProblemKind.ROLE, ProblemKind.DISK, ProblemKind.DESTINATION}
"""Problems that other checks look for themselves."""


def steps(settings: Settings, name: str, database: Database, phantom: FileDataset) -> list[Step]:
    """All checks, causes before their consequences.

    `name` is the source of the settings, `phantom` an image for the model.
    """
    return [
        Step("configuration", partial(configuration, settings, name)),
        Step("certificate", partial(certificate, settings)),
        Step("storage", partial(storage, settings)),
        Step("database", partial(journal, database)),
        Step("roles and ports", partial(roles, settings, database)),
        *(Step(to.name, partial(remote.destination, settings, to)) for to in settings.destinations),
        Step("model", partial(model, settings, phantom)),
    ]


def confirm(settings: Settings) -> None:
    """Check what only its use can judge: schedules and certificates. Raises ConfigError."""
    for name, cron in settings.schedule:
        housekeeping.trigger(name, cron)
    if settings.tls.receive:
        tls.acceptor(settings.tls)
    if any(destination.tls for destination in settings.destinations):
        tls.requestor(settings.tls)


def warnings(settings: Settings) -> Iterator[str]:
    """Settings that are valid but rarely intended."""
    if not settings.peers:
        yield "no [[peers]]: any AE may send"
    if not settings.destinations:
        yield "no [[destinations]]: results are made and kept, but sent nowhere"
    peers = {peer.ae_title for peer in settings.peers}
    for destination in settings.destinations:
        archive = destination.commitment
        if peers and archive and archive.ae_title not in peers:
            refused = f"{archive.ae_title} may not answer: it is not among the [[peers]]"
            yield f"destinations.{destination.name}.commitment: {refused}"


def configuration(settings: Settings, name: str) -> Iterator[Check]:
    """Validity and surprises of the settings."""
    confirm(settings)
    yield Check("configuration", State.OK, f"{name} is valid")
    for warning in warnings(settings):
        yield Check("configuration", State.WARN, warning)


def certificate(settings: Settings) -> Iterator[Check]:
    """Trust and expiry of the node's TLS certificate."""
    if settings.tls.certificate and settings.tls.ca:
        ends = tls.expiry(settings.tls)
        found = f"trusted by `tls.ca` and valid until {ends.date()}"
        if ends - datetime.now(UTC) < RENEW:
            yield Check("certificate", State.WARN, found, "get a new one, then restart the node")
        else:
            yield Check("certificate", State.OK, found)


def storage(settings: Settings) -> Iterator[Check]:
    """The storage folder: writable, on one file system, with free space, and its fsync time."""
    root = settings.storage.path
    existing = next(path for path in (root, *root.parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".doctor-") as folder:
            _link(root, Path(folder))
            seconds = statistics.median(_sync_seconds(Path(folder) / str(n)) for n in range(SYNCS))
    except OSError as error:
        advice = (
            "spool and files must lie on one file system: mount nothing below storage.path"
            if error.errno == errno.EXDEV
            else f"give the user {os.geteuid()}, who runs this, write permission"
        )
        yield Check("storage", State.FAIL, f"{existing} cannot be used: {error.strerror}", advice)
        return
    yield Check("storage", State.OK, f"{root}: {'writable' if existing == root else 'to be created'}")
    least, free = settings.storage.min_free_gb, shutil.disk_usage(existing).free / 1e9
    found = f"{free:.1f} GB free, storage.min_free_gb = {least:g}"
    advice = "make room, set storage.retention_days, or lower storage.min_free_gb"
    if free < least:
        yield Check("free space", State.FAIL, f"{found}: every image is refused (0xA700)", advice)
    elif free < 2 * least:
        yield Check("free space", State.WARN, f"{found}: images will soon be refused", advice)
    else:
        yield Check("free space", State.OK, found)
    found = (
        f"{seconds * 1000:.1f} ms to store an image durably: up to {1 / seconds:.0f} images/s an association"
    )
    if seconds > SLOW_FSYNC:
        advice = "senders wait this long for each image: use an SSD or a battery-backed write cache"
        yield Check("fsync", State.WARN, found, advice)
    else:
        yield Check("fsync", State.OK, found)


def _link(root: Path, folder: Path) -> None:
    """Link a file from the spool into the store, as the intake does."""
    spool, files = root / "spool" / "tmp", root / "files" / "00"
    source = (spool if spool.exists() else folder) / uuid.uuid4().hex
    target = (files if files.exists() else folder) / f"{source.name}.doctor"
    source.touch()
    try:
        target.hardlink_to(source)
    finally:
        source.unlink()
        target.unlink(missing_ok=True)


def _sync_seconds(path: Path) -> float:
    """Time to sync a file and its folder, as for each received object."""
    with path.open("wb") as file:
        file.write(bytes(100_000))
        file.flush()
        start = time.perf_counter()
        os.fsync(file.fileno())
    descriptor = os.open(path.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return time.perf_counter() - start


def journal(database: Database) -> Iterator[Check]:
    """The database, its schema and pages, and the end of the audit log."""
    revision = database.revision
    if revision is None:
        yield Check("database", State.OK, f"{database.name}: to be created")
        return
    if revision > REVISION:
        found = f"{database.name} was written by a newer pacs-node: schema {revision}, expected {REVISION}"
        advice = "install that version again, or restore the backup from before the upgrade"
        yield Check("database", State.FAIL, found, advice)
        return
    if revision < REVISION:
        found = f"{database.name}: schema {revision}, to be migrated to {REVISION} at the next start"
        yield Check("database", State.OK, found)
        return
    yield Check("database", State.OK, f"{database.name}: reachable, schema {revision}")
    if database.path:
        database.check_pages()
        yield Check("database pages", State.OK, "intact")
    count, problem = audit.verify(database, QUICK_EVENTS)
    if problem:
        advice = "keep the database as it is, and compare it with the last export or backup"
        yield Check("audit log", State.FAIL, problem, advice)
    else:
        yield Check("audit log", State.OK, f"{count} events, the end of the chain is intact")


def roles(settings: Settings, database: Database) -> Iterator[Check]:
    """The last X-ray received, the node's problems, the running roles, and the ports."""
    current = database.revision == REVISION
    running = processes.running(database) if current else []
    newest = views.newest_images(database, 1) if current else []
    if newest:
        when = datetime.fromtimestamp(newest[0].received_at).astimezone()
        sender = f"{newest[0].calling_ae_title} ({newest[0].address})"
        yield Check("received", State.OK, f"last X-ray at {when:%Y-%m-%d %H:%M} from {sender}")
    elif current:
        advice = "does the PACS have a rule that forwards X-rays to this node?"
        yield Check("received", State.WARN, "no X-ray was received yet", advice)
    for problem in problems(settings, database, FileStore(settings.storage.path)) if current else []:
        if problem.kind not in CHECKED_ELSEWHERE:
            what, _, message = str(problem).partition(": ")
            yield Check(what, State(problem.severity), message, problem.advice)
    ready = ", ".join(f"{role.role} {role.address}".rstrip() for role in running if role.ready)
    if missing := ", ".join(processes.missing(running)):
        found = f"not running or not ready: {missing}" + (f"; ready: {ready}" if ready else "")
        yield Check("roles", State.WARN, found, "pacs-node serve")
    else:
        yield Check("roles", State.OK, f"ready: {ready}")
    wanted = [("DICOM port", "receive", settings.node.host, settings.node.port)]
    if settings.web.enabled:
        wanted.append(("web port", "web", settings.web.host, settings.web.port))
    for what, name, host, port in wanted:
        own = [role for role in running if role.role == name and role.host == socket.gethostname()]
        if not port or any(role.address.endswith(f":{port}") for role in own):
            held = f"held by this node's role {name}: {own[0].address}" if own else "any free one"
            yield Check(what, State.OK, held)
            continue
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.create_server((host, port), family=family):
                yield Check(what, State.OK, f"{host}:{port} is free")
        except OSError as error:
            advice = f"set the host of the {what} to an address of this machine, or to 0.0.0.0"
            if error.errno == errno.EADDRINUSE:
                advice = f"another program holds it (`ss -ltnp sport = :{port}`): stop it or change the port"
            elif error.errno in (errno.EACCES, errno.EPERM):
                advice = "ports below 1024 need the capability CAP_NET_BIND_SERVICE; use 11112, or grant it"
            yield Check(what, State.FAIL, f"{host}:{port}: {error.strerror}", advice)


def model(settings: Settings, phantom: FileDataset) -> Iterator[Check]:
    """The model package, its device, and the time of one inference."""
    # Only here: torch takes seconds to load.
    from pacs_node.analyze import decode, package, pixels
    from pacs_node.analyze.classifier import Classifier

    wanted = settings.model
    try:
        loaded = package.load(wanted.path)
    except ModelError as error:
        advice = "install that model package again, or set model.path to another one"
        yield Check("model", State.FAIL, str(error), advice)
        return
    identity = loaded.identity
    yield Check("model", State.OK, f"{identity.id} {identity.version}: its files are unaltered")
    try:
        classifier = Classifier(loaded, wanted.device, wanted.threshold, wanted.batch, wanted.scope_limit)
    except ModelError as error:
        advice = 'install the GPU driver (`nvidia-smi` must answer), or set model.device = "auto"'
        yield Check("device", State.FAIL, str(error), advice)
        return
    yield Check("device", State.OK, f'{classifier.device.type} (model.device = "{wanted.device}")')
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phantom.dcm"
        phantom.save_as(path, enforce_file_format=True)
        for _ in range(2):
            # The second time counts: the first one warms up.
            start = time.perf_counter()
            display = pixels.prepare(decode.read(path)).display
            (prediction,) = classifier.predict([display])
            seconds = time.perf_counter() - start
    found = f"{seconds * 1000:.0f} ms for a phantom of {display.shape[0]} x {display.shape[1]} pixels"
    rate = f"at most {3600 / seconds:.0f} images/h a worker"
    yield Check("inference", State.OK, f"{found} with its heat map, {rate}")
    if prediction.scope is None or not wanted.scope_limit:
        why = "the package has no [scope]" if prediction.scope is None else "model.scope_limit = 0"
        advice = "chests, photographs and noise get a probability, too"
        yield Check("scope", State.WARN, f"images unlike the model's are not refused: {why}", advice)
    else:
        yield Check("scope", State.OK, f"images unlike the model's are refused above {wanted.scope_limit:g}")
