"""What is wrong, or surprising, in settings that are valid by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from pacs_node.config import Settings
from pacs_node.dicom import tls
from pacs_node.operate import housekeeping
from pacs_node.operate.doctor import Check, State

RENEW = timedelta(days=30)


def confirm(settings: Settings) -> None:
    """Look at what only its use can judge: schedules and certificates. Raises ConfigError."""
    for name, cron in settings.schedule:
        housekeeping.trigger(name, cron)
    if settings.tls.receive:
        tls.acceptor(settings.tls)
    if any(one.tls for one in settings.destinations):
        tls.requestor(settings.tls)


def warnings(settings: Settings) -> Iterator[str]:
    """What is allowed and yet rarely meant."""
    if not settings.peers:
        yield "no [[peers]]: anyone may send"
    if not settings.destinations:
        yield "no [[destinations]]: results are made and kept, but sent nowhere"
    peers = {peer.ae_title for peer in settings.peers}
    for one in settings.destinations:
        if peers and one.commitment and one.commitment.ae_title not in peers:
            refused = f"{one.commitment.ae_title} may not answer: it is not among the [[peers]]"
            yield f"destinations.{one.name}.commitment: {refused}"


def check(settings: Settings, name: str) -> Iterator[Check]:
    """`name` is the file that the settings are from, or what else they are."""
    confirm(settings)
    yield Check("configuration", State.OK, f"{name} is valid")
    for warning in warnings(settings):
        yield Check("configuration", State.WARN, warning)


def certificate(settings: Settings) -> Iterator[Check]:
    """Whether peers would accept our certificate, and until when."""
    if not (settings.tls.certificate and settings.tls.ca):
        return
    ends = tls.expiry(settings.tls)
    told = f"the certificate is vouched for by `tls.ca` and valid until {ends.date()}"
    if ends - datetime.now(UTC) < RENEW:
        yield Check("certificate", State.WARN, told, "get a new one, then restart the node")
    else:
        yield Check("certificate", State.OK, told)
