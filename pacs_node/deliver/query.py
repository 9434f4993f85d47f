"""C-FIND and C-MOVE SCU, Study Root (PS3.4 C.4.1, C.4.2), and the image count of a study."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.association import Association

from pacs_node.config import Destination, Settings
from pacs_node.deliver import dimse
from pacs_node.errors import DeliveryError
from pacs_node.journal import studies
from pacs_node.journal.database import Database

_log = structlog.get_logger(__name__)

FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
MOVE = UID("1.2.840.10008.5.1.4.1.2.2.2")
SUCCESS, PENDING = 0x0000, 0xFF00
MOVE_BATCH = 100
"""UIDs in one C-MOVE: a list of them is one attribute value, which some archives limit."""
MOVE_SECONDS = 900.0
"""An archive that cannot reach this node may report the move as pending without end."""


@dataclass(frozen=True, slots=True)
class Series:
    """A series at a PACS; `count` is None if the PACS does not state the number of objects."""

    series_instance_uid: str
    modality: str
    count: int | None


@contextmanager
def connect(destination: Destination, calling_ae_title: str) -> Iterator[PacsQuery]:
    """An association with a destination's query AE. Raises DeliveryError if it fails."""
    address = destination.query_address
    if address is None:
        raise DeliveryError(f"{destination.name}: no AE to query; set `query` of this destination")
    contexts = [build_context(FIND), build_context(MOVE)]
    credentials = destination.credentials
    with dimse.associated(destination.name, address, calling_ae_title, contexts, credentials) as association:
        yield PacsQuery(destination.name, association)


class PacsQuery:
    """Queries over one association; each raises DeliveryError without a complete answer."""

    def __init__(self, name: str, association: Association) -> None:
        self._name = name
        self._association = association

    def studies(self, since: date, until: date) -> list[str]:
        """Study Instance UIDs of the studies with a StudyDate from `since` to `until`, both included."""
        return [
            str(match.StudyInstanceUID)
            for match in self._find("STUDY", StudyDate=f"{since:%Y%m%d}-{until:%Y%m%d}", StudyInstanceUID="")
            if match.get("StudyInstanceUID")
        ]

    def series(self, study_instance_uid: str) -> list[Series]:
        """The series of a study."""
        return [
            Series(str(match.SeriesInstanceUID), str(match.get("Modality") or "").strip(), _count(match))
            for match in self._find(
                "SERIES",
                StudyInstanceUID=study_instance_uid,
                SeriesInstanceUID="",
                Modality="",
                NumberOfSeriesRelatedInstances="",
            )
            if match.get("SeriesInstanceUID")
        ]

    def instances(self, study_instance_uid: str, series_instance_uid: str) -> set[str]:
        """SOP Instance UIDs of the objects of a series."""
        matches = self._find(
            "IMAGE",
            StudyInstanceUID=study_instance_uid,
            SeriesInstanceUID=series_instance_uid,
            SOPInstanceUID="",
        )
        return {str(item.SOPInstanceUID) for item in matches if item.get("SOPInstanceUID")}

    def images(
        self, study_instance_uid: str, modalities: Collection[str], here: Mapping[str, Collection[str]]
    ) -> tuple[int, dict[str, list[str]]]:
        """The number of images of these modalities in a study at the PACS, and those not among `here`.

        Both `here` and the missing images map Series to SOP Instance UIDs. A series with as many images here
        as there counts as complete; others, and those without a count, are queried by UID.
        NumberOfStudyRelatedInstances is not used: it counts reports and this node's results.
        """
        expected, missing = 0, {}
        for series in self.series(study_instance_uid):
            if series.modality not in modalities:
                continue
            ours = set(here.get(series.series_instance_uid, ()))
            count = series.count
            if count is None or count > len(ours):
                there = self.instances(study_instance_uid, series.series_instance_uid)
                count = len(there)
                if there - ours:
                    missing[series.series_instance_uid] = sorted(there - ours)
            expected += count
        return expected, missing

    def move(
        self, study_instance_uid: str, series_instance_uid: str, images: Sequence[str], to_ae_title: str
    ) -> None:
        """Request images of a series for an AE and wait until they are sent, at most MOVE_SECONDS.

        The PACS must know the address of that AE title.
        """
        for start in range(0, len(images), MOVE_BATCH):
            batch = images[start : start + MOVE_BATCH]
            wanted = _identifier(
                "IMAGE",
                StudyInstanceUID=study_instance_uid,
                SeriesInstanceUID=series_instance_uid,
                SOPInstanceUID=list(batch),
            )
            status, end = Dataset(), time.monotonic() + MOVE_SECONDS
            try:
                # pynetdicom yields every response; the last has the final status (PS3.4 C.4.2.1.5).
                for status, _ in self._association.send_c_move(wanted, to_ae_title, MOVE):
                    if time.monotonic() > end and status.get("Status") == PENDING:
                        self._association.abort()
                        raise DeliveryError(f"{self._name} did not end a C-MOVE in {MOVE_SECONDS:g} s")
            except (ValueError, RuntimeError) as error:
                raise DeliveryError(f"{self._name} does not accept C-MOVE: {error}") from None
            if status.get("Status") != SUCCESS:
                why = describe("C-MOVE", status)
                raise DeliveryError(f"{self._name} did not send {len(batch)} images to {to_ae_title}: {why}")

    def _find(self, level: str, **keys: str) -> list[Dataset]:
        try:
            answers = list(self._association.send_c_find(_identifier(level, **keys), FIND))
        except (ValueError, RuntimeError) as error:
            raise DeliveryError(f"{self._name} does not accept C-FIND: {error}") from None
        *matches, (status, _) = answers
        if status.get("Status") != SUCCESS:
            raise DeliveryError(f"{self._name} gave no complete answer: {describe('C-FIND', status)}")
        if any(match is None for _, match in matches):
            raise DeliveryError(f"{self._name} returned a C-FIND match that cannot be decoded")
        return [match for _, match in matches if match is not None]


