"""Storage commitment SCU (PS3.4 annex J)."""

from __future__ import annotations

import random
import threading
import time
import uuid

import structlog
from pydicom.dataset import Dataset
from pynetdicom import build_context, evt
from structlog.contextvars import bind_contextvars

from pacs_node.config import Destination
from pacs_node.deliver import dimse, query, sender
from pacs_node.dicom.event_report import PUSH_MODEL, PUSH_MODEL_INSTANCE, on_event_report
from pacs_node.errors import DeliveryError
from pacs_node.journal import commitments
from pacs_node.journal.commitments import Commitment
from pacs_node.journal.database import Database
from pacs_node.records import CommitmentReport

ANSWER_SECONDS = 3600.0
"""Timeout of a commitment report; then a C-FIND checks for the objects."""
WAIT_SECONDS = 3.0
"""Time the association stays open for a report; later ones arrive on an association of the archive."""
POLL_SECONDS = 0.05
REQUEST_STORAGE_COMMITMENT = 1
SUCCESS = 0x0000

_log = structlog.get_logger(__name__)


def step(
    database: Database,
    destination: Destination,
    calling_ae_title: str,
    stop: threading.Event,
    answer_seconds: float = ANSWER_SECONDS,
    wait_seconds: float = WAIT_SECONDS,
) -> bool:
    """Request commitment of one study's sent results, and check overdue requests.

    Returns False if nothing was due.
    """
    late = commitments.overdue(database, destination.name)
    for transaction in late:
        if not stop.is_set():
            bind_contextvars(study_instance_uid=transaction.study_instance_uid)
            _look(database, destination, calling_ae_title, transaction)
    uid = f"2.25.{uuid.uuid4().int}"
    begun = commitments.begin(database, destination.name, uid, answer_seconds)
    if begun is None:
        return bool(late)
    bind_contextvars(study_instance_uid=begun.study_instance_uid)
    _log.info("commitment_requested", transaction_uid=uid)
    try:
        _request(database, destination, calling_ae_title, begun, stop, wait_seconds)
    except DeliveryError as error:
        _log.warning("commitment_request_failed", transaction_uid=uid, why=str(error))
        if database.clock() - begun.sent_at > answer_seconds:
            _look(database, destination, calling_ae_title, begun)
        else:
            _postpone(database, begun, error)
    return True


def _request(
    database: Database,
    destination: Destination,
    calling_ae_title: str,
    transaction: Commitment,
    stop: threading.Event,
    wait_seconds: float,
) -> None:
    """Send an N-ACTION and wait briefly for its report (PS3.4 J.3.2). Raises DeliveryError if refused."""

    def settle(report: CommitmentReport) -> bool:
        return commitments.settle(database, report, sender.retry_seconds)

    address = destination.commitment
    if address is None:
        raise DeliveryError(f"{destination.name}: no AE for storage commitment")
    name = f"{destination.name}, storage commitment"
    contexts = [build_context(PUSH_MODEL)]
    handlers: list[evt.EventHandlerType] = [(evt.EVT_N_EVENT_REPORT, on_event_report, [settle])]
    credentials = destination.credentials
    with dimse.associated(name, address, calling_ae_title, contexts, credentials, handlers) as association:
        try:
            status, _ = association.send_n_action(
                _information(transaction), REQUEST_STORAGE_COMMITMENT, PUSH_MODEL, PUSH_MODEL_INSTANCE
            )
        except (ValueError, RuntimeError) as error:
            raise DeliveryError(f"{name} is not offered: {error}") from None
        code = status.get("Status")
        if code != SUCCESS:
            why = (
                "no response"
                if code is None
                else f"status 0x{int(code):04X} {status.get('ErrorComment', '')}"
            )
            raise DeliveryError(f"{name} refused the N-ACTION: {why}".rstrip())
        deadline = time.monotonic() + wait_seconds
        while (
            time.monotonic() < deadline
            and association.is_established
            and commitments.is_open(database, transaction.uid)
            and not stop.wait(POLL_SECONDS)
        ):
            pass


def _information(transaction: Commitment) -> Dataset:
    """Action Information of the request (PS3.4 table J.3-1)."""
    information = Dataset()
    information.TransactionUID = transaction.uid
    information.ReferencedSOPSequence = []
    for item in transaction.objects:
        reference = Dataset()
        reference.ReferencedSOPClassUID = item.sop_class_uid
        reference.ReferencedSOPInstanceUID = item.sop_instance_uid
        information.ReferencedSOPSequence.append(reference)
    return information


def _look(
    database: Database, destination: Destination, calling_ae_title: str, transaction: Commitment
) -> None:
    """Check by C-FIND which objects the archive has; without an AE to query, request commitment again."""
    try:
        with query.connect(destination, calling_ae_title) as pacs:
            series = sorted({item.series_instance_uid for item in transaction.objects})
            there = {uid for each in series for uid in pacs.instances(transaction.study_instance_uid, each)}
    except DeliveryError as error:
        _log.warning("commitment_query_failed", transaction_uid=transaction.uid, why=str(error))
        _postpone(database, transaction, error)
        return
    own = [item.sop_instance_uid for item in transaction.objects]
    report = CommitmentReport(
        transaction_uid=transaction.uid,
        committed=frozenset(uid for uid in own if uid in there),
        failed={uid: "no report, and not found by C-FIND" for uid in own if uid not in there},
    )
    commitments.settle(database, report, sender.retry_seconds, by_query=True)
    _log.info(
        "commitment_looked_up",
        transaction_uid=transaction.uid,
        committed=len(report.committed),
        failed=len(report.failed),
    )


def _postpone(database: Database, transaction: Commitment, error: DeliveryError) -> None:
    """Retry after as long as the request is old, 5 s to half an hour, times 0.5 to 1."""
    waited = database.clock() - transaction.sent_at
    delay = min(sender.LAST_RETRY_SECONDS, max(sender.FIRST_RETRY_SECONDS, waited))
    commitments.ask_again(database, transaction, delay * random.uniform(0.5, 1.0), str(error))
