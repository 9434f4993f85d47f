"""Senders of studies as PACSs send them: interleaved, in parallel, cut off, repeated."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from pydicom.filereader import read_file_meta_info
from pynetdicom import AE, evt

from pacs_node.dicom.header import derive_uid
from pacs_node.journal.database import Database
from pacs_node.journal.schema import ReportRow, StudyRow
from support import phantom

SUCCESS = 0x0000
SENDERS = 3


@dataclass(eq=False)
class Image:
    """One image to send, and how often it was acknowledged."""

    path: Path
    study: str
    uid: str
    sop_class: str
    sha256: str
    """Of the data set, without preamble and file meta."""
    is_late: bool = False
    """It comes only after a report of its study."""
    acknowledged: int = 0


@dataclass
class Senders:
    """Sends studies to the node as PACSs do: interleaved, in parallel, cut off, repeated."""

    ports: Sequence[int]
    folder: Path
    seed: str
    enough: threading.Event
    journal: Database
    """Of the node: late images wait until it has a report of their study."""
    allowed: int = 4
    """How many studies may have been begun by now."""
    images: list[Image] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._waiting: list[tuple[float, Image]] = []
        self._late: list[Image] = []
        self._looks_at = 0.0
        self._lock = threading.Lock()
        self._begun = 0
        self._dice = random.Random(f"{self.seed} studies")
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"sender-{number}")
            for number in range(SENDERS)
        ]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Return when every image of the studies begun is acknowledged; `enough` must be set."""
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        dice = random.Random(f"{self.seed} sender {number}")
        while True:
            batch = self._take(dice)
            if batch:
                self._send(batch, dice)
            elif self.enough.is_set() and not self._waiting and not self._late:
                return
            self.enough.wait(dice.uniform(0.02, 0.25))

    def _take(self, dice: random.Random) -> list[Image]:
        """A few waiting images of several studies; begins new studies until `enough` is set."""
        now = time.monotonic()
        with self._lock:
            self._release_late(now)
            if len(self._waiting) < 10 and self._begun < self.allowed and not self.enough.is_set():
                self._add_study(now)
            due = [item for item in self._waiting[:15] if item[0] <= now or self.enough.is_set()]
            batch = dice.sample(due, min(len(due), dice.randint(1, 5)))
            for item in batch:
                self._waiting.remove(item)
        return [image for _, image in batch]

    def _add_study(self, now: float) -> None:
        number = self._begun
        self._begun += 1
        fractured = self._dice.random() < 0.5
        views = phantom.two_views(
            int.from_bytes(hashlib.sha256(self.seed.encode()).digest()[:3], "big") * 1000 + number,
            fractured=fractured,
            rows=96,
            columns=80,
        )
        another = deepcopy(views[0])
        another.SOPInstanceUID = another.file_meta.MediaStorageSOPInstanceUID = derive_uid(
            "another", views[0].SOPInstanceUID
        )
        another.InstanceNumber = 2
        for index, view in enumerate([*views, another][: self._dice.choice((1, 2, 2, 3))]):
            path = self.folder / f"{number:05d}-{index}.dcm"
            view.save_as(path, enforce_file_format=True)
            image = Image(
                path, view.StudyInstanceUID, view.SOPInstanceUID, view.SOPClassUID, data_sha256(path)
            )
            self.images.append(image)
            copies = 2 if self._dice.random() < 0.2 else 1
            comes = self._dice.choice(("at once", "soon", "late")) if index else "at once"
            image.is_late = comes == "late"
            if image.is_late:
                self._late += [image] * copies
            else:
                # Soon: about when the others' report is made.
                after = self._dice.uniform(0.2, 2) if comes == "soon" else 0.0
                self._waiting += [(now + after, image)] * copies

    def _release_late(self, now: float) -> None:
        """Send the late images of the studies that have a report by now."""
        if not self._late or now < self._looks_at:
            return
        self._looks_at = now + 0.2
        query = sa.select(StudyRow.study_instance_uid).join(ReportRow, ReportRow.study_id == StudyRow.id)
        with self.journal.read() as connection:
            reported = set(connection.execute(query).scalars())
        self._waiting += [(now, image) for image in self._late if image.study in reported]
        self._late = [image for image in self._late if image.study not in reported]

    def _send(self, batch: list[Image], dice: random.Random) -> None:
        """Send over one association; images that are not acknowledged wait again, as in a PACS."""
        way = dice.choices(("whole", "aborted", "cut"), (6, 1, 2))[0]
        cut_at = dice.randint(1, 4 * len(batch)) if way == "cut" else 0
        stop_at = dice.randrange(len(batch)) if way == "aborted" else len(batch)
        ae = AE(ae_title="SENDER")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
        for sop_class in {image.sop_class for image in batch}:
            ae.add_requested_context(sop_class, "1.2.840.10008.1.2.1")
        # pynetdicom may lose the word that a connection is gone, and then waits in vain for an answer.
        handlers: list[evt.EventHandlerType] = [(evt.EVT_ABORTED, _wake), (evt.EVT_CONN_CLOSE, _wake)]
        if cut_at:
            handlers.append((evt.EVT_PDU_SENT, _Cut(cut_at).on_sent))
        association = ae.associate("127.0.0.1", dice.choice(self.ports), evt_handlers=handlers)
        done: list[Image] = []
        if association.is_established:
            for image in batch[:stop_at]:
                if not association.is_established:
                    break
                status = None
                # RuntimeError: the association was lost just now.
                with suppress(RuntimeError):
                    status = association.send_c_store(image.path).get("Status")
                if status == SUCCESS:
                    done.append(image)
                else:
                    self.failures["no answer" if status is None else f"0x{status:04X}"] += 1
            if association.is_established:
                if way == "aborted":
                    association.abort()
                else:
                    association.release()
        else:
            self.failures["no association"] += 1
        again = list(batch)
        for image in done:
            again.remove(image)
        with self._lock:
            for image in done:
                image.acknowledged += 1
            self._waiting += [(0.0, image) for image in again]


def _wake(event: evt.Event) -> None:
    event.assoc.dimse.msg_queue.put((None, None))


class _Cut:
    """Shuts the connection down right after the n-th PDU, without an A-ABORT."""

    def __init__(self, at: int) -> None:
        self._left = at

    def on_sent(self, event: evt.Event) -> None:
        """Count the PDUs and cut the connection after the last one."""
        self._left -= 1
        connection = event.assoc.dul.socket
        if self._left == 0 and connection is not None and connection.socket is not None:
            with suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)


def data_sha256(path: Path) -> str:
    """Digest of a file's data set, which is what C-STORE carries."""
    with path.open("rb") as file:
        meta = read_file_meta_info(path)
        file.seek(132 + 12 + meta.FileMetaInformationGroupLength)
        return hashlib.sha256(file.read()).hexdigest()
