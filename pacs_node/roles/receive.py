"""Role `receive`: the storage SCP and the intake that registers what it stored."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import structlog
from pydicom.dataset import FileDataset

from pacs_node.config import Settings
from pacs_node.deliver import sender
from pacs_node.dicom import tls
from pacs_node.errors import AdmissionError
from pacs_node.files import SpooledFile
from pacs_node.journal import commitments, instances
from pacs_node.node import Node
from pacs_node.receive import admission
from pacs_node.receive.scp import StorageScp
from pacs_node.records import AuditKind, CommitmentReport
from pacs_node.roles import lifecycle
from pacs_node.roles.lifecycle import Heartbeat, surviving, work_off

INTAKE_BATCH = 100
GATHER_SECONDS = 0.1
"""The intake waits this long for more images: one transaction for many costs the SCP far less."""

_log = structlog.get_logger(__name__)


def run(settings: Settings, stop: threading.Event) -> None:
    """Run the storage SCP and the intake until `stop` is set."""
    node = Node.open(settings)
    arrived = threading.Event()
    # Headers read by the SCP spare the intake a second read. After a restart there are none.
    headers: dict[Path, FileDataset] = {}

    def on_arrival(spooled: SpooledFile, header: FileDataset) -> None:
        headers[spooled.path] = header
        arrived.set()

    def settle(report: CommitmentReport) -> bool:
        return commitments.settle(node.database, report, sender.retry_seconds)

    secured = tls.acceptor(settings.tls) if settings.tls.receive else None
    scp = StorageScp(
        settings.node, settings.peers, node.files, settings.storage.min_free_gb, on_arrival, settle, secured
    )
    with Heartbeat(node.database, "receive") as heartbeat:
        node.files.sweep()
        scp.start()
        heartbeat.stats = scp.stats
        heartbeat.ready(f"{settings.node.host}:{scp.port}")
        try:
            while not stop.is_set():
                if arrived.wait(lifecycle.POLL_SECONDS):
                    stop.wait(GATHER_SECONDS)
                arrived.clear()
                work_off(stop, "intake", lambda: take_in(node, headers))
        finally:
            scp.stop()
            with surviving("intake"):
                take_in(node, headers)


def take_in(node: Node, headers: dict[Path, FileDataset]) -> bool:
    """Register one batch of spooled files; True if more may be waiting. Runs at start-up too.

    Of several receivers with one storage folder, one at a time does this for all.
    """
    with node.files.intake() as is_holder:
        if is_holder:
            return _take_in(node, headers)
    # The receiver that holds the intake reads the headers itself.
    headers.clear()
    return False


def _take_in(node: Node, headers: dict[Path, FileDataset]) -> bool:
    spooled = node.files.spooled(INTAKE_BATCH)
    arrivals, registered = [], []
    today = datetime.now(UTC).date()
    for item, stored in zip(spooled, node.files.keep(spooled), strict=True):
        try:
            header = headers.pop(item.path, None) or admission.read_header(stored.path)
            rules, device = node.settings.study, node.identity.device_uid
            arrivals.append(admission.examine(stored, header, item.received_at, rules, device, today))
            registered.append(item)
        except AdmissionError as error:
            moved = node.files.set_aside(item)
            _log.error("unreadable_in_spool", path=str(moved), error=str(error))
            node.database.audit(AuditKind.UNREADABLE, sha256=item.sha256, why=str(error))
    if arrivals:
        instances.register(node.database, arrivals, node.settings.study.quiet_seconds)
        for study, count in Counter(arrival.study_instance_uid for arrival in arrivals).items():
            _log.info("received", study_instance_uid=study, objects=count)
    node.files.forget(registered)
    if not spooled:
        # Of files that the intake found before their headers arrived.
        headers.clear()
    return len(spooled) == INTAKE_BATCH
