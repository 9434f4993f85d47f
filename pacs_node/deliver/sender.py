"""Sends what is due for one destination and records every answer."""

from __future__ import annotations

import random

import structlog
from pydicom.uid import UID

from pacs_node.config import Destination
from pacs_node.deliver import dimse
from pacs_node.errors import DeliveryError
from pacs_node.files import FileStore
from pacs_node.journal import deliveries, queue
from pacs_node.journal.database import Database
from pacs_node.records import Delivery, DeliveryState, SendOutcome

BATCH = 50
FIRST_RETRY_SECONDS = 5.0
LAST_RETRY_SECONDS = 1800.0

SUCCESS = 0x0000
DUPLICATE_SOP_INSTANCE = 0x0111
# PS3.4 B.2.3: coercion of elements, elements discarded, data set does not match SOP class.
WARNINGS = {0xB000, 0xB006, 0xB007}
# PS3.7 annex C and PS3.4 B.2.3, by their high byte: the object itself is refused; to repeat it is no use.
REFUSED = {0xA9, 0xC0, 0xC1, 0xC2, 0xC3}
REFUSED_CODES = {0x0117, 0x0122, 0x0124}

_log = structlog.get_logger(__name__)


def send(
    database: Database,
    files: FileStore,
    destination: Destination,
    calling_ae_title: str,
    claim: queue.Claim[Delivery],
) -> None:
    """Send claimed results in one association; whatever happens, each has an answer in the journal."""
    objects = [(files.path(delivery.sha256), UID(delivery.sop_class_uid)) for delivery in claim.items]
    waiting = list(claim.items)
    try:
        for outcome in dimse.store(destination, calling_ae_title, objects):
            _record(database, claim.token, waiting.pop(0), outcome)
    except DeliveryError as error:
        for delivery in waiting:
            _record(database, claim.token, delivery, SendOutcome(None, str(error)))


def _record(database: Database, token: str, delivery: Delivery, outcome: SendOutcome) -> None:
    state = judge(outcome.status, delivery.attempts)
    retry = retry_seconds(delivery.attempts) if state == DeliveryState.PENDING else 0.0
    deliveries.finish_delivery(database, token, delivery, state, outcome.status, outcome.comment, retry)
    log = _log.info if state == DeliveryState.SENT else _log.warning
    log(
        "delivery",
        state=str(state),
        destination=delivery.destination,
        role=delivery.role,
        sop_instance_uid=delivery.sop_instance_uid,
        status=outcome.status,
        comment=outcome.comment,
        attempt=delivery.attempts,
    )


def judge(status: int | None, attempts: int) -> DeliveryState:
    """What a C-STORE status means for a delivery at its n-th attempt (PS3.4 B.2.3, PS3.7 annex C).

    A duplicate counts as sent only where an attempt of ours came before: its answer was lost on the way.
    Where none did, somebody else's object has our UID. Whatever is not known to be final is tried again.
    """
    if status is None:
        return DeliveryState.PENDING
    if status == SUCCESS or status in WARNINGS:
        return DeliveryState.SENT
    if status == DUPLICATE_SOP_INSTANCE:
        return DeliveryState.SENT if attempts > 1 else DeliveryState.QUARANTINED
    if status in REFUSED_CODES or status >> 8 in REFUSED:
        return DeliveryState.QUARANTINED
    return DeliveryState.PENDING


def retry_seconds(attempts: int) -> float:
    """Exponential back-off with jitter: 5 s doubled up to half an hour, times 0.5 to 1."""
    delay = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 20))
    return delay * random.uniform(0.5, 1.0)
