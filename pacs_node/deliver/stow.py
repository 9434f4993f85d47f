"""STOW-RS user agent (PS3.18 10.5): sends files as they are, each in a request of its own.

dicomweb-client's `store_instances` re-encodes every data set, retries by itself, sets Host without the port
and hides whether the status was 200 or 202. So only its session and its multipart encoder are used. One
object a request: the HTTP status concerns that object alone, and only one file is in memory.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from dicomweb_client.session_utils import create_session, create_session_from_user_pass
from dicomweb_client.web import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info

from pacs_node.config import Destination
from pacs_node.deliver import answers
from pacs_node.dicom import reach
from pacs_node.errors import DeliveryError
from pacs_node.records import Reply, SendOutcome

CONNECT_SECONDS = 10
ANSWER_SECONDS = 60
CONTENT_TYPE = 'multipart/related; type="application/dicom"; boundary="pacs-node-0f2b6ad8d3c94b9d8c2e"'
_FAILURE_TAGS = (b"00081198", b"0008119A", b"FAILEDSOPSEQUENCE", b"OTHERFAILURESSEQUENCE")

_REFUSED: set[int] = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}
"""Statuses that concern the object itself, so that a retry is pointless. Other failures are retried."""
_ADVICE: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "the service does not accept the object; its log says why",
    HTTPStatus.CONFLICT: "the service stored nothing and does not say why; its log does",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the object is too large; raise the limit there or at its proxy",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "the service does not accept this transfer syntax or media type",
    HTTPStatus.UNPROCESSABLE_ENTITY: "the service cannot process the object; its log says why",
    HTTPStatus.TOO_MANY_REQUESTS: "the service is busy",
    HTTPStatus.SERVICE_UNAVAILABLE: "the service is busy or out of resources",
    HTTPStatus.UNAUTHORIZED: "the user name or the password of this destination is wrong",
    HTTPStatus.FORBIDDEN: "this user may not store there",
    HTTPStatus.NOT_FOUND: "no STOW-RS there; check the url of this destination",
    HTTPStatus.METHOD_NOT_ALLOWED: "no STOW-RS there; check the url of this destination",
}


def store(destination: Destination, _calling_ae_title: str, paths: Sequence[Path]) -> Generator[SendOutcome]:
    """Send files byte for byte and yield the outcome of each, in order.

    Raises DeliveryError, also between two files, if the service cannot be reached or does not respond.
    """
    where = f"{destination.name} ({destination.url})"
    with _session(destination) as session:
        for path in paths:
            uid = str(read_file_meta_info(path).MediaStorageSOPInstanceUID)
            try:
                answer = session.post(
                    f"{destination.url.rstrip('/')}/studies",
                    data=DICOMwebClient._encode_multipart_message([path.read_bytes()], CONTENT_TYPE),
                    headers={"Content-Type": CONTENT_TYPE, "Accept": "application/dicom+json"},
                    timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
                    # A redirected POST becomes a GET, whose 200 would not concern the object.
                    allow_redirects=False,
                    **_tls(destination),
                )
            except requests.RequestException as error:
                raise DeliveryError(f"{where} cannot be reached: {_why(destination, error)}") from None
            yield _outcome(answer, uid)


def search(destination: Destination) -> datetime | None:
    """Check reachability and access by a search for one study (QIDO-RS, PS3.18 10.6).

    Returns the service's Date, if any (RFC 9110 6.6.1). Raises DeliveryError. A service without search counts
    as reachable.
    """
    where = f"{destination.name} ({destination.url})"
    try:
        with _session(destination) as session:
            answer = session.get(
                f"{destination.url.rstrip('/')}/studies",
                params={"limit": 1},
                headers={"Accept": "application/dicom+json"},
                timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
                allow_redirects=False,
                **_tls(destination),
            )
    except requests.RequestException as error:
        raise DeliveryError(f"{where} cannot be reached: {_why(destination, error)}") from None
    away = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}
    if answer.status_code in away or (answer.status_code >= 500 and answer.status_code != 501):
        advice = _ADVICE.get(answer.status_code, "")
        raise DeliveryError(f"{where}: HTTP {answer.status_code} {advice}".rstrip())
    try:
        return parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError):
        return None


def _why(destination: Destination, error: requests.RequestException) -> str:
    """The cause of a failed request. Only the error's kind: its message may hold the user name."""
    kind = type(error).__name__
    if isinstance(error, requests.exceptions.ProxyError):
        return f"{kind}: the proxy of the environment refuses the connection"
    if isinstance(error, requests.exceptions.SSLError):
        return f"{kind}: its certificate is not accepted (see `tls.ca`), or it does not accept this node's"
    url = urlsplit(destination.url)
    try:
        reach.connect(url.hostname or "", url.port or (443 if url.scheme == "https" else 80)).close()
    except DeliveryError as cause:
        return f"{kind}: {cause}"
    return kind


