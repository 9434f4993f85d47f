"""The composition root: wires the rooms into the roles receive, worker, deliver, housekeep and web."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from pydicom.dataset import FileDataset
from structlog.contextvars import bind_contextvars

from pacs_node import lifecycle, tls
from pacs_node.config import Destination, Settings
from pacs_node.deliver import commitment, counting, sender
from pacs_node.errors import AdmissionError
from pacs_node.files import FileStore, SpooledFile
from pacs_node.journal import audit, commitments, deliveries, intake
from pacs_node.journal.database import Database, open_database
from pacs_node.lifecycle import Heartbeat, surviving, work_off
from pacs_node.receive import admission
from pacs_node.receive.scp import StorageScp
from pacs_node.records import CommitmentReport, NodeIdentity

if TYPE_CHECKING:
    from pacs_node.pipeline import Classifier

POLL_SECONDS = 0.2
COMMITMENT_SECONDS = 2.0
"""So often it is looked whether a commitment is to be asked for: nobody waits for it."""
INTAKE_BATCH = 100
HANG_SECONDS = 300.0
"""A worker that is busy with one claim for so long hangs: it ends itself, and the attempt has counted."""
GATHER_SECONDS = 0.1
"""An image waits so long for the next ones: one transaction for many costs the SCP far less."""

_log = structlog.get_logger(__name__)


def receive(settings: Settings, stop: threading.Event) -> None:
    """The role that lets objects in: the storage SCP and the intake."""
    database = open_database(settings.database_url)
    node = database.identity(settings.node.ae_title)
    files = FileStore(settings.storage.path)
    arrived = threading.Event()
    # Read once: what is here spares the intake a second look. After a restart it is empty.
    headers: dict[Path, FileDataset] = {}

    def on_arrival(spooled: SpooledFile, header: FileDataset) -> None:
        headers[spooled.path] = header
        arrived.set()

    def settle(report: CommitmentReport) -> bool:
        return commitments.settle(database, report, sender.retry_seconds)

    secured = tls.acceptor(settings.tls) if settings.tls.receive else None
    scp = StorageScp(
        settings.node, settings.peers, files, settings.storage.min_free_gb, on_arrival, settle, secured
    )
    with Heartbeat(database, "receive") as heartbeat:
        files.sweep()
        scp.start()
        heartbeat.stats = scp.stats
        heartbeat.ready(f"{settings.node.host}:{scp.port}")
        try:
            while not stop.is_set():
                if arrived.wait(POLL_SECONDS):
                    stop.wait(GATHER_SECONDS)
                arrived.clear()
                work_off(stop, "intake", lambda: take_in(settings, database, files, node, headers))
        finally:
            scp.stop()
            with surviving("intake"):
                take_in(settings, database, files, node, headers)


def take_in(
    settings: Settings,
    database: Database,
    files: FileStore,
    node: NodeIdentity,
    headers: dict[Path, FileDataset],
) -> bool:
    """Register one batch of what waits in the spool; True where more may wait. Start-up runs it too.

    Of several receivers over one folder, one at a time does it, for all of them.
    """
    with files.intake() as ours:
        if ours:
            return _take_in(settings, database, files, node, headers)
    # Whoever is at it reads for itself what we have read.
    headers.clear()
    return False


def _take_in(
    settings: Settings,
    database: Database,
    files: FileStore,
    node: NodeIdentity,
    headers: dict[Path, FileDataset],
) -> bool:
    spooled = files.spooled(INTAKE_BATCH)
    arrivals, registered = [], []
    today = datetime.now(UTC).date()
    for item, stored in zip(spooled, files.keep(spooled), strict=True):
        try:
            header = headers.pop(item.path, None) or admission.read_header(stored.path)
            arrivals.append(
                admission.examine(stored, header, item.received_at, settings.study, node.device_uid, today)
            )
            registered.append(item)
        except AdmissionError as error:
            moved = files.set_aside(item)
            _log.error("unreadable_in_spool", path=str(moved), error=str(error))
            with database.write() as connection:
                audit.append(connection, database.clock(), "unreadable", sha256=item.sha256, why=str(error))
    if arrivals:
        intake.register(database, arrivals, settings.study.quiet_seconds)
        for study, count in Counter(one.study_instance_uid for one in arrivals).items():
            _log.info("received", study_instance_uid=study, objects=count)
    files.forget(registered)
    if not spooled:
        # Headers that came later than the intake found their files.
        headers.clear()
    return len(spooled) == INTAKE_BATCH


def worker(settings: Settings, stop: threading.Event, classifier: Callable[[Settings], Classifier]) -> None:
    """The role that analyzes images and reports studies."""
    from pacs_node.worker import Worker

    database = open_database(settings.database_url)
    node = database.identity(settings.node.ae_title)
    files = FileStore(settings.storage.path)
    with Heartbeat(database, "worker", HANG_SECONDS) as heartbeat:
        began = time.monotonic()
        model = classifier(settings)
        loading = {"model_load_seconds": round(time.monotonic() - began, 3)}
        heartbeat.stats = lambda: {**loading, **model.stats()}
        work = Worker(settings, database, files, node, model, heartbeat)
        heartbeat.ready(model.identity.id)
        while not stop.is_set():
            work_off(stop, "worker", work.step)
            stop.wait(POLL_SECONDS)


def deliver(settings: Settings, stop: threading.Event) -> None:
    """The role that sends results: a thread for each destination, so that none holds up another."""
    database = open_database(settings.database_url)
    node = database.identity(settings.node.ae_title)
    files = FileStore(settings.storage.path)
    if any(one.tls for one in settings.destinations):
        # What is wrong with the files is told at once, not at the first delivery.
        tls.requestor(settings.tls)
    with Heartbeat(database, "deliver") as heartbeat:
        unreached: Counter[str] = Counter()

        def send(destination: Destination) -> bool:
            claim = deliveries.claim_deliveries(database, destination.name, sender.BATCH)
            if claim is None:
                return False
            bind_contextvars(study_instance_uid=claim.items[0].study_instance_uid)
            with heartbeat.hold(claim.token):
                reached = sender.send(database, files, destination, node.ae_title, claim)
            if reached:
                del unreached[destination.name]
            else:
                # Where nobody answers, one study at a time tries for all of them.
                unreached[destination.name] += 1
                stop.wait(sender.pause_seconds(unreached[destination.name]))
            return True

        def commit(destination: Destination) -> bool:
            return commitment.step(database, destination, node.ae_title, stop)

        def count() -> bool:
            return counting.step(settings, database, node.ae_title)

        def run(what: str, step: Callable[[], bool], pause: float = POLL_SECONDS) -> None:
            while not stop.is_set():
                work_off(stop, what, step)
                stop.wait(pause)

        work: list[tuple[Any, ...]] = [
            (f"deliver to {one.name}", partial(send, one)) for one in settings.destinations
        ]
        archives = [one for one in settings.destinations if one.commitment]
        work += [(f"commitment of {one.name}", partial(commit, one), COMMITMENT_SECONDS) for one in archives]
        if settings.study.expected_count == "cfind":
            work.append(("counting", count))
        commitments.waive(database, [one.name for one in archives])
        threads = [threading.Thread(target=run, args=job, name=job[0]) for job in work]
        for thread in threads:
            thread.start()
        heartbeat.ready()
        # Not for ever: a signal that another thread took is seen only when this one wakes.
        while not stop.wait(POLL_SECONDS):
            pass
        for thread in threads:
            thread.join()


def housekeep(settings: Settings, stop: threading.Event) -> None:
    """The role that does the calendar work and watches the clock; of several, one does it."""
    from pacs_node.operate import retention
    from pacs_node.operate.checks import Clock
    from pacs_node.operate.housekeeping import Calendar

    database = open_database(settings.database_url)
    clock = Clock(database)
    files = FileStore(settings.storage.path)
    if files.withdrawn():
        with surviving("retention"):
            retention.run(database, files, 0, ())
    with (
        Heartbeat(database, "housekeep") as heartbeat,
        Calendar(database, settings.schedule, calendar_jobs(settings, database)) as calendar,
    ):
        heartbeat.ready()
        while not stop.is_set():
            with surviving("housekeep"):
                clock.check(is_leading=calendar.lead())
            stop.wait(lifecycle.BEAT_SECONDS)


def web(settings: Settings, stop: threading.Event, config: Path | None) -> None:
    """The role that serves the pages, /metrics and /health."""
    from pacs_node.analyze import decode, pixels
    from pacs_node.web import app, server

    database = open_database(settings.database_url)
    files = FileStore(settings.storage.path)
    services = app.Services(
        display=lambda sha256: pixels.prepare(decode.read(files.path(sha256))).display,
        try_out=partial(server.try_out, config),
    )
    with Heartbeat(database, "web") as heartbeat:
        pages = app.create(settings, database, files, services, stop)
        server.run(pages, settings, heartbeat.ready, stop)


def calendar_jobs(settings: Settings, database: Database) -> dict[str, Callable[[], dict[str, Any]]]:
    """The work of each key of `[schedule]`, by that key; each returns what it did."""
    from pacs_node.operate import backup, checks, retention, validation

    storage, files = settings.storage, FileStore(settings.storage.path)
    committing = [destination.name for destination in settings.destinations if destination.commitment]
    return {
        "validation": lambda: {"verdict": validation.run(database, settings.validation).verdict},
        "retention": lambda: retention.run(database, files, storage.retention_days, committing),
        "backup": lambda: backup.run(database, storage.path / "backups", storage.backups),
        "disk": lambda: checks.disk(database, files, storage.min_free_gb),
        "echo": lambda: checks.destinations(database, settings.destinations, settings.node.ae_title),
    }


def served_classifier(settings: Settings) -> Classifier:
    """The classifier of the model package in the settings."""
    from pacs_node.analyze import package
    from pacs_node.analyze.classifier import Classifier as Network

    model = settings.model
    return Network(package.load(model.path), model.device, model.threshold, model.batch, model.scope_limit)
