"""`doctor --loop`: a phantom goes to the PACS, comes to us by its rule, and the results go back."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import FileDataset

from pacs_node.config import Destination, Settings
from pacs_node.deliver import query, sender
from pacs_node.errors import DeliveryError
from pacs_node.journal import processes, views
from pacs_node.journal.database import Database
from pacs_node.journal.schema import REVISION
from pacs_node.operate.doctor import Check, State
from pacs_node.records import DeliveryState

POLL_SECONDS = 0.2
_ENDED = {"ANALYZED", "SKIPPED", "FAILED"}


@dataclass
class Loop:
    """One round trip; `run` gives a line for each stage with the time it took, and ends where it stops.

    `seconds` is how long a stage is waited for, the quiet period apart.
    """

    settings: Settings
    database: Database
    destination: Destination
    images: Sequence[FileDataset]
    seconds: float
    calling_ae_title: str
    """Whom the phantom comes from: many rules forward nothing that we ourselves sent."""
    _stage: float = field(default_factory=time.monotonic)

    def run(self) -> Iterator[Check]:
        """Raises DeliveryError where the PACS does not take the phantom."""
        running = processes.running(self.database) if self.database.revision == REVISION else []
        missing = processes.missing(running)
        if missing:
            found = f"not running or not ready: {', '.join(missing)}"
            yield Check("loop: node", State.FAIL, found, "start the node first: pacs-node serve")
            return
        name, study_uid = self.destination.name, str(self.images[0].StudyInstanceUID)
        self._send()
        yield self._done("sent", f"{len(self.images)} phantom images to {name}, study {study_uid}")
        # Whatever happens from here on, the PACS has the study.
        yield from self._stages(study_uid)
        patient = f"{self.images[0].PatientID} ({self.images[0].PatientName})"
        told = f"{name} keeps the study {study_uid} of the patient {patient}"
        yield Check(
            "loop: clean up", State.OK, told, f"delete it there; here `show {study_uid}` tells its story"
        )

    def _stages(self, study_uid: str) -> Iterator[Check]:
        name = self.destination.name
        if not self._wait(lambda: len(self._study(study_uid)["instances"]) >= len(self.images)):
            here = len(self._study(study_uid)["instances"])
            advice = (
                f"its forwarding rule: does it fire for DX from {self.calling_ae_title} (else use --as with "
                f"a modality's AE title), and does it send to {self._ours()}? The log of the role receive "
                "names whom we refused"
            )
            found = f"{here} of {len(self.images)} images came to us within {self.seconds:g} s"
            yield Check("loop: forwarded", State.FAIL, found, advice)
            return
        yield self._done("forwarded", f"{name} sent the images to us")
        if not self._wait(lambda: all(one["state"] in _ENDED for one in self._study(study_uid)["instances"])):
            advice = "the log of the role worker"
            yield Check("loop: analyzed", State.FAIL, f"not within {self.seconds:g} s", advice)
            return
        images = self._study(study_uid)["instances"]
        states = ", ".join(sorted({f"{one['state']} {one['reason'] or ''}".strip() for one in images}))
        yield self._done("analyzed", states)
        quiet = self.settings.study.quiet_seconds
        if not self._wait(lambda: self._study(study_uid)["reports"], quiet):
            study = self._study(study_uid)
            found = f"no report: the study is {study['state']} {study['reason'] or ''}".rstrip()
            yield Check("loop: reported", State.FAIL, found, "the log of the role worker")
            return
        (report, *_) = self._study(study_uid)["reports"]
        yield self._done("reported", f"{report['summary']} (quiet period {quiet:g} s)")
        results = self._results(study_uid)
        if not results:
            found = f"nothing of it goes to {name}: its outcome is {report['outcome']}"
            advice = "`results` and `outcomes` of this destination, `reply_to` of the peer that forwarded"
            yield Check("loop: delivered", State.FAIL, found, advice)
            return
        if not self._wait(lambda: all(one["sent_at"] for one in self._results(study_uid))):
            open_ = [one for one in self._results(study_uid) if not one["sent_at"]]
            found = "; ".join(f"{one['role']} {one['state']}: {one['last_comment'] or ''}" for one in open_)
            yield Check("loop: delivered", State.FAIL, found, "`pacs-node quarantine` lists what failed")
            return
        yield self._done("delivered", f"{len(results)} results to {name}")
        yield self._asked(study_uid, results)

    def _asked(self, study_uid: str, results: Sequence[dict[str, Any]]) -> Check:
        if self.destination.query_address is None:
            found = f"{self.destination.name} has no AE to query: look for the SR and SC in a viewer"
            return Check("loop: found", State.WARN, found, "name one as `query` of this destination")

        def missing() -> list[str]:
            with query.connect(self.destination, self.settings.node.ae_title) as pacs:
                series = {str(one["series_instance_uid"]) for one in results}
                there = {uid for one in series for uid in pacs.instances(study_uid, one)}
            return [str(one["role"]) for one in results if one["sop_instance_uid"] not in there]

        try:
            if self._wait(lambda: not missing()):
                return self._done("found", f"by C-FIND: {', '.join(sorted(str(o['role']) for o in results))}")
            found = f"taken with success and not found by C-FIND: {', '.join(missing())}"
        except DeliveryError as error:
            found = str(error)
        return Check("loop: found", State.FAIL, found, "does the query AE look into the same archive?")

    def _send(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{number}.dcm" for number in range(len(self.images))]
            for path, image in zip(paths, self.images, strict=True):
                image.save_as(path, enforce_file_format=True)
            for _, outcome in sender.send_files(self.destination, self.calling_ae_title, paths):
                if sender.judge(outcome, 1) != DeliveryState.SENT:
                    status = "" if outcome.status is None else f"0x{outcome.status:04X} "
                    raise DeliveryError(f"it does not take the phantom: {status}{outcome.comment}")

    def _study(self, study_uid: str) -> dict[str, Any]:
        return views.study(self.database, study_uid) or {"instances": [], "reports": [], "results": []}

    def _results(self, study_uid: str) -> list[dict[str, Any]]:
        results = self._study(study_uid)["results"]
        return [one for one in results if one["destination"] == self.destination.name]

    def _wait(self, condition: Callable[[], object], more: float = 0.0) -> bool:
        deadline = time.monotonic() + self.seconds + more
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _done(self, stage: str, found: str) -> Check:
        now = time.monotonic()
        taken, self._stage = now - self._stage, now
        return Check(f"loop: {stage}", State.OK, f"{found}, {taken:.1f} s")

    def _ours(self) -> str:
        running = processes.running(self.database)
        address = next((role.address for role in running if role.role == "receive"), "")
        return f"{self.settings.node.ae_title}, port {address.rpartition(':')[2]}"
