"""A PACS with moods: down, slow, refusing or half-accepting. It remembers every object that it was sent."""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter, defaultdict
from io import BytesIO

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer

from pacs_node.demo.pacs import Orthanc
from support.scripted_pacs import listen

SUCCESS, OUT_OF_RESOURCES, DUPLICATE = 0x0000, 0xA700, 0x0111
MOODS = {
    "well": 8,
    "slow": 2,
    "rejects": 2,
    "out of resources": 2,
    "aborts before the SR": 3,
    "stores and answers nothing": 3,
    "aborts": 2,
}
"""What an association can meet, and how often."""


class ScriptedPacs:
    """A storage SCP on 127.0.0.1 whose mood is drawn anew for each association, from a seed."""

    ae_title = "PACS"

    def __init__(self, port: int, seed: str, moody: bool = True) -> None:
        self.port = port
        self.moody = moody
        self.moods: Counter[str] = Counter()
        self.sent: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """By SOP Instance UID: the sha256 of each data set that came, stored or not."""
        self._objects: dict[str, bytes] = {}
        self._random = random.Random(f"{seed} PACS")
        self._lock = threading.Lock()
        self._mood: dict[int, str] = {}
        self._server: ThreadedAssociationServer | None = None
        self._calm = threading.Event()

    def start(self) -> None:
        """Listen."""
        ae = AE(ae_title=self.ae_title)
        ae.maximum_associations = 50
        ae.network_timeout = 20
        for sop_class in (SecondaryCaptureImageStorage, ComprehensiveSRStorage, Verification):
            ae.add_supported_context(sop_class, ExplicitVRLittleEndian)
        handlers = (evt.EVT_REQUESTED, self._on_request), (evt.EVT_C_STORE, self._on_store)
        self._server = listen(ae, *handlers, port=self.port)

    def stop(self) -> None:
        """Close the port and abort all associations."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        for association in server.active_associations:
            if association.is_established:
                association.abort()

    def calm(self) -> None:
        """Behave well from now on."""
        self._calm.set()
        if self._server is None:
            self.start()

    def stored(self) -> dict[str, bytes]:
        """By SOP Instance UID: the stored data sets as received, without the pixels."""
        with self._lock:
            return dict(self._objects)

    def _on_request(self, event: evt.Event) -> None:
        with self._lock:
            calm = self._calm.is_set() or not self.moody
            (mood,) = self._random.choices(list(MOODS), list(MOODS.values()))
            mood = "well" if calm else mood
            self.moods[mood] += 1
            self._mood[id(event.assoc)] = mood
        if mood == "rejects":
            # Transient, by the service provider's presentation layer: local limit exceeded (PS3.8 9.3.4).
            event.assoc.acse.send_reject(0x02, 0x03, 0x02)
            evt.trigger(event.assoc, evt.EVT_REJECTED, {})
            event.assoc.kill()

    def _on_store(self, event: evt.Event) -> int:
        request = event.request
        assert isinstance(request, C_STORE)
        mood = self._mood[id(event.assoc)]
        data = event.encoded_dataset(include_meta=False)
        uid = str(request.AffectedSOPInstanceUID)
        is_report = request.AffectedSOPClassUID == ComprehensiveSRStorage
        with self._lock:
            self.sent[uid][hashlib.sha256(data).hexdigest()] += 1
            roll = self._random.random()
        if mood == "slow":
            self._calm.wait(0.3)
        if mood == "out of resources" and roll < 0.7:
            return OUT_OF_RESOURCES
        if (mood == "aborts before the SR" and is_report) or mood == "aborts":
            event.assoc.abort()
            return OUT_OF_RESOURCES
        with self._lock:
            known = uid in self._objects
            # Not the pixels: there are hours of traffic to keep.
            self._objects.setdefault(uid, data.partition(b"\xe0\x7f\x10\x00O")[0])
        if mood == "stores and answers nothing" and roll < 0.7:
            event.assoc.abort()
        return DUPLICATE if known and roll < 0.3 else SUCCESS


class OrthancPacs:
    """A real Orthanc in place of the scripted PACS."""

    ae_title = "ORTHANC"
    moody = False

    def __init__(self, orthanc: Orthanc, node_ae_title: str) -> None:
        self.port = orthanc.address.port
        self.moods: Counter[str] = Counter()
        self.sent: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._orthanc, self._node = orthanc, node_ae_title
        value = {"AET": node_ae_title, "Host": "127.0.0.1", "Port": 104}
        orthanc.rest.put(f"/modalities/{node_ae_title}", value)

    def start(self) -> None:
        """Orthanc runs already."""

    def stop(self) -> None:
        """Make Orthanc forget the node; it goes on running."""
        self._orthanc.rest.call("DELETE", f"/modalities/{self._node}")

    def calm(self) -> None:
        """Orthanc always behaves well."""

    def stored(self) -> dict[str, bytes]:
        """By SOP Instance UID: the data sets that the node sent, as received."""
        rest = self._orthanc.rest
        data_sets = {}
        for instance in rest.get("/instances"):
            if rest.sender(instance) != self._node:
                continue
            file = rest.call("GET", f"/instances/{instance}/file")
            meta = dcmread(BytesIO(file), stop_before_pixels=True).file_meta
            data = file[132 + 12 + meta.FileMetaInformationGroupLength :]
            uid = str(meta.MediaStorageSOPInstanceUID)
            data_sets[uid] = data
            self.sent[uid][hashlib.sha256(data).hexdigest()] = 1
        return data_sets