def _identifier(level: str, **keys: str | list[str]) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def _count(match: Dataset) -> int | None:
    try:
        return int(match.get("NumberOfSeriesRelatedInstances"))
    except (TypeError, ValueError):
        return None


def describe(request: str, status: Dataset) -> str:
    """A C-FIND or C-MOVE status in words (PS3.4 C.4.1.1.4, C.4.2.1.5)."""
    code = status.get("Status")
    if code is None:
        return f"the association was lost during the {request}"
    failed = status.get("NumberOfFailedSuboperations")
    comment = status.get("ErrorComment") or (f"{failed} failed" if failed else "")
    return f"{request} status 0x{int(code):04X}" + (f" ({comment})" if comment else "")


def count_study(settings: Settings, database: Database, calling_ae_title: str) -> bool:
    """Query the image count of one study that is due; False if none is.

    The first destination of the study with a query AE is asked. If the query fails, the study just waits for
    its quiet period.
    """
    modalities = settings.study.accept.modalities
    quiet_seconds = settings.study.quiet_seconds
    study = studies.next_to_count(database, quiet_seconds, modalities)
    if study is None:
        return False
    names = settings.destinations_for(set(study.senders))
    pacs = next((to for to in settings.destinations if to.name in names and to.query_address), None)
    try:
        if pacs is None:
            raise DeliveryError("no destination of this study has an AE to query")
        with connect(pacs, calling_ae_title) as connection:
            expected, missing = connection.images(study.study_instance_uid, modalities, study.received)
    except DeliveryError as error:
        studies.record_count_failure(database, study, str(error))
        _log.warning("study_not_counted", study_instance_uid=study.study_instance_uid, why=str(error))
        return True
    uids = sorted(uid for series in missing.values() for uid in series)
    studies.record_count(database, study, quiet_seconds, pacs.name, expected, uids)
    _log.info(
        "study_counted", study_instance_uid=study.study_instance_uid, expected=expected, missing=len(uids)
    )
    return True
