"""`doctor --loop`: a phantom goes to the PACS, its rule forwards it to the node, and the results return."""

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
    """One round trip of a phantom study.

    `seconds` is the timeout of each stage, on top of the quiet period.
    """

    settings: Settings
    database: Database
    destination: Destination
    images: Sequence[FileDataset]
    seconds: float
    calling_ae_title: str
    """Calling AE title of the phantom: many rules do not forward what the node itself sent."""
    _stage: float = field(default_factory=time.monotonic)

    def run(self) -> Iterator[Check]:
        """Yield a check for each stage, with its time, up to the first that fails.

        Raises DeliveryError if the PACS does not accept the phantom.
        """
        running = processes.running(self.database) if self.database.revision == REVISION else []
        missing = processes.missing(running)
        if missing:
            found = f"not running or not ready: {', '.join(missing)}"
            yield Check("loop: node", State.FAIL, found, "start the node first: pacs-node serve")
            return
        name, study_uid = self.destination.name, str(self.images[0].StudyInstanceUID)
        self._send()
        yield self._done("sent", f"{len(self.images)} phantom images to {name}, study {study_uid}")
        # From here on the PACS has the study, also if a stage fails.
        yield from self._stages(study_uid)
        patient = f"{self.images[0].PatientID} ({self.images[0].PatientName})"
        kept = f"{name} keeps the study {study_uid} of the patient {patient}"
        advice = f"delete it there; `show {study_uid}` shows its history here"
        yield Check("loop: clean up", State.OK, kept, advice)

    def _stages(self, study_uid: str) -> Iterator[Check]:
        name = self.destination.name
        if not self._wait(lambda: len(self._study(study_uid)["instances"]) >= len(self.images)):
            arrived = len(self._study(study_uid)["instances"])
            advice = (
                f"its forwarding rule: does it match DX from {self.calling_ae_title} (else use --as with a "
                f"modality's AE title), and does it send to {self._own_address()}? "
                "The log of the role receive names rejected senders"
            )
            found = f"{arrived} of {len(self.images)} images arrived within {self.seconds:g} s"
            yield Check("loop: forwarded", State.FAIL, found, advice)
            return
        yield self._done("forwarded", f"{name} sent the images to this node")
        if not self._wait(
            lambda: all(image["state"] in _ENDED for image in self._study(study_uid)["instances"])
        ):
            advice = "the log of the role worker"
            yield Check("loop: analyzed", State.FAIL, f"not within {self.seconds:g} s", advice)
            return
        images = self._study(study_uid)["instances"]
        states = ", ".join(sorted({f"{image['state']} {image['reason'] or ''}".strip() for image in images}))
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
            found = f"no result is routed to {name}; the outcome is {report['outcome']}"
            advice = "`results` and `outcomes` of this destination, `reply_to` of the peer that forwarded"
            yield Check("loop: delivered", State.FAIL, found, advice)
            return
        if not self._wait(lambda: all(result["sent_at"] for result in self._results(study_uid))):
            unsent = [result for result in self._results(study_uid) if not result["sent_at"]]
            found = "; ".join(f"{r['role']} {r['state']}: {r['last_comment'] or ''}" for r in unsent)
            yield Check("loop: delivered", State.FAIL, found, "`pacs-node quarantine` lists what failed")
            return
        yield self._done("delivered", f"{len(results)} results to {name}")
        yield self._query(study_uid, results)

    def _query(self, study_uid: str, results: Sequence[dict[str, Any]]) -> Check:
        if self.destination.query_address is None:
            found = f"{self.destination.name} has no AE to query: look for the SR and SC in a viewer"
            return Check("loop: found", State.WARN, found, "name one as `query` of this destination")

        def missing() -> list[str]:
            with query.connect(self.destination, self.settings.node.ae_title) as pacs:
                series = {str(result["series_instance_uid"]) for result in results}
                there = {uid for each in series for uid in pacs.instances(study_uid, each)}
            return [str(r["role"]) for r in results if r["sop_instance_uid"] not in there]

        try:
            if self._wait(lambda: not missing()):
                return self._done("found", f"by C-FIND: {', '.join(sorted(str(r['role']) for r in results))}")
            found = f"stored with success but not found by C-FIND: {', '.join(missing())}"
        except DeliveryError as error:
            found = str(error)
        return Check("loop: found", State.FAIL, found, "does the query AE search the same archive?")

    def _send(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{number}.dcm" for number in range(len(self.images))]
            for path, image in zip(paths, self.images, strict=True):
                image.save_as(path, enforce_file_format=True)
            for _, outcome in sender.send_files(self.destination, self.calling_ae_title, paths):
                if sender.judge(outcome, 1) != DeliveryState.SENT:
                    status = "" if outcome.status is None else f"0x{outcome.status:04X} "
                    raise DeliveryError(f"it does not accept the phantom: {status}{outcome.comment}")

    def _study(self, study_uid: str) -> dict[str, Any]:
        return views.study(self.database, study_uid) or {"instances": [], "reports": [], "results": []}

    def _results(self, study_uid: str) -> list[dict[str, Any]]:
        results = self._study(study_uid)["results"]
        return [result for result in results if result["destination"] == self.destination.name]

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

    def _own_address(self) -> str:
        running = processes.running(self.database)
        address = next((role.address for role in running if role.role == "receive"), "")
        return f"{self.settings.node.ae_title}, port {address.rpartition(':')[2]}"
