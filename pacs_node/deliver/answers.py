"""Meaning of C-STORE statuses and STOW-RS failure reasons, two separate tables."""

from __future__ import annotations

from pynetdicom.status import code_to_category

from pacs_node.records import Reply, SendOutcome

OUT_OF_RESOURCES = "out of resources; free space on the destination"
MISMATCH = "the data set does not match the SOP class, or not its study; the destination's log says where"
NOT_UNDERSTOOD = "the destination cannot understand the object; its log says why"
DUPLICATE = "the destination already holds an object with this UID"
_WORDS = {
    0x0107: "attribute list error; stored with a warning",
    0x0110: "processing failure at the destination; its log says why",
    0x0111: DUPLICATE,
    0x0112: "no such SOP instance",
    0x0117: "invalid SOP instance UID",
    0x0122: "SOP class not supported; enable it at the destination",
    0x0124: "not authorized; allow this node to store there",
    0x0210: "duplicate invocation",
    0x0211: "unrecognized operation; is C-STORE enabled there?",
    0x0212: "mistyped argument",
    0xB000: "stored with coercion of data elements",
    0xB006: "stored; elements were discarded",
    0xB007: "stored; the data set does not match the SOP class",
}
_STOW_WORDS = {
    0xA901: "StudyInstanceUID differs from that of the request",
    0xB007: "the data set does not match the SOP class",
    0xB00E: DUPLICATE,
    0xB00F: "the object is being created by another request, or an earlier attempt failed",
    0xC122: "transfer syntax not supported; enable it at the destination",
}
_STOW_DUPLICATE = {0x0111, 0xB00E}
# PS3.7 9.1.1.1.9: invalid SOP instance, SOP class not supported, mistyped argument.
_REFUSED = {0x0117, 0x0122, 0x0212}


def c_store(status: int, error_comment: str = "") -> SendOutcome:
    """Judge a C-STORE response (PS3.4 B.2.3, PS3.7 9.1.1.1.9 and annex C).

    Success and warnings are delivered. Errors in the object itself are final: Data Set does not match SOP
    Class (0xA9xx), Cannot Understand (0xCxxx) and the like. All others are retried, such as Out of
    Resources (0xA7xx), Processing Failure (0x0110), Not Authorized (0x0124).
    """
    if code_to_category(status) in ("Success", "Warning"):
        reply = Reply.DELIVERED
    else:
        reply = Reply.DUPLICATE if status == 0x0111 else _failure(status)
    words = _WORDS.get(status) or _group(status)
    return SendOutcome(status, "; ".join(filter(None, (words, error_comment))), reply)


def stow_failure(reason: int | None, where: str, retry_after: float = 0.0) -> SendOutcome:
    """Judge an item of FailedSOPSequence or OtherFailuresSequence (PS3.18 I.2.2): it is never delivered.

    `where` names the HTTP status and the sequence; a `reason` of None is absent or unreadable.
    """
    if reason is None:
        return SendOutcome(None, f"{where}, without a FailureReason", Reply.LATER, retry_after)
    words = _STOW_WORDS.get(reason) or _WORDS.get(reason) or _group(reason)
    reply = Reply.DUPLICATE if reason in _STOW_DUPLICATE else _failure(reason)
    comment = f"{where}, FailureReason 0x{reason:04X}" + (f": {words}" if words else "")
    return SendOutcome(reason, comment, reply, retry_after)


def _failure(code: int) -> Reply:
    final = code in _REFUSED or code >> 8 == 0xA9 or code >> 12 == 0xC
    return Reply.REFUSED if final else Reply.LATER


def _group(code: int) -> str:
    groups = {0xA7: OUT_OF_RESOURCES, 0xA9: MISMATCH}
    return groups.get(code >> 8) or (NOT_UNDERSTOOD if code >> 12 == 0xC else "")
