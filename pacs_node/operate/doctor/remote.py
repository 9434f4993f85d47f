"""Checks of a destination: reachability, accepted SOP classes, clock, and its configuration of this node."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
)

from pacs_node.config import ApplicationEntity, Destination, Settings
from pacs_node.deliver import dimse, query, stow
from pacs_node.dicom import reach
from pacs_node.dicom.event_report import PUSH_MODEL
from pacs_node.errors import DeliveryError
from pacs_node.operate.doctor import Check, State
from pacs_node.receive import admission

CLOCK_WARN = timedelta(seconds=10)
CLOCK_FAIL = timedelta(minutes=2)
UNKNOWN_STUDY = "2.25.0"
"""A Study Instance UID that no study has: a C-FIND for it is answered at once."""


def destination(settings: Settings, to: Destination) -> Iterator[Check]:
    """All checks of one destination; without an answer to the C-ECHO, the dependent ones are left out."""
    answers = True
    if to.kind == "stow":
        yield from _stow(to)
    elif to.address:
        for check in _dimse(settings, to, to.address):
            yield check
            answers = answers and (check.state == State.OK or check.what.endswith("C-STORE"))
    if to.query or (to.address and answers):
        yield from _query(settings, to)
    if to.commitment:
        yield from _commitment(settings, to, to.commitment)
    if to.address:
        yield from _its_side(settings, to, to.address)


def _dimse(settings: Settings, to: Destination, address: ApplicationEntity) -> Iterator[Check]:
    what, own = f"{to.name}: C-ECHO", settings.node.ae_title
    sr = Comprehensive3DSRStorage if settings.report.iod == "comprehensive3d" else ComprehensiveSRStorage
    captures = [SecondaryCaptureImageStorage] if settings.report.secondary_capture else []
    wanted = [sr] * ("SR" in to.results) + captures * ("SC" in to.results)
    try:
        missing = dimse.refused(to.name, address, own, wanted, to.credentials)
    except DeliveryError as error:
        yield Check(what, State.FAIL, str(error), f"see `[[destinations]]` {to.name}, or the PACS's own log")
        return
    secured = ", over TLS" if to.tls else ""
    where = f"{address.ae_title} at {address.host}:{address.port}"
    yield Check(what, State.OK, f"{where} answers {own}{secured}")
    if missing:
        found = f"it does not accept {' nor '.join(UID(uid).name for uid in missing)}"
        advice = "allow these SOP classes there, or leave them out by `results` of this destination"
        yield Check(f"{to.name}: C-STORE", State.FAIL, found, advice)
    else:
        names = " and ".join(uid.name for uid in wanted) or "nothing"
        yield Check(f"{to.name}: C-STORE", State.OK, f"it accepts {names}")


def _query(settings: Settings, to: Destination) -> Iterator[Check]:
    what, own = f"{to.name}: C-FIND", settings.node.ae_title
    needed = "counting, `reconcile` and late commitments need it: allow it there, or name `query`"
    try:
        with query.connect(to, own) as connection:
            try:
                connection.series(UNKNOWN_STUDY)
            except DeliveryError as error:
                # Orthanc accepts a C-ECHO from any AE, and hangs up on other requests of an unknown one.
                found = (
                    f"{error}; most often the calling AE title {own} is not registered there for this address"
                )
                yield Check(what, State.FAIL, found, f"register this node there, see `its side`; {needed}")
                return
    except DeliveryError as error:
        wanted = to.query is not None or settings.study.expected_count == "cfind"
        yield Check(what, State.FAIL if wanted else State.WARN, str(error), needed)
    else:
        yield Check(
            what, State.OK, "it answers; `reconcile --fix` also needs this node as a C-MOVE destination"
        )


def _commitment(settings: Settings, to: Destination, address: ApplicationEntity) -> Iterator[Check]:
    what = f"{to.name}: commitment"
    own = settings.node.ae_title
    try:
        missing = dimse.refused(f"{to.name}, commitment", address, own, [PUSH_MODEL], to.credentials)
    except DeliveryError as error:
        yield Check(what, State.FAIL, str(error), "see `commitment` of this destination")
        return
    if missing:
        found = f"{address.ae_title} does not accept storage commitment"
        yield Check(what, State.FAIL, found, "name another AE as `commitment`, or none")
    else:
        found = f"{address.ae_title} accepts requests; it may answer on an association of its own"
        yield Check(what, State.OK, found)


def _stow(to: Destination) -> Iterator[Check]:
    what = f"{to.name}: STOW-RS"
    try:
        theirs = stow.search(to)
    except DeliveryError as error:
        yield Check(what, State.FAIL, str(error), f"see `[[destinations]]` {to.name}: url, username, tls")
        return
    yield Check(what, State.OK, f"{to.url} answers")
    what = f"{to.name}: clock"
    if theirs is None:
        yield Check(what, State.OK, "unknown: its response has no Date")
        return
    ahead = theirs - datetime.now(UTC)
    word = "ahead of" if ahead > timedelta() else "behind"
    found = f"its Date is {abs(ahead).total_seconds():.0f} s {word} this machine's clock"
    state = State.OK if abs(ahead) < CLOCK_WARN else State.WARN if abs(ahead) < CLOCK_FAIL else State.FAIL
    yield Check(what, state, found, "" if state == State.OK else "synchronize both clocks by NTP")


def _its_side(settings: Settings, to: Destination, address: ApplicationEntity) -> Iterator[Check]:
    """The entry for this node in the PACS, and whether that PACS may then send."""
    node, what = settings.node, f"{to.name}: its side"
    try:
        own = reach.local_address(address)
        theirs = sorted({str(info[4][0]) for info in socket.getaddrinfo(address.host, None)})
    except OSError:
        return
    tls = ", TLS" if settings.tls.receive else ""
    port = f"port {node.port}" if node.port else "the port in `pacs-node status`"
    entry = (
        f"register this node there as AE title {node.ae_title}, host {own}, {port}{tls}; forward X-rays to it"
    )
    if node.host not in ("0.0.0.0", "::", own) and _is_loopback(node.host):
        found = f"this node listens on {node.host} only: the PACS cannot reach it"
        yield Check(what, State.FAIL, found, f"node.host = {own!r} or '0.0.0.0'; then {entry}")
        return
    if not any(admission.may_send(settings.peers, address.ae_title, ip) for ip in theirs):
        found = f"associations of {address.ae_title} from {', '.join(theirs)} are refused"
        yield Check(what, State.WARN, found, "name it under [[peers]], unless another AE forwards the images")
    yield Check(what, State.OK, f"{entry} (host: unless NAT or a container lies between)")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