def _session(destination: Destination) -> requests.Session:
    if not destination.username:
        return create_session()
    password = destination.password.get_secret_value()
    return create_session_from_user_pass(destination.username, password)


def _tls(destination: Destination) -> dict[str, Any]:
    """TLS arguments, passed with each request: the environment overrides those of a session."""
    tls = destination.credentials
    if tls is None:
        return {}
    shown = {"cert": (str(tls.certificate), str(tls.key))} if tls.certificate else {}
    return {"verify": str(tls.ca), **shown}


def _outcome(answer: requests.Response, sop_instance_uid: str) -> SendOutcome:
    """Judge the answer to a request with one object (PS3.18 10.5.3, I.2.2).

    An object in FailedSOPSequence was not stored, whatever its FailureReason, the HTTP status and the other
    sequences say. C-STORE's table of warnings applies to WarningReason alone.
    """
    http = f"HTTP {answer.status_code} {answer.reason or ''}".rstrip()
    module, retry_after = _module(answer), _retry_after(answer)
    for keyword in ("FailedSOPSequence", "OtherFailuresSequence"):
        if module.get(keyword):
            items = _items(module, keyword)
            reason = _number(items[0].get("FailureReason")) if items else None
            return answers.stow_failure(reason, f"{http}: {keyword}", retry_after)
    if answer.status_code >= 400:
        advice = _ADVICE.get(answer.status_code)
        reply = Reply.REFUSED if answer.status_code in _REFUSED else Reply.LATER
        return SendOutcome(None, f"{http}: {advice}" if advice else http, reply, retry_after)
    if answer.status_code >= 300:
        return SendOutcome(None, f"{http}: set the url of this destination to where that leads")
    for item in _items(module, "ReferencedSOPSequence"):
        if item.get("ReferencedSOPInstanceUID") == sop_instance_uid:
            return SendOutcome(_number(item.get("WarningReason")) or 0, http, Reply.DELIVERED)
    # 200 means that everything was stored (PS3.18 10.5.3); some servers name nothing, or answer in XML.
    is_xml = answer.headers.get("Content-Type", "").startswith("application/dicom+xml")
    names_failure = any(tag in answer.content.upper() for tag in _FAILURE_TAGS)
    if answer.status_code == HTTPStatus.OK and not names_failure and (is_xml or not answer.content):
        return SendOutcome(0, http, Reply.DELIVERED)
    return SendOutcome(
        None, f"{http}, but the answer does not name the object as stored: is that a STOW-RS service?"
    )


def _module(answer: requests.Response) -> Dataset:
    """The Store Instances Response Module; empty where the answer holds none that can be read."""
    try:
        content = answer.json()
        # Some services wrap the module in an array, as in answers to searches.
        return Dataset.from_json(content[0] if isinstance(content, list) and len(content) == 1 else content)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Dataset()


def _items(module: Dataset, keyword: str) -> Sequence[Dataset]:
    value = module.get(keyword)
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _number(value: object) -> int | None:
    """A reason as a number; None where it is absent, empty or malformed."""
    return value if isinstance(value, int) and 0 <= value <= 0xFFFF else None


def _retry_after(answer: requests.Response) -> float:
    """Seconds of the Retry-After header (RFC 9110 10.2.3), a number or a date; 0 without a usable one."""
    value = answer.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
