"""N-EVENT-REPORT of the Storage Commitment Push Model (PS3.4 J.3.3): an archive's commitment to objects."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt

from pacs_node.records import CommitmentReport

PUSH_MODEL = UID("1.2.840.10008.1.20.1")
PUSH_MODEL_INSTANCE = UID("1.2.840.10008.1.20.1.1")

Settle = Callable[[CommitmentReport], bool]
"""Records a report durably; False for an unknown transaction."""

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
NO_SUCH_EVENT_TYPE = 0x0113
INVALID_ARGUMENT_VALUE = 0x0115
_EVENT_TYPES = {1, 2}
_REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object",
    0x0119: "another SOP class than was sent",
    0x0122: "SOP class not supported",
    0x0131: "duplicate Transaction UID",
    0x0213: "resource limitation",
}

_log = structlog.get_logger(__name__)


def on_event_report(event: evt.Event, settle: Settle) -> tuple[int, None]:
    """Respond to a report; 0x0000 only once it is recorded (PS3.7 10.1.1.1.8)."""
    if event.event_type not in _EVENT_TYPES:
        return NO_SUCH_EVENT_TYPE, None
    try:
        report = _read(event.event_information)
        known = settle(report)
    except Exception:  # noqa: BLE001 - the association must survive; the archive may repeat the report
        _log.exception("commitment_report_error")
        return PROCESSING_FAILURE, None
    if not known:
        _log.warning("commitment_unknown", transaction_uid=report.transaction_uid)
        return INVALID_ARGUMENT_VALUE, None
    counts = {"committed": len(report.committed), "failed": len(report.failed)}
    _log.info("commitment_report", transaction_uid=report.transaction_uid, **counts)
    return SUCCESS, None


def _read(information: Dataset) -> CommitmentReport:
    return CommitmentReport(
        transaction_uid=str(information.get("TransactionUID") or ""),
        committed=frozenset(
            str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or ()
        ),
        failed={
            str(item.ReferencedSOPInstanceUID): _reason(item)
            for item in information.get("FailedSOPSequence") or ()
        },
    )


def _reason(item: Dataset) -> str:
    """FailureReason (0008,1197) with its meaning (PS3.3 C.14.1.1)."""
    reason = int(item.get("FailureReason") or PROCESSING_FAILURE)
    return f"0x{reason:04X} {_REASONS.get(reason, '')}".rstrip()
