"""C-FIND and C-MOVE SCU, Study Root (PS3.4 C.4.1, C.4.2): what a PACS has, and a request to send it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.association import Association

from pacs_node.config import Destination
from pacs_node.deliver import dimse
from pacs_node.errors import DeliveryError

FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
MOVE = UID("1.2.840.10008.5.1.4.1.2.2.2")
SUCCESS, PENDING = 0x0000, 0xFF00
MOVE_BATCH = 100
"""UIDs in one C-MOVE: a list of them is one attribute value, which some archives limit."""
MOVE_SECONDS = 900.0
"""An archive that cannot reach us may say for ever that it is at it."""


@dataclass(frozen=True, slots=True)
class Series:
    """A series as a PACS describes it; `count` is None where it does not say how many objects there are."""

    series_instance_uid: str
    modality: str
    count: int | None


@contextmanager
def connect(destination: Destination, calling_ae_title: str) -> Iterator[Pacs]:
    """An association with a destination's query AE. Raises DeliveryError where none can be had."""
    address = destination.query_address
    if address is None:
        raise DeliveryError(f"{destination.name}: no AE to query; name one as `query` of this destination")
    contexts = [build_context(FIND), build_context(MOVE)]
    credentials = destination.credentials
    with dimse.associated(destination.name, address, calling_ae_title, contexts, credentials) as association:
        yield Pacs(destination.name, association)


class Pacs:
    """One association with a PACS; each method raises DeliveryError where it has no full answer."""

    def __init__(self, name: str, association: Association) -> None:
        self._name = name
        self._association = association

    def studies(self, since: date, until: date) -> list[str]:
        """Study Instance UIDs of the studies with a StudyDate from `since` to `until`, both included."""
        return [
            str(found.StudyInstanceUID)
            for found in self._find("STUDY", StudyDate=f"{since:%Y%m%d}-{until:%Y%m%d}", StudyInstanceUID="")
            if found.get("StudyInstanceUID")
        ]

    def series(self, study_instance_uid: str) -> list[Series]:
        """The series of a study."""
        return [
            Series(str(found.SeriesInstanceUID), str(found.get("Modality") or "").strip(), _count(found))
            for found in self._find(
                "SERIES",
                StudyInstanceUID=study_instance_uid,
                SeriesInstanceUID="",
                Modality="",
                NumberOfSeriesRelatedInstances="",
            )
            if found.get("SeriesInstanceUID")
        ]

    def instances(self, study_instance_uid: str, series_instance_uid: str) -> set[str]:
        """SOP Instance UIDs of the objects of a series."""
        found = self._find(
            "IMAGE",
            StudyInstanceUID=study_instance_uid,
            SeriesInstanceUID=series_instance_uid,
            SOPInstanceUID="",
        )
        return {str(item.SOPInstanceUID) for item in found if item.get("SOPInstanceUID")}

    def images(
        self, study_instance_uid: str, modalities: Collection[str], here: Mapping[str, Collection[str]]
    ) -> tuple[int, dict[str, list[str]]]:
        """How many images of these modalities a study has there, and which of them are not among `here`.

        `here` maps Series to SOP Instance UIDs; so does what is missing. A series of which as many are here
        as there counts as complete; those of any other, or of one without a count, are asked for by UID.
        NumberOfStudyRelatedInstances is never used: it counts reports and our own results.
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
        """Have images of a series sent to an AE by C-STORE; returns once all were, MOVE_SECONDS at most.

        The PACS must know the address of that AE title.
        """
        for start in range(0, len(images), MOVE_BATCH):
            some = images[start : start + MOVE_BATCH]
            wanted = _identifier(
                "IMAGE",
                StudyInstanceUID=study_instance_uid,
                SeriesInstanceUID=series_instance_uid,
                SOPInstanceUID=list(some),
            )
            status, end = Dataset(), time.monotonic() + MOVE_SECONDS
            try:
                # pynetdicom yields every answer; the last one has the final status (PS3.4 C.4.2.1.5).
                for status, _ in self._association.send_c_move(wanted, to_ae_title, MOVE):
                    if time.monotonic() > end and status.get("Status") == PENDING:
                        self._association.abort()
                        raise DeliveryError(f"{self._name} did not end a C-MOVE in {MOVE_SECONDS:g} s")
            except (ValueError, RuntimeError) as error:
                raise DeliveryError(f"{self._name} takes no C-MOVE: {error}") from None
            if status.get("Status") != SUCCESS:
                why = _told("C-MOVE", status)
                raise DeliveryError(f"{self._name} did not send {len(some)} images to {to_ae_title}: {why}")

    def _find(self, level: str, **keys: str) -> list[Dataset]:
        try:
            answers = list(self._association.send_c_find(_identifier(level, **keys), FIND))
        except (ValueError, RuntimeError) as error:
            raise DeliveryError(f"{self._name} takes no C-FIND: {error}") from None
        *matches, (status, _) = answers
        if status.get("Status") != SUCCESS:
            raise DeliveryError(f"{self._name} did not answer in full: {_told('C-FIND', status)}")
        if any(found is None for _, found in matches):
            raise DeliveryError(f"{self._name} gave a match to the C-FIND that cannot be decoded")
        return [found for _, found in matches if found is not None]


def _identifier(level: str, **keys: str | list[str]) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def _count(found: Dataset) -> int | None:
    try:
        return int(found.get("NumberOfSeriesRelatedInstances"))
    except (TypeError, ValueError):
        return None


def _told(request: str, status: Dataset) -> str:
    """What a status says, for people (PS3.4 C.4.1.1.4, C.4.2.1.5)."""
    code = status.get("Status")
    if code is None:
        return f"the association was lost during the {request}"
    failed = status.get("NumberOfFailedSuboperations")
    comment = status.get("ErrorComment") or (f"{failed} failed" if failed else "")
    return f"{request} status 0x{int(code):04X}" + (f" ({comment})" if comment else "")
