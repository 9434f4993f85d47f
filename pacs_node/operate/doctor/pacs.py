"""The other side: each destination asked, what it takes, its clock, and what it must be told of us."""

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
from pacs_node.deliver import echo, query, stow
from pacs_node.dicom import reach
from pacs_node.dicom.event_report import PUSH_MODEL
from pacs_node.errors import DeliveryError
from pacs_node.operate.doctor import Check, State
from pacs_node.receive import admission

CLOCK_WARN = timedelta(seconds=10)
CLOCK_FAIL = timedelta(minutes=2)
_NOBODY = "2.25.0"
"""A Study Instance UID that no study has: a C-FIND for it is answered at once."""


def destination(settings: Settings, one: Destination) -> Iterator[Check]:
    """All about one destination; what depends on its answer is left out where it gives none."""
    answers = True
    if one.kind == "stow":
        yield from _stow(one)
    elif one.address:
        for check in _dimse(settings, one, one.address):
            yield check
            answers = answers and (check.state == State.OK or check.what.endswith("C-STORE"))
    if one.query or (one.address and answers):
        yield from _query(settings, one)
    if one.commitment:
        yield from _commitment(settings, one, one.commitment)
    if one.address:
        yield from _tell(settings, one, one.address)


def _dimse(settings: Settings, one: Destination, address: ApplicationEntity) -> Iterator[Check]:
    what, ours = f"{one.name}: C-ECHO", settings.node.ae_title
    sr = Comprehensive3DSRStorage if settings.report.iod == "comprehensive3d" else ComprehensiveSRStorage
    captures = [SecondaryCaptureImageStorage] if settings.report.secondary_capture else []
    wanted = [sr] * ("SR" in one.results) + captures * ("SC" in one.results)
    try:
        missing = echo.refused(one.name, address, ours, wanted, one.credentials)
    except DeliveryError as error:
        yield Check(what, State.FAIL, str(error), f"see `[[destinations]]` {one.name}, or the PACS's own log")
        return
    secured = ", over TLS" if one.tls else ""
    where = f"{address.ae_title} at {address.host}:{address.port}"
    yield Check(what, State.OK, f"{where} answers {ours}{secured}")
    if missing:
        found = f"it takes no {' and no '.join(UID(uid).name for uid in missing)}"
        advice = "allow these SOP classes there, or leave them out by `results` of this destination"
        yield Check(f"{one.name}: C-STORE", State.FAIL, found, advice)
    else:
        names = " and ".join(uid.name for uid in wanted) or "nothing"
        yield Check(f"{one.name}: C-STORE", State.OK, f"it takes {names}")


def _query(settings: Settings, one: Destination) -> Iterator[Check]:
    what, ours = f"{one.name}: C-FIND", settings.node.ae_title
    needed = "counting, `reconcile` and late commitments need it: allow it there, or name `query`"
    try:
        with query.connect(one, ours) as connection:
            try:
                connection.series(_NOBODY)
            except DeliveryError as error:
                # Orthanc lets everybody in for a C-ECHO, and hangs up on what a stranger asks for besides.
                found = f"{error}; most often it does not know our AE title {ours}, or not from this address"
                yield Check(what, State.FAIL, found, f"enter us there, see `its side`; {needed}")
                return
    except DeliveryError as error:
        wanted = one.query is not None or settings.study.expected_count == "cfind"
        yield Check(what, State.FAIL if wanted else State.WARN, str(error), needed)
    else:
        yield Check(what, State.OK, "it answers; `reconcile --fix` also needs it to know us for C-MOVE")


def _commitment(settings: Settings, one: Destination, address: ApplicationEntity) -> Iterator[Check]:
    what = f"{one.name}: commitment"
    ours = settings.node.ae_title
    try:
        missing = echo.refused(f"{one.name}, commitment", address, ours, [PUSH_MODEL], one.credentials)
    except DeliveryError as error:
        yield Check(what, State.FAIL, str(error), "see `commitment` of this destination")
        return
    if missing:
        found = f"{address.ae_title} takes no storage commitment"
        yield Check(what, State.FAIL, found, "name another AE as `commitment`, or none")
    else:
        found = (
            f"{address.ae_title} takes requests; its answer may come as a call of {address.ae_title} to us"
        )
        yield Check(what, State.OK, found)


def _stow(one: Destination) -> Iterator[Check]:
    what = f"{one.name}: STOW-RS"
    try:
        theirs = stow.search(one)
    except DeliveryError as error:
        yield Check(what, State.FAIL, str(error), f"see `[[destinations]]` {one.name}: url, username, tls")
        return
    yield Check(what, State.OK, f"{one.url} answers")
    what = f"{one.name}: clock"
    if theirs is None:
        yield Check(what, State.OK, "not known: its answer has no Date")
        return
    ahead = theirs - datetime.now(UTC)
    word = "ahead of" if ahead > timedelta() else "behind"
    told = f"its Date is {abs(ahead).total_seconds():.0f} s {word} our clock"
    state = State.OK if abs(ahead) < CLOCK_WARN else State.WARN if abs(ahead) < CLOCK_FAIL else State.FAIL
    yield Check(what, state, told, "" if state == State.OK else "set both clocks by NTP; see `own clock`")


def _tell(settings: Settings, one: Destination, address: ApplicationEntity) -> Iterator[Check]:
    """What to type on the other side, and whether it may then send to us."""
    node, what = settings.node, f"{one.name}: its side"
    try:
        here = reach.local_address(address)
        theirs = sorted({str(info[4][0]) for info in socket.getaddrinfo(address.host, None)})
    except OSError:
        return
    tls = ", TLS" if settings.tls.receive else ""
    port = f"port {node.port}" if node.port else "the port in `pacs-node status`"
    told = f"enter us there as AE title {node.ae_title}, host {here}, {port}{tls}, and forward X-rays to it"
    if node.host not in ("0.0.0.0", "::", here) and _is_loopback(node.host):
        found = f"we listen on {node.host} only: it cannot reach us"
        yield Check(what, State.FAIL, found, f"node.host = {here!r} or '0.0.0.0'; then {told}")
        return
    if not any(admission.may_send(settings.peers, address.ae_title, ip) for ip in theirs):
        found = f"if it calls us as {address.ae_title} from {', '.join(theirs)}, we refuse it"
        yield Check(what, State.WARN, found, "name it under [[peers]], unless another AE forwards to us")
    yield Check(what, State.OK, f"{told} (host: unless NAT or a container lies between)")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
