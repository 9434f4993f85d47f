"""Sends what is due for one destination, judges every answer and records it."""

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
from pynetdicom.status import code_to_category

from pacs_node.config import Destination
from pacs_node.deliver import dimse, stow
from pacs_node.errors import DeliveryError
from pacs_node.files import FileStore
from pacs_node.journal import deliveries, queue
from pacs_node.journal.database import Database
from pacs_node.records import Delivery, DeliveryState, SendOutcome

BATCH = 50
FIRST_RETRY_SECONDS = 5.0
LAST_RETRY_SECONDS = 1800.0
LAST_PAUSE_SECONDS = 60.0

DUPLICATE_SOP_INSTANCE = 0x0111
# PS3.7 9.1.1.1.9: invalid SOP instance, SOP class not supported, mistyped argument.
REFUSED = {0x0117, 0x0122, 0x0212}

_STORE = {"dimse": dimse.store, "stow": stow.store}
_log = structlog.get_logger(__name__)


def send(
    database: Database,
    files: FileStore,
    destination: Destination,
    calling_ae_title: str,
    claim: queue.Claim[Delivery],
) -> bool:
    """Send claimed results in one association; whatever happens, each has an answer in the journal.

    Only a file that still is what was committed is sent. False where the destination could not be reached.
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
        # Closed whatever happens: an association that nobody ends keeps its thread and the peer's.
        with closing(_STORE[destination.kind](destination, calling_ae_title, paths)) as outcomes:
            for outcome in outcomes:
                _record(database, claim.token, destination, waiting.pop(0), outcome)
    except DeliveryError as error:
        for delivery in waiting:
            _record(database, claim.token, destination, delivery, SendOutcome(None, str(error)))
        return False
    return True


def send_files(
    destination: Destination, calling_ae_title: str, paths: Sequence[Path]
) -> Generator[tuple[Path, SendOutcome]]:
    """Send DICOM files as they are and yield what was answered to each, in order; nothing is retried."""
    for start in range(0, len(paths), BATCH):
        waiting = []
        for path in paths[start : start + BATCH]:
            if _is_dicom(path):
                waiting.append(path)
            else:
                yield path, SendOutcome(None, "not a DICOM file that can be read", final=True)
        try:
            with closing(_STORE[destination.kind](destination, calling_ae_title, tuple(waiting))) as outcomes:
                for outcome in outcomes:
                    yield waiting.pop(0), outcome
        except DeliveryError as error:
            yield from ((path, SendOutcome(None, str(error))) for path in waiting)


def _is_dicom(path: Path) -> bool:
    """Whether a file says what it is, as a DICOM file must (PS3.10 7.1)."""
    try:
        meta = read_file_meta_info(path)
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, NotImplementedError):
        return False
    return {"MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID"} <= set(meta.dir())


def _fault(path: Path, sha256: str) -> SendOutcome | None:
    """Why a result's file cannot be sent; None where it is what was committed."""
    try:
        with path.open("rb") as file:
            intact = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return SendOutcome(None, f"{path.name}: the file is gone", final=True)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        return SendOutcome(None, f"{path.name}: the file cannot be read: {name}")
    return None if intact else SendOutcome(None, f"{path.name}: the file is not what was stored", final=True)


def _record(
    database: Database, token: str, destination: Destination, delivery: Delivery, outcome: SendOutcome
) -> None:
    comment = outcome.comment
    state = judge(outcome, delivery.attempts)
    if outcome.status == DUPLICATE_SOP_INSTANCE and deliveries.was_sent(database, delivery):
        # Sent, purged, and made again when the study came again: what is there is ours.
        state = DeliveryState.SENT
    if state == DeliveryState.PENDING and _is_last(delivery.attempts, destination.max_attempts):
        state = DeliveryState.QUARANTINED
        comment = f"given up after {delivery.attempts} attempts: {comment}"
    retry = retry_seconds(delivery.attempts) if state == DeliveryState.PENDING else 0.0
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
        # The words of a PACS may quote the data set: they stay in the journal.
        comment=comment if outcome.status is None else None,
        attempt=delivery.attempts,
    )


def _is_last(attempts: int, max_attempts: int) -> bool:
    """Attempts are counted for ever, so every `retry` grants as many again."""
    return max_attempts > 0 and attempts % max_attempts == 0


def judge(outcome: SendOutcome, attempts: int) -> DeliveryState:
    """What an answer means for a delivery at its n-th attempt (PS3.4 B.2.3, PS3.7 9.1.1.1.9 and annex C).

    Success and warnings are delivered. A duplicate counts as sent only where an attempt of ours came before:
    its answer was lost on the way. Where none did, somebody else's object has our UID. Data Set does not
    match SOP Class (0xA9xx), Cannot understand (0xCxxx) and the like are about the object itself: quarantine.
    What is not known to be final is tried again: Out of Resources (0xA7xx), Processing Failure (0x0110), what
    an administrator of the PACS can change (Not Authorized, 0x0124), no answer, no presentation context.
    """
    status = outcome.status
    if outcome.final:
        return DeliveryState.QUARANTINED
    if status is None:
        return DeliveryState.PENDING
    if code_to_category(status) in ("Success", "Warning"):
        return DeliveryState.SENT
    if status == DUPLICATE_SOP_INSTANCE:
        return DeliveryState.SENT if attempts > 1 else DeliveryState.QUARANTINED
    if status in REFUSED or status >> 8 == 0xA9 or status >> 12 == 0xC:
        return DeliveryState.QUARANTINED
    return DeliveryState.PENDING


def pause_seconds(unreached: int) -> float:
    """How long to leave a destination alone that could not be reached so many times in a row."""
    return min(LAST_PAUSE_SECONDS, retry_seconds(unreached))


def retry_seconds(attempts: int) -> float:
    """Exponential back-off with jitter: 5 s doubled up to half an hour, times 0.5 to 1."""
    delay = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 20))
    return delay * random.uniform(0.5, 1.0)
