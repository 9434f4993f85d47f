"""Sends due results to one destination and records the outcome of each."""

from __future__ import annotations

import errno
import hashlib
import random
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

import structlog
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from pacs_node.config import Destination
from pacs_node.deliver import dimse, stow
from pacs_node.errors import DeliveryError
from pacs_node.files import FileStore
from pacs_node.journal import deliveries, queue
from pacs_node.journal.database import Database
from pacs_node.records import Delivery, DeliveryState, Reply, SendOutcome

BATCH = 50
FIRST_RETRY_SECONDS = 5.0
LAST_RETRY_SECONDS = 1800.0
LAST_PAUSE_SECONDS = 60.0

LONGEST_RETRY_AFTER_SECONDS = 86400.0

_STORE = {"dimse": dimse.store, "stow": stow.store}
_log = structlog.get_logger(__name__)


def send(
    database: Database,
    files: FileStore,
    destination: Destination,
    calling_ae_title: str,
    claim: queue.Claim[Delivery],
) -> bool:
    """Send claimed results in one association; the journal gets an outcome for each, whatever happens.

    A file that was altered since its commit is not sent. False if the destination could not be reached.
    """
    waiting = []
    for delivery in claim.items:
        fault = _fault(files.path(delivery.sha256), delivery.sha256)
        if fault:
            _record(database, claim.token, destination, delivery, fault)
        else:
            waiting.append(delivery)
    paths = [files.path(delivery.sha256) for delivery in waiting]
    if not paths:
        return True
    try:
        # Always closed: an association left open keeps its thread and the peer's.
        with closing(_STORE[destination.kind](destination, calling_ae_title, paths)) as outcomes:
            for outcome in outcomes:
                _record(database, claim.token, destination, waiting.pop(0), outcome)
    except DeliveryError as error:
        for delivery in waiting:
            _record(database, claim.token, destination, delivery, SendOutcome(None, str(error)))
        deliveries.record_reach(database, destination.name, str(error))
        return False
    deliveries.record_reach(database, destination.name, None)
    return True


def echo(destination: Destination, calling_ae_title: str) -> None:
    """C-ECHO, or one QIDO-RS search for STOW-RS. Raises DeliveryError with the cause of a failure."""
    if destination.address is None:
        stow.search(destination)
    else:
        dimse.refused(destination.name, destination.address, calling_ae_title, (), destination.credentials)


def send_files(
    destination: Destination, calling_ae_title: str, paths: Sequence[Path]
) -> Generator[tuple[Path, SendOutcome]]:
    """Send DICOM files byte for byte and yield the outcome of each, in order, without retries."""
    for start in range(0, len(paths), BATCH):
        waiting = []
        for path in paths[start : start + BATCH]:
            if is_dicom(path):
                waiting.append(path)
            else:
                yield path, SendOutcome(None, "not a DICOM file that can be read", Reply.REFUSED)
        try:
            with closing(_STORE[destination.kind](destination, calling_ae_title, tuple(waiting))) as outcomes:
                for outcome in outcomes:
                    yield waiting.pop(0), outcome
        except DeliveryError as error:
            yield from ((path, SendOutcome(None, str(error))) for path in waiting)


def is_dicom(path: Path) -> bool:
    """Whether a file has the file meta information of a DICOM file (PS3.10 7.1)."""
    try:
        meta = read_file_meta_info(path)
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, NotImplementedError):
        return False
    return {"MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID"} <= set(meta.dir())


def _fault(path: Path, sha256: str) -> SendOutcome | None:
    """Why a result's file cannot be sent; None if it is intact."""
    try:
        with path.open("rb") as file:
            intact = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return SendOutcome(None, f"{path.name}: the file is gone", Reply.REFUSED)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        return SendOutcome(None, f"{path.name}: the file cannot be read: {name}")
    changed = SendOutcome(None, f"{path.name}: the file is not what was stored", Reply.REFUSED)
    return None if intact else changed


def _record(
    database: Database, token: str, destination: Destination, delivery: Delivery, outcome: SendOutcome
) -> None:
    comment = outcome.comment
    state = judge(outcome, delivery.attempts)
    if outcome.reply is Reply.DUPLICATE and deliveries.was_sent(database, delivery):
        # Sent, purged, and made again when the study was received again: the object there is this result.
        state = DeliveryState.SENT
    if state == DeliveryState.PENDING and _is_last(delivery.attempts, destination.max_attempts):
        state = DeliveryState.QUARANTINED
        comment = f"given up after {delivery.attempts} attempts: {comment}"
    retry = 0.0
    if state == DeliveryState.PENDING:
        asked = min(outcome.retry_after, LONGEST_RETRY_AFTER_SECONDS)
        retry = max(retry_seconds(delivery.attempts), asked)
    commitment = destination.commitment is not None
    deliveries.finish_delivery(
        database, token, delivery, state, outcome.status, comment, retry, commitment=commitment
    )
    alarm = state == DeliveryState.QUARANTINED or deliveries.is_stalled(delivery.attempts)
    log = _log.info if state == DeliveryState.SENT else _log.error if alarm else _log.warning
    log(
        "delivery",
        state=str(state),
        study_instance_uid=delivery.study_instance_uid,
        destination=delivery.destination,
        result=delivery.role,
        sop_instance_uid=delivery.sop_instance_uid,
        status=outcome.status,
        # A PACS's comment may quote the data set: it stays in the journal.
        comment=comment if outcome.status is None else None,
        attempt=delivery.attempts,
    )


def _is_last(attempts: int, max_attempts: int) -> bool:
    """Whether attempts are used up; they are never reset, so every `retry` grants as many again."""
    return max_attempts > 0 and attempts % max_attempts == 0


def judge(outcome: SendOutcome, attempts: int) -> DeliveryState:
    """The state of a delivery after its n-th attempt.

    A duplicate counts as sent only after an earlier attempt, whose response was lost. Otherwise the
    destination holds an object of another origin under this UID.
    """
    if outcome.reply is Reply.DELIVERED or (outcome.reply is Reply.DUPLICATE and attempts > 1):
        return DeliveryState.SENT
    return DeliveryState.PENDING if outcome.reply is Reply.LATER else DeliveryState.QUARANTINED


def pause_seconds(unreached: int) -> float:
    """Pause after so many consecutive failures to reach a destination."""
    return min(LAST_PAUSE_SECONDS, retry_seconds(unreached))


def retry_seconds(attempts: int) -> float:
    """Exponential back-off with jitter: 5 s doubled up to half an hour, times 0.5 to 1."""
    delay = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 20))
    return delay * random.uniform(0.5, 1.0)
